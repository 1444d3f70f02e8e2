"""The job file: its schema, how it is read, and what may change in it while a run lives."""
