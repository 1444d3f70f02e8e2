"""What a bare GPU machine needs to run distlth, and the checks of it."""
