"""Neuromodulation: a label sets the level of a modulator, and the level the sign and size of plasticity."""
