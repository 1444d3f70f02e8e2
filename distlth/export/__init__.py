"""Export a ticket: one file with its slim network, checked against the masked one."""
