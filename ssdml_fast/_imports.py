"""What a user names as ``package.module:name``."""

from __future__ import annotations

import importlib
from typing import Any


def find_object(home: str, what: str) -> Any:
    """Import a module and return what has a name in it.

    Parameters
    ----------
    home : str
        ``package.module:name``; the name may have dots.
    what : str
        What it is to be, to begin the message with.

    Raises
    ------
    ValueError
        If the module cannot be imported, whatever it raises, or has no such name.

    Examples
    --------
    >>> find_object("math:sqrt", "function")(4)
    2.0
    >>> find_object("math:root", "function")
    Traceback (most recent call last):
    ValueError: function math:root cannot be loaded: AttributeError: module 'math' has no attribute 'root'
    """
    module, _, name = home.partition(":")
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever a user's module raises
        raise ValueError(f"{what} {home} cannot be loaded: {type(error).__name__}: {error}") from error
    return found
