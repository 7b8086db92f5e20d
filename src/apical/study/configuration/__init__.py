"""What a run is made of: its settings, how they are read, and how open ones are filled in."""
