"""What a run's directory says: derived once here, drawn elsewhere."""
