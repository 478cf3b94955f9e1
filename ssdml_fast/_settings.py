"""Settings as data: what each means and where its limits are, for checks, flags, files and pages alike."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from dataclasses import dataclass, field
from typing import Any

from . import _scalars as scalars

_INTERVAL = re.compile(r"([\[(])([^,]+), ([^\])]+)([\])])")


def setting(
    default: Any,
    help: str,
    *,
    least: int = 0,
    within: str = "",
    choices: tuple[str, ...] = (),
    pattern: str = "",
    form: str = "",
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
    form : str
        What `pattern` says, in words, for pages and errors.

    Returns
    -------
    dataclasses.Field

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Mining(Settings):
    ...     neighbors: int = setting(4, "Neighbours of each example.", least=2)
    >>> Mining(neighbors=1)
    Traceback (most recent call last):
    ValueError: neighbors must be at least 2, found 1
    """
    form = form or (f"of the form {pattern}" if pattern else "a text")
    limits = {"least": least, "within": within, "choices": choices, "pattern": pattern or "(?s:.*)", "form": form}
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
    >>> from dataclasses import dataclass
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


@dataclass(frozen=True)
class Told:
    """What a user is told of a setting.

    Attributes
    ----------
    name : str
        Of the field.
    kind : type
        int, float, str or bool.
    default : int, float, str or bool
        As declared.
    limits : str
        What it may be, in words.
    help : str
        What it means.
    """

    name: str
    kind: type
    default: Any
    limits: str
    help: str


def told(kind: type[Settings]) -> list[Told]:
    """Describe the settings of a class, in the order of their declaration.

    Examples
    --------
    >>> @dataclass(frozen=True)
    ... class Margin(Settings):
    ...     margin: float = setting(0.5, "Distance that is far enough.", within="(0, 2]")
    >>> told(Margin)[0].limits
    'in (0, 2]'
    """
    defaults = {each.name: each.default for each in dataclasses.fields(kind)}
    return [
        Told(name, of, defaults[name], _limits(of, limits), limits["help"])
        for name, (of, limits) in _fields(kind).items()
    ]


def _limits(kind: type, limits: Any) -> str:
    """What a setting may be, in words."""
    if kind is bool:
        return "true or false"
    if kind is int:
        return f"at least {limits['least']}"
    if kind is float:
        return f"in {limits['within']}" if limits["within"] else "any number"
    return ", ".join(map(repr, limits["choices"])) or limits["form"]


def _fields(kind: type[Settings]) -> dict[str, tuple[type, Any]]:
    """The type and the limits of each field."""
    types = typing.get_type_hints(kind)
    fields = {each.name: (types[each.name], each.metadata) for each in dataclasses.fields(kind)}
    for name, (of, limits) in fields.items():
        if of not in (bool, int, float, str) or "help" not in limits:
            raise TypeError(
                f"{kind.__name__}.{name} must be an int, float, str or bool that is declared by "
                "ssdml_fast.train.setting"
            )
    return fields


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
        raise ValueError(f"{name} must be {limits['form']}, found {value!r}")
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
