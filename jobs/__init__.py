"""What a user runs: the `distlth` command, job files, the quick start."""
