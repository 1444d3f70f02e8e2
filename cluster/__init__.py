"""Where a run happens: Ray's session, the coordinator on the head node, and the lanes that train."""
