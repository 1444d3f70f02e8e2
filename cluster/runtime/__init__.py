"""A run on Ray: coordinator, lanes and ranks."""
