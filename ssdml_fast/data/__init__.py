"""Data sets, split for semi-supervised metric learning."""
