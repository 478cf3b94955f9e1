"""The terminal that commands write to."""

from __future__ import annotations

from rich.console import Console


def plain_console(stderr: bool = False) -> Console:
    """Make a console that shows text as it is: a file may be called ``[red]`` or ``:cat:``, which rich would obey.

    Examples
    --------
    >>> plain_console().print("runs/[red]/:cat:.jpg")
    runs/[red]/:cat:.jpg
    """
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)
