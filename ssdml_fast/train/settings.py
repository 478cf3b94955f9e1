"""Settings as data: what each means and where its limits are, for checks, flags, files and pages alike."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from dataclasses import dataclass, field
from typing import Any

from .. import _scalars as scalars

_INTERVAL = re.compile(r"([\[(])([^,]+), ([^\])]+)([\])])")


def setting(
    default: Any, help: str, *, least: int = 0, within: str = "", choices: tuple[str, ...] = (), pattern: str = ""
) -> Any:
    """Declare a field of :class:`Settings`.

    Parameters
    ----------
    default : int, float, str or bool
        Of the type that the field is annotated with.
    help : str
        What the setting means, in a sentence or two.
    least : int
        The least that an integer may be.
    within : str
        Interval of a float, as ``"(0, 1]"``; any finite number by default.
    choices : tuple of str
        The texts that there are.
    pattern : str
        Regular expression of a text that is no choice among few.

    Returns
    -------
    dataclasses.Field
    """
    limits = {"least": least, "within": within, "choices": choices, "pattern": pattern}
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Settings:
    """What a dataclass of settings is made from: it checks the type and the limits of each of its fields.

    Raises
    ------
    TypeError, ValueError
        If a setting is of another type or outside its limits; the message names it.

    Examples
    --------
    >>> @dataclass(frozen=True)
    ... class Margin(Settings):
    ...     margin: float = setting(0.5, "Distance that is far enough.", within="(0, 2]")
    >>> Margin(1).margin
    1.0
    >>> Margin(3)
    Traceback (most recent call last):
    ValueError: margin must be in (0, 2], found 3.0
    """

    def __post_init__(self) -> None:
        for name, (kind, limits) in _fields(type(self)).items():
            object.__setattr__(self, name, _checked(getattr(self, name), name, kind, limits))
        self.check()

    def check(self) -> None:
        """Refuse settings that do not go together; by default there are none."""


def divided(settings: dict[str, Any], first: type[Settings], second: type[Settings]) -> tuple[dict[str, Any], ...]:
    """Divide settings by name between two classes that have no name in common.

    Raises
    ------
    ValueError
        If neither has one of the names.
    """
    parts = tuple({name: settings[name] for name in settings if name in _fields(kind)} for kind in (first, second))
    if unknown := settings.keys() - parts[0].keys() - parts[1].keys():
        raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
    return parts


def _fields(kind: type[Settings]) -> dict[str, tuple[type, Any]]:
    """The type and the limits of each field."""
    types = typing.get_type_hints(kind)
    return {each.name: (types[each.name], each.metadata) for each in dataclasses.fields(kind)}


def _checked(value: Any, name: str, kind: type, limits: Any) -> Any:
    """Return a value as its type, or refuse it."""
    if kind is bool:
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, found {value!r}")
        return value
    if kind is int:
        return scalars.as_int(value, name, limits["least"])
    if kind is float:
        return _in_interval(scalars.as_float(value, name), name, limits["within"])
    if limits["choices"]:
        return scalars.as_choice(value, name, limits["choices"])
    if not isinstance(value, str) or not re.fullmatch(limits["pattern"], value):
        raise ValueError(f"{name} must be of the form {limits['pattern']}, found {value!r}")
    return value


def _in_interval(value: float, name: str, within: str) -> float:
    if not within:
        return value
    left, low, high, right = _INTERVAL.fullmatch(within).groups()  # type: ignore[union-attr]  # ours, not the user's
    above = value >= float(low) if left == "[" else value > float(low)
    below = value <= float(high) if right == "]" else value < float(high)
    if not (above and below):
        if left + right == "()" and math.isfinite(float(high)):
            within = f"between {low} and {high}, both excluded"
        raise ValueError(f"{name} must be {'' if within.startswith('between') else 'in '}{within}, found {value}")
    return value
