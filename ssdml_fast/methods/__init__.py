"""The methods that come with the package, one file each, loaded when used."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from .._imports import find_object

if TYPE_CHECKING:
    from .._settings import Settings
    from ..train.method import Method


class _Home(NamedTuple):
    """Where a method is defined, and its settings, which are read without importing torch."""

    method: str
    settings: str


METHODS = {"ssdml": _Home("ssdml:SSDML", "settings:SSDMLSettings")}


def load_method(name: str | type[Method]) -> type[Method]:
    """Return a method's class.

    Parameters
    ----------
    name : str or type
        A key of ``METHODS``; ``"package.module:Class"``; or the class itself.

    Returns
    -------
    type

    Raises
    ------
    TypeError, ValueError
        If there is no such method, or it is no subclass of :class:`ssdml_fast.train.Method`.

    Examples
    --------
    >>> load_method("ssdml").__name__
    'SSDML'
    """
    found: Any = name
    if isinstance(name, str):
        if name not in METHODS and ":" not in name:
            known, near = ", ".join(METHODS), difflib.get_close_matches(name, METHODS, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"method must be one of {known}, or of the form package.module:Class, found {name!r}{meant}"
            )
        found = find_object(f"{__name__}.{METHODS[name].method}" if name in METHODS else name, "method")

    from ..train.method import Method

    if not (isinstance(found, type) and issubclass(found, Method)):
        raise TypeError(f"method must be a subclass of ssdml_fast.train.Method, found {found!r}")
    return found


def settings_of(name: str | type[Method]) -> type[Settings]:
    """Return the dataclass of a method's settings; see :func:`load_method`. Torch is not imported for those here.

    Raises
    ------
    TypeError, ValueError
        As there, or if it is not made from :class:`ssdml_fast.train.Settings` or has a name that is one of
        :class:`ssdml_fast.train.Config`'s.
    """
    if isinstance(name, str) and name in METHODS:
        return find_object(f"{__name__}.{METHODS[name].settings}", "method")
    method = load_method(name)

    from .._settings import Settings
    from ..train.config import Config

    own = method.Settings
    if not (isinstance(own, type) and issubclass(own, Settings)):
        raise TypeError(f"{method.__name__}.Settings must be a dataclass made from Settings, found {own!r}")
    taken = sorted(own.__dataclass_fields__.keys() & Config.__dataclass_fields__.keys())
    if taken:
        raise TypeError(f"{own.__name__} must have no setting of Config's, found {', '.join(taken)}")
    return own


def name_of(method: type[Method]) -> str:
    """Return the name by which :func:`load_method` finds a class again.

    Examples
    --------
    >>> name_of(load_method("ssdml"))
    'ssdml'
    """
    home = f"{method.__module__}:{method.__qualname__}"
    names = (name for name, each in METHODS.items() if home == f"{__name__}.{each.method}")
    return next(names, home)


def about(method: type[Method]) -> tuple[str, str]:
    """Return the first line of a method's docstring, and what its paragraph ``Source: ...`` says; empty where missing.

    Examples
    --------
    >>> about(load_method("ssdml"))[1]
    'Dutta, Harandi, Sekhar, "Semi-Supervised Metric Learning: A Deep Resurrection", AAAI 2021.'
    """
    paragraphs = [" ".join(each.split()) for each in inspect.cleandoc(method.__doc__ or "").split("\n\n")]
    sources = (each.removeprefix("Source: ") for each in paragraphs if each.startswith("Source: "))
    return paragraphs[0], next(sources, "")
