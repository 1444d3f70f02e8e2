"""What a run's directory says: read and derived once here, drawn elsewhere."""
