"""Tables in the terminal."""

from __future__ import annotations

from rich.table import Table

from ..evaluate import RECALL_KS
from ..runs.figures import HeldOut, percent


def figures_table(title: str, figures: dict[str, dict[str, float | None]]) -> Table:
    """Lay out the figures of :func:`ssdml_fast.evaluate.report_embedding`, one row per embedding, as percentages."""
    table = Table(title=title, title_justify="left")
    table.add_column("embedding", no_wrap=True)
    for heading in ("NMI", *(f"R@{k}" for k in RECALL_KS), "MAP@R", "silh."):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in figures.items():
        table.add_row(name, *map(percent, row.values()))
    return table


def held_out_table(held_out: HeldOut) -> Table:
    """Lay out the figures on test images."""
    return figures_table(f"{len(held_out.labels)} held-out test images, %", held_out.figures)
