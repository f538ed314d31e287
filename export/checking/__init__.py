"""Exported files held to their test data, on any runtime."""
