"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..evaluate import RECALL_KS
from ..runs.figures import FEATURES, HeldOut, percent


def figures_table(title: str, figures: dict[str, dict[str, float | None]], notes: Iterable[str] = ()) -> Table:
    """Lay out the figures of :func:`ssdml_fast.evaluate.report_embedding`, one row per embedding, as percentages.

    Notes are put below, a line each.
    """
    caption = Text("\n".join(notes)) or None  # as it is, markup or not, on whatever console
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("embedding", overflow="fold")  # a long name takes lines, so that no figure is cut
    for heading in ("NMI", *(f"R@{k}" for k in RECALL_KS), "MAP@R", "silh."):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in figures.items():
        table.add_row(Text(name), *map(percent, row.values()))
    return table


def held_out_table(held_out: HeldOut) -> RenderableType:
    """Lay out the figures on test examples, or say that there are none."""
    if not held_out.figures:
        return "no test part: there are no figures on held-out examples"
    what = "examples" if FEATURES in held_out.figures else "images"
    n = len(held_out.labels)
    return figures_table(f"{n} held-out test {what[:-1] if n == 1 else what}, %", held_out.figures, held_out.notes)
