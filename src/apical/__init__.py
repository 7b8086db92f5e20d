"""Any PyTorch network, learning by the brain's rules instead of backpropagation, measured honestly."""
