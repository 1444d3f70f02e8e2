"""Benchmarks of what needs Ray: each module measures one part and returns its figures as plain rows."""
