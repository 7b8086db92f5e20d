"""Training a network by a rule: the loop, the session in a run folder, evaluation."""
