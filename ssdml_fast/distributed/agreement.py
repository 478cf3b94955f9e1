"""What every process is told before and during work that all of them take part in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .._world import World
from ..exceptions import ProcessError, RangeError

Value = TypeVar("Value")
ARGUMENT_ERRORS = (RangeError, TypeError, ValueError)


def everywhere(world: World, work: Callable[[], Value]) -> list[Value]:
    """Do something in every process, and get what it gives in each, in order of rank.

    Raises
    ------
    TypeError, ValueError
        In every process, if it does in one: the first of those that fail, whose rank the message names.
    ProcessError
        In the others, if one fails by something else.
    """
    if world.size == 1:
        return [work()]
    value: Any = None
    own: Exception | None = None
    try:
        value = work()
    except Exception as error:
        own = error
    told = world.every((value, None if own is None else _told(own)))
    for rank, (_, failure) in enumerate(told):
        if failure is None:
            continue
        kind, message = failure
        if kind in ARGUMENT_ERRORS:
            raise kind(f"{message}, on rank {rank}") from own
        if own is not None:
            raise own
        raise ProcessError(f"process {rank} of {world.size} failed: {message}")
    return [each for each, _ in told]


def the_same(values: Sequence[Value], expected: str, kind: type[Exception] = ValueError) -> Value:
    """What all processes hold; refuses any difference between them.

    Examples
    --------
    >>> the_same([3, 3], "k must be the same")
    3
    >>> the_same([3, 4], "k must be the same")
    Traceback (most recent call last):
    ValueError: k must be the same on every rank, found 3 on rank 0 and 4 on rank 1
    """
    for rank, value in enumerate(values):
        if value != values[0]:
            raise kind(f"{expected} on every rank, found {values[0]} on rank 0 and {value} on rank {rank}")
    return values[0]


def _told(error: Exception) -> tuple[type[Exception], str]:
    """What the others are told of an error: the type, where it says what is wrong with an argument, and the message."""
    for kind in ARGUMENT_ERRORS:
        if isinstance(error, kind):
            return kind, str(error)
    return ProcessError, f"{type(error).__name__}: {error}"
