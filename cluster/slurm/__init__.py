"""Runs on a SLURM cluster: submitting, watching, and what the tasks of an allocation do."""
