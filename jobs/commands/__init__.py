"""The commands of `distlth`, one file each: `add` adds its parser, a function runs it."""
