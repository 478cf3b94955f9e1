"""Runs: the folder of one, what it was trained on, its models, and its figures on held-out data."""
