"""Scoring a corpus, item by item and exactly."""
