"""The run directory on disk: file names, opening and checking, lock, event log, results."""
