"""The options of ``ssdml-fast train``: its own, the settings of every method, and those of the method that is named."""

from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from .._settings import Settings, told
from ..data.settings import DataSettings
from ..methods import settings_of
from ..models.settings import NetworkSettings
from ..runs.folder import RunFolder
from ..train.config import Config
from ..train.stored import read_run
from .config_file import ConfigFile, of_methods
from .processes import once
from .settings import errors_told, parameters_of, with_settings
from .train import CALLS, METHOD, train

APART = (*CALLS, "context", "config_file", "method")  # parameters of the command that a file's top does not set
OWN = {
    each.name: int if int in typing.get_args(each.annotation) else str
    for each in parameters_of(train)
    if each.name not in APART
}
SHARED = {"The data": DataSettings, "The network": NetworkSettings, "Settings of every method": Config}
AT_THE_TOP = OWN | {each.name: each.kind for kind in SHARED.values() for each in told(kind)}
"""Name and type of what a file can set beside the settings of a method."""


class TrainCommand(TyperCommand):
    """Finds the method in ``--method``, the file of ``--config`` or the run of ``--resume``, and only then parses."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse arguments as the command of the method does; settings of a file are its defaults."""
        with errors_told():
            file, run = value_of("--config", args), value_of("--resume", args)
            config = None if file is None else ConfigFile(Path(file))
            method = value_of("--method", args) or (config.method if config else None)
            if method is None:
                method = METHOD if run is None else once(lambda: read_run(RunFolder(run)).method)
            kind = settings_of(method)
            refuse_names(method, kind)
            refuse_flags_of_others(method, kind, args)
            if config:
                extra["default_map"] = config.settings(method, kind, AT_THE_TOP)
                if config.method:
                    extra["default_map"]["method"] = config.method
        app = typer.Typer(add_completion=False, rich_markup_mode="rich")
        app.command()(train_by(method))
        return typer.main.get_command(app).make_context(info_name, args, parent, **extra)


def train_by(method: str) -> Callable[..., Any]:
    """Return the command with the settings of a method, and those of every method, as options."""
    data, network, every = SHARED.items()
    return with_settings(train, dict((data, network, (f"Settings of {method}", settings_of(method)), every)))


def value_of(option: str, args: list[str]) -> str | None:
    """Return what arguments give for an option, the last time; None if nothing."""
    found = None
    for i, arg in enumerate(args):
        if arg == "--":
            break
        if arg == option:
            found = args[i + 1] if i + 1 < len(args) else None
        elif arg.startswith(f"{option}="):
            found = arg.removeprefix(f"{option}=")
    return found


def refuse_names(method: str, kind: type[Settings]) -> None:
    """Refuse a method with settings that could not be told from others."""
    taken = {each.name for each in told(kind)} & {*AT_THE_TOP, *APART, "config", "help", "name"}
    if taken:
        raise ValueError(f"method {method} must have settings of other names, found {', '.join(sorted(taken))}")


def refuse_flags_of_others(method: str, kind: type[Settings], args: list[str]) -> None:
    """Refuse a flag that other methods have, and say which."""
    own = {each.name for each in told(kind)}
    for arg in args[: args.index("--")] if "--" in args else args:
        name = arg.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
        if arg.startswith("--") and name not in own and (of := of_methods(name)):
            raise ValueError(f"--{name.replace('_', '-')} must be a setting of {method}, found one of {of}")
