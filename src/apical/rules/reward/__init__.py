"""Learning from a scalar reward."""
