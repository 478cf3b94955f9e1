"""Charts of a report: numbers and names in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import ACCENT, DASHES, QUIET, RUNS, WIDTH, new_figure, styled

MEASURED = {
    "loss": "loss",
    "val_nmi": "validation NMI, %",
    "val_recall@1": "validation R@1, %",
}  # of a record: its title
WRITTEN = 20  # classes at most whose confusion is written out in figures


@styled
def draw_convergence(histories: dict[str, list[dict[str, Any]]], kept: dict[str, dict[str, Any]]) -> Figure:
    """Draw loss, NMI and R@1 by validation, as far as there are any.

    Parameters
    ----------
    histories : dict of list of dict
        By name of the run, the records of its validations; the first run is drawn over the others, with its rounds as
        bands. At least one record has one of the three.
    kept : dict of dict
        By name of the run, the record of the model that it keeps; marked by a star.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = new_figure(WIDTH, 3.4 if len(histories) == 1 else 3.7)
    titles = {
        key: title
        for key, title in MEASURED.items()
        if any(record.get(key) is not None for history in histories.values() for record in history)
    }
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    for panel, (key, title) in zip(panels, titles.items(), strict=True):
        factor = 1 if key == "loss" else 100
        for i, (name, history) in enumerate(histories.items()):
            records = [record for record in history if record.get(key) is not None]
            numbers, values = [r["validation"] for r in records], [factor * r[key] for r in records]
            main = i == 0
            panel.plot(
                numbers, values, color=RUNS[i % len(RUNS)], label=name, zorder=3 if main else 2,
                linestyle=DASHES[i % len(DASHES)], linewidth=2 if main else 1.3,
                marker="o" if len(numbers) < 30 else "", markersize=3.5 if main else 2.5,
            )  # fmt: skip
            if kept[name].get(key) is not None:
                panel.plot(
                    kept[name]["validation"], factor * kept[name][key], "*", color=RUNS[i % len(RUNS)],
                    markersize=13 if main else 9, markeredgecolor="white", zorder=4,
                )  # fmt: skip
        first = next(iter(histories.values()))
        rounds = [(r["round"], r["validation"]) for r in first if r.get("round")]  # 0: the warm-up
        for number in {number for number, _ in rounds if number % 2 == 0}:
            numbers = [validation for other, validation in rounds if other == number]
            panel.axvspan(min(numbers) - 0.5, max(numbers) + 0.5, color="#f4f6f9", zorder=0)
        panel.set(title=title, xlabel="validation")
        panel.grid(axis="y")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    if len(histories) > 1:
        handles, names = panels[-1].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)))
    return figure


@styled
def draw_sensitivity(points: Sequence[tuple[float, float, float]], chosen: float) -> Figure:
    """Draw validation NMI and R@1 against alpha.

    Parameters
    ----------
    points : sequence of (alpha, NMI, R@1)
        One per run: degrees, and shares in [0, 1]. A line joins the means of the runs of each alpha.
    chosen : float
        The alpha of the run reported on, which is marked.

    Returns
    -------
    matplotlib.figure.Figure
    """
    alpha, *figures = np.array(points, float).T
    figure = new_figure(8.5, 3.3)
    for panel, values, name in zip(figure.subplots(1, 2), figures, ("NMI", "R@1"), strict=True):
        values = 100 * values
        of = np.unique(alpha)
        means = [values[alpha == a].mean() for a in of]
        panel.axvline(chosen, color=QUIET, linewidth=1, linestyle=":", zorder=1)
        panel.plot(of, means, color=ACCENT, linewidth=2, zorder=2)
        panel.scatter(alpha, values, s=34, color=ACCENT, edgecolors="white", linewidths=0.8, zorder=3)
        panel.set(title=f"validation {name}, %", xlabel="α, degrees", xticks=of)
        panel.margins(x=0.08, y=0.25)
        panel.grid(axis="y")
    return figure


@styled
def draw_confusion(counts: dict[str, np.ndarray], classes: tuple[str, ...]) -> Figure:
    """Draw which classes are taken for which, as shares of each true class.

    Parameters
    ----------
    counts : dict of (C, C) integer arrays
        Title of each panel, and how many examples of each true class (row) were given each class (column).
    classes : tuple of str
        Names of the C classes; written at the axes where there are at most 20.

    Returns
    -------
    matplotlib.figure.Figure
    """
    written = len(classes) <= WRITTEN
    size = max(4.4, 0.38 * len(classes) + 1) if written else 4.8
    columns = min(len(counts), int((WIDTH - 0.7) / size))
    rows = -(-len(counts) // columns)
    figure = new_figure(size * columns + 0.7, (size + 0.4) * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (title, matrix) in zip(panels, counts.items(), strict=True):
        shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        image = panel.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
        panel.set(title=title, xlabel="propagated class")
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        if written:
            places, long = range(len(classes)), max(map(len, classes)) > 2
            panel.set_xticks(places, classes, rotation=90 if long else 0)
            panel.set_yticks(places, classes)
            for i, j in np.argwhere(shares >= 0.5):
                panel.text(
                    j, i, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=8,
                    color="white" if shares[i, j] > 55 else "#2b3340",
                )  # fmt: skip
    for panel in panels[::columns]:
        panel.set_ylabel("true class")
    figure.colorbar(image, ax=figure.axes, shrink=0.75, pad=0.02, label="% of the true class").outline.set_visible(
        False
    )
    return figure


@styled
def draw_times(seconds: dict[str, float]) -> Figure:
    """Draw the seconds of each stage as bars.

    Parameters
    ----------
    seconds : dict of float
        By name of the stage, in the order in which they are drawn.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = new_figure(8.5, 0.34 * len(seconds) + 0.7)
    panel = figure.subplots()
    total = sum(seconds.values())
    panel.barh(list(seconds), list(seconds.values()), color=ACCENT, height=0.62)
    for i, value in enumerate(seconds.values()):
        share = f"{100 * value / total:.1f}%" if total else ""
        panel.text(value + 0.008 * max(seconds.values()), i, f"{value:,.2f} s   {share}", va="center", fontsize=9)
    panel.invert_yaxis()
    panel.set(xlabel="seconds")
    panel.margins(x=0.18)
    panel.grid(axis="x")
    panel.tick_params(axis="y", length=0)
    return figure
