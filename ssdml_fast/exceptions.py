"""Warnings of the package."""

__all__ = ["ConvergenceWarning"]


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it reached the tolerance asked for; the message says what was reached."""
