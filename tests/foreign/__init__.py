"""Networks of other codes: read, fitted, imported, and written again."""
