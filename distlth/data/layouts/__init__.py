"""Images as people have them: one file a layout."""
