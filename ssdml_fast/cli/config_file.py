"""The TOML file of ``--config``: settings of every method at the top, those of the method under ``[method]``."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .._settings import Settings, told
from ..methods import METHODS, settings_of

KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


class ConfigFile:
    """What a file says.

    Parameters
    ----------
    path : path
        The file.

    Attributes
    ----------
    method : str or None
        Name of the method, if the file has one.

    Raises
    ------
    ValueError
        If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.top: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, RecursionError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"config {path} cannot be read: {error}") from None
        self.table: Any = self.top.pop("method", {})
        if not isinstance(self.table, dict):
            raise ValueError(
                f'config {path} must give the method as a table, [method] with name = "...", found {self.table!r}'
            )
        self.method: str | None = self.table.pop("name", None)
        if not isinstance(self.method, str | None):
            raise ValueError(f"config {path} must give a text for name under [method], found {self.method!r}")

    def settings(self, method: str, kind: type[Settings], others: dict[str, type]) -> dict[str, str]:
        """Return all settings by name, as texts, for a command line to take.

        Parameters
        ----------
        method : str
            Name of the method.
        kind : type
            Of its settings; they stand under ``[method]``, or at the top, where files of versions before 0.3.0 have
            them.
        others : dict
            Name and type of what else can be set, at the top.

        Raises
        ------
        ValueError
            If there is no such setting, it stands in another place, stands twice, or is of another type.
        """
        own = {each.name: each.kind for each in told(kind)}
        for name in self.table.keys() & others.keys():
            raise ValueError(f"config {self.path} has {name} under [method]; it belongs above, at the top")
        for names, known, where in ((self.table, own, " under [method]"), (self.top, own | others, "")):
            for name in names.keys() - known.keys():
                if have := of_methods(name):
                    raise ValueError(f"config {self.path} has {name}{where}, a setting of {have}, not of {method}")
                raise ValueError(f"config {self.path} has an unknown setting {name!r}{where}; {hint(name, known)}")
        if twice := sorted(self.table.keys() & self.top.keys()):
            raise ValueError(f"config {self.path} has {twice[0]} twice, under [method] and at the top")
        values = self.top | self.table
        for name, value in values.items():
            of = (own | others)[name]
            if name == "labels_per_class" and type(value) is int:
                continue  # a number is as good as its text
            if type(value) is not of and not (of is float and type(value) is int):
                raise ValueError(f"config {self.path} must give {KINDS[of]} for {name}, found {value!r}")
        return {name: str(value) for name, value in values.items()}


def of_methods(name: str) -> str:
    """List the methods that come with the package and have a setting; empty if none has."""
    return ", ".join(method for method in METHODS if name in {each.name for each in told(settings_of(method))})


def hint(name: str, known: Iterable[str]) -> str:
    """What an unknown name may have been meant to be."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
