"""Checkpoints of other codes: read without running them, fitted to our networks, left as a run."""
