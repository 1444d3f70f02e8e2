"""Execution of tickets: engines that run a regrouped network as its dense blocks."""
