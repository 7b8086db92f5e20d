"""Hebbian learning."""
