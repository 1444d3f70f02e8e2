"""Loads batches from FFCV files."""
