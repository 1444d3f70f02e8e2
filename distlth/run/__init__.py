"""A run on disk: its job file, its plan, its files and what its jobs leave."""
