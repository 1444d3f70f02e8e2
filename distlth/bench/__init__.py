"""Benchmarks: each module measures one part of distlth and returns its figures as plain rows."""
