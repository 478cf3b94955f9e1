"""The commands of ``ssdml-fast`` under one name."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .. import __version__
from .evaluate import evaluate
from .flags import TrainCommand, train_by
from .methods import methods
from .processes import Commands
from .report import report
from .train import METHOD

app = typer.Typer(
    cls=Commands, help="Semi-supervised deep metric learning.", no_args_is_help=True, add_completion=False,
    rich_markup_mode="rich",
)  # fmt: skip
app.command(cls=TrainCommand)(train_by(METHOD))
for command in (evaluate, report, methods):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    if "" not in sys.path:
        sys.path.append("")  # the folder where a method of one's own may lie; last, so that it hides no other module
