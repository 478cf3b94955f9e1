"""What commands share: settings as options and from a TOML file, and errors in one line."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import tomllib
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ..methods.settings import SSDMLSettings
from ..runs.folder import RunError
from ..train.config import Config

CALLS = ("resume", "tensorboard")  # options of one call of the command, not of the training


@contextmanager
def errors_told() -> Iterator[None]:
    """Turn errors about what the user gave into one clear line and exit status 2."""
    try:
        yield
    except (ImportError, MemoryError, RunError, TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None


def with_settings(function: Any) -> Any:
    """Replace the `**settings` of a command by one option for each setting of the method and of the training."""
    types = typing.get_type_hints(SSDMLSettings) | typing.get_type_hints(Config)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[types[field.name], typer.Option(help=field.metadata["help"])],
        )
        for field in (*dataclasses.fields(SSDMLSettings), *dataclasses.fields(Config))
    ]
    signature = inspect.signature(function, eval_str=True)
    fixed = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=[*fixed, *options])
    function.__annotations__ = {p.name: p.annotation for p in [*fixed, *options]}
    return function


def read_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Make the settings of a TOML file the defaults of the command."""
    if path is None:
        return None
    with errors_told():
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"config {path} cannot be read: {error}") from None
        options = {p.name: p for p in context.command.params}
        known = options.keys() - {*CALLS, "config_file", "help"}
        for name, value in settings.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                told = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
                raise ValueError(f"config {path} has an unknown setting {name!r}; {told}")
            is_flag = getattr(options[name], "is_flag", False)
            if not isinstance(value, bool if is_flag else (str, int, float)) or isinstance(value, bool) != is_flag:
                kind = "true or false" if is_flag else "a number or a text"
                raise ValueError(f"config {path} must give {kind} for {name}, found {value!r}")
    context.default_map = {name: str(value) for name, value in settings.items()}  # text, so that 1.5 is no integer
    return path
