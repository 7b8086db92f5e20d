"""Learning by dendrites of pyramidal neurons."""
