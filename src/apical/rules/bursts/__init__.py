"""Burst-dependent learning."""
