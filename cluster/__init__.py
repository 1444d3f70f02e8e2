"""Distributed runs: under Ray (`runtime`), on SLURM clusters (`slurm`), and their benchmarks (`bench`)."""
