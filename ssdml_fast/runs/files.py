"""Files of a run folder: a crash never leaves half of one, and a damaged one is one clear error."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from .._files import replace_atomically
from ..exceptions import first_line

DIGITS = 300  # of an integer at most, which a float can hold


class RunError(Exception):
    """A run folder that cannot be read or written; the message says which file and why."""


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a new file, then put it in the place of `path` in one step.

    As :func:`ssdml_fast._files.replace_atomically`.

    Raises
    ------
    RunError
        If the file cannot be written, as on a full disk; what was at `path` is still there.
    """
    try:
        replace_atomically(path, write)
    except (OSError, RuntimeError) as error:
        # torch's RuntimeError says of a full disk where in the file it was
        told = error.__context__ if isinstance(error.__context__, OSError) else error
        raise RunError(f"{path} cannot be written: {getattr(told, 'strerror', None) or first_line(told)}") from error


def to_json(content: Any, indent: int | None = None) -> str:
    """Write JSON, in which every number is finite."""
    return json.dumps(content, indent=indent, allow_nan=False)


def from_json(text: str) -> Any:
    """Read JSON in which every number is finite and within the range of floats.

    Raises
    ------
    ValueError
        If `text` is none.
    """
    try:
        return json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number; a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def error_told(error: Exception) -> str:
    """What an error is, and the first line of what it says."""
    return f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__


def _integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number is {text}")
    return value
