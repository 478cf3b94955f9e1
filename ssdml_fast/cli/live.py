"""What a terminal shows while a training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class Live:
    """A line for each validation, and in a terminal below them a bar that moves with every mini-batch.

    Parameters
    ----------
    console : rich.console.Console
        Where to show it.
    clock : callable
        Seconds since some start.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._began, self._first = clock(), -1.0  # validations made when this began: more than 0 if resumed
        self._batches: tuple[int, int, float] | None = None  # validation, examples and time at the first mini-batch
        self._bar = Progress(
            TextColumn("validation {task.fields[number]} of {task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            console=console,
            expand=True,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("embedding", total=None, number=0, visible=False)

    def __enter__(self) -> Live:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bar.disable:  # versions of rich print an empty line even then
            self._bar.stop()

    def batch(self, record: dict[str, Any]) -> None:
        """Move the bar; `on_batch` of :func:`ssdml_fast.train.fit`."""
        now, examples = self._clock(), record["examples"]
        if self._batches is None or self._batches[0] != record["validation"]:
            self._batches = record["validation"], examples, now
        _, before, then = self._batches
        rate = f"{(examples - before) / (now - then):,.0f} examples/s  " if now > then and examples > before else ""
        position = record["validation"] - 1 + record["done"] / record["batches"]
        self._bar.update(
            self._task, completed=position, total=record["planned"], number=record["validation"], visible=True,
            description=f"loss {record['loss']:.4f}  {rate}{self._left(position, record)}",
        )  # fmt: skip

    def validation(self, record: dict[str, Any]) -> None:
        """Print the validation's line; `on_validation` of :func:`ssdml_fast.train.fit`."""
        where, rate = f"{'untrained':<36}", ""
        if record["validation"]:
            where = f"{_place(record):<20}  loss {record['loss']:.4f}  "
            rate = f"  {record['examples'] / max(record['seconds']['train'], 1e-9):,.0f} examples/s"
        figures = ""
        if "score" in record:
            figures = f"NMI {100 * record['val_nmi']:5.1f}  R@1 {100 * record['val_recall@1']:5.1f}"
        line = f"validation {record['validation']:>2} of {record['planned']}  {where}{figures}{rate}".rstrip()
        left = self._left(record["validation"], record)
        self._console.print(f"{line}  {left}".rstrip(), highlight=False, soft_wrap=True)

    def _left(self, position: float, record: dict[str, Any]) -> str:
        """Time until the last that is planned, if each takes what one took so far; training may well stop earlier."""
        if self._first < 0:
            self._first = max(record["validation"] - 1, 0)
        if position <= self._first or position >= record["planned"]:
            return ""
        each = (self._clock() - self._began) / (position - self._first)
        return f"{timedelta(seconds=round(each * (record['planned'] - position)))} left"


def _place(record: dict[str, Any]) -> str:
    """Where in the training a validation is."""
    if not record["round"]:
        return "warm-up"
    return f"round {record['round']}" + (f"  partition {record['partition']}" if record.get("partition") else "")
