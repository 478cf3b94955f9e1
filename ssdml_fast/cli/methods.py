"""``ssdml-fast methods``: the methods of training that there are, and the settings of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from .settings import errors_told


def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A method, of the list or as package.module:Class; its settings are listed.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """List the methods to train by, each in one line with its source; or the settings of one."""
    with errors_told():
        from .._settings import told
        from ..methods import METHODS, about, load_method

        told_of = {each: about(load_method(each)) for each in ([name] if name else METHODS)}
        rows = told(load_method(name).Settings) if name else []
    width = max(map(len, told_of))
    for method, (line, source) in told_of.items():
        typer.echo(f"{method:{width}}  {line}".rstrip())
        if source:
            typer.echo(f"{'':{width}}  Source: {source}")
    if rows:
        cells: list[tuple[str, ...]] = [("setting", "default", "limits", "meaning")]
        cells += [(each.name, str(each.default), each.limits, each.help) for each in rows]
        typer.echo("")
        typer.echo("\n".join(aligned(cells)))


def aligned(rows: list[tuple[str, ...]]) -> Iterable[str]:
    """Lay out rows in columns as wide as what they hold, whatever the terminal's width: nothing is cut."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
