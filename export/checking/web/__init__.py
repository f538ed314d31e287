"""Graphs in JavaScript: the page that runs them in a browser, and what runs them under Node."""
