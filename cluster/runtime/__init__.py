"""Runs under Ray: the process of the command, the process that holds Ray, coordinator, lanes and ranks."""
