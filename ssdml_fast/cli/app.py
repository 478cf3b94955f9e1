"""The commands ``ssdml-fast train``, ``ssdml-fast evaluate`` and ``ssdml-fast report`` under one name."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from .evaluate import evaluate
from .report import report
from .train import train

app = typer.Typer(
    help="Semi-supervised deep metric learning.", no_args_is_help=True, add_completion=False, rich_markup_mode="rich"
)
for command in (train, evaluate, report):
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
    pass
