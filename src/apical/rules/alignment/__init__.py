"""Backpropagation, and the rules whose feedback is not the transpose of the forward weights."""
