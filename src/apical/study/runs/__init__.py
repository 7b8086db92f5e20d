"""The folder of a run: its files, checkpoints, results, and what it shows while it trains."""
