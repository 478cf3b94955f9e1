"""Validates numbers and choices; needs neither the kernels nor a library of arrays beside NumPy."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np


def as_int(value: Any, name: str, low: int, high: int | None = None, why: str = "") -> int:
    """Return `value` as a Python int in [low, high]; refuses booleans, fractions and values outside."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, found {value!r}") from None
    if number < low or (high is not None and number > high):
        span = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {span}{why}, found {number}")
    return number


def as_float(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a finite Python float strictly between `low` and `high`; refuses booleans and strings."""
    try:
        if isinstance(value, (bool, np.bool_, str, bytes)):
            raise TypeError
        number = float(value)
    except OverflowError:  # of an integer
        number = math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, found {value!r}") from None
    if not (math.isfinite(number) and low < number < high):
        if low == -math.inf and high == math.inf:
            span = "finite"
        else:
            span = f"greater than {low:g}" if high == math.inf else f"between {low:g} and {high:g}, both excluded"
        raise ValueError(f"{name} must be {span}, found {number}")
    return number


def as_threads(value: Any) -> int | None:
    """Return `value` where it is a number of threads or None, which leaves that to the kernels."""
    return None if value is None else as_int(value, "num_threads", 1, 4096)


def as_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """Return `value` where it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, found {value!r}")
    return value


def as_callable(value: Any, name: str) -> Any:
    """Return `value` where it can be called or is None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable or None, found {value!r}")
    return value
