"""Warnings and errors of the package."""

__all__ = ["ConvergenceWarning", "RangeError"]


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it reached the tolerance asked for; the message says what was reached."""


class RangeError(ValueError):
    """Numbers that are NaN or infinite, or too large for what is computed of them to fit their type.

    In a training, those of an embedding that diverges.
    """
