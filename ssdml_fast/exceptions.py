"""Warnings and errors of the package."""

__all__ = ["ConvergenceWarning", "ProcessError", "RangeError"]


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it reached the tolerance asked for; the message says what was reached."""


class ProcessError(RuntimeError):
    """Processes that were to work together do not: one of them failed or ended; the message says which, and why."""


class RangeError(ValueError):
    """Numbers that are NaN or infinite, or too large for what is computed of them to fit their type.

    In a training, those of an embedding that diverges.
    """


def is_of_memory(error: BaseException) -> bool:
    """Whether too little memory is the reason of an error, on whatever device; few libraries have a type for it.

    Examples
    --------
    >>> is_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")), is_of_memory(RuntimeError())
    (True, False)
    """
    said = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(text in str(error) for text in said)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or what it is where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
