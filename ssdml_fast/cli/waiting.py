"""A bar while one waits for something that says how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def waiting(console: Console, what: str) -> Iterator[Callable[[float], None]]:
    """Show a bar in a terminal, and lend a function that moves it to a share done."""
    columns = TextColumn("{task.description}"), BarColumn(bar_width=None), TimeRemainingColumn()
    bar = Progress(*columns, console=console, expand=True, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=1.0, visible=False)
    if not bar.disable:
        bar.start()
    try:
        yield lambda share: bar.update(task, completed=share, visible=True)
    finally:
        if not bar.disable:  # versions of rich print an empty line even then
            bar.stop()
