"""Rules that settle: predictive coding and equilibrium propagation."""
