"""The methods that come with the package, one file each, loaded when used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..train.method import Method
    from ..train.settings import Settings


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
    from ..train.method import Method

    found = _find(f"{__name__}.{METHODS[name].method}") if name in METHODS else name
    if isinstance(found, str):
        if ":" not in found:
            known = ", ".join(METHODS)
            raise ValueError(f"method must be one of {known}, or of the form package.module:Class, found {found!r}")
        found = _find(found)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise TypeError(f"method must be a subclass of ssdml_fast.train.Method, found {found!r}")
    return found


def settings_of(name: str | type[Method]) -> type[Settings]:
    """Return the dataclass of a method's settings; see :func:`load_method`. Torch is not imported for those here."""
    if name in METHODS:
        return _find(f"{__name__}.{METHODS[name].settings}")
    return load_method(name).Settings


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


def _find(home: str) -> type:
    module, _, name = home.partition(":")
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"method {home} cannot be found: {error}") from error
    return found  # type: ignore[return-value]
