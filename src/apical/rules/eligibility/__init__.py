"""Eligibility: synapses remember by traces what they did, and a learning signal makes a weight change of it."""
