"""What commands share: settings as options, and errors in one line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.markup import escape

from .._settings import Settings, told
from ..exceptions import first_line, is_of_memory
from ..runs.folder import RunError


@contextmanager
def errors_told() -> Iterator[None]:
    """Turn errors about what the user gave, and what the machine lacks, into one clear line and exit status 2."""
    try:
        yield
    except BrokenPipeError:  # of a terminal that reads no further
        raise
    except (ImportError, MemoryError, OSError, RunError, TypeError, ValueError) as error:
        raise typer.BadParameter(_line(error)) from None
    except RuntimeError as error:
        if not is_of_memory(error):
            raise
        raise typer.BadParameter(_line(error)) from None


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ImportError):
        return f"{error.filename or 'the system'}: {error.strerror}"
    if is_of_memory(error) and "memory" not in str(error):
        return "there is too little memory" + f": {first_line(error)}" * bool(str(error))
    return str(error)


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """A command's own parameters, without its `**settings`."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [each for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]


def with_settings(function: Callable[..., Any], panels: dict[str, type[Settings]]) -> Callable[..., Any]:
    """Return a command with one option for each setting in place of its `**settings`.

    Parameters
    ----------
    function : callable
        The command.
    panels : dict
        Classes of settings by the heading that their options have in ``--help``.
    """

    def command(**given: Any) -> Any:
        return function(**given)

    options = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.default,
            annotation=Annotated[each.kind, typer.Option(help=escape(each.help), rich_help_panel=panel)],
        )
        for panel, kind in panels.items()
        for each in told(kind)
    ]
    parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters_of(function)), *options]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command
