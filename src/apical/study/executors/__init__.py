"""Running many jobs at a time."""
