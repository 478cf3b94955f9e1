"""Maps of embeddings, side by side in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ..runs.figures import AFTER, BEFORE, HeldOut, percent
from .style import CLASSES, QUIET, WIDTH, new_figure, styled

LEAST = 4  # points at least in a map: t-SNE wants some neighbours for each
DRAWN = 2000  # points at most in a map: t-SNE of more takes minutes
NAMED = 20  # classes at most to tell apart by colour


@styled
def draw_maps(embeddings: dict[str, np.ndarray], labels: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Draw one t-SNE map per embedding, points coloured by class, the class's name at their median.

    Parameters
    ----------
    embeddings : dict of (N, d) arrays
        Title of each map, and the embedding to draw in it; N at least :data:`LEAST`, and few enough
        to wait for (:data:`DRAWN` take a few seconds a map).
    labels : (N,) integer array
        Class of each point, an index of `classes`; -1: not known.
    classes : tuple of str
        Name of each class.

    Returns
    -------
    matplotlib.figure.Figure
        At most three maps a row.
    """
    from sklearn.manifold import TSNE  # deferred: scikit-learn takes a second to import

    columns = min(3, len(embeddings))
    rows = -(-len(embeddings) // columns)
    side = (WIDTH - 1) / max(columns, 2)
    figure = new_figure(side * columns + 1, (side + 0.45) * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(embeddings) :]:
        panel.set_axis_off()

    present = np.unique(labels[labels >= 0])
    colours = _colours(len(present))
    for panel, (title, embedding) in zip(panels, embeddings.items(), strict=False):
        perplexity = min(30, (len(labels) - 1) / 3)
        has_two = embedding.shape[1] > 1 and np.ptp(embedding, axis=0).any()  # directions to begin with
        start = "pca" if has_two else "random"  # principal components of a single point are NaN, of which t-SNE dies
        plane = TSNE(perplexity=perplexity, init=start, random_state=0).fit_transform(embedding)
        if (unknown := plane[labels < 0]).size:
            panel.scatter(*unknown.T, s=9, color=[QUIET], alpha=0.6, linewidths=0, label="unknown")
        for c, colour in zip(present, colours, strict=True):
            points = plane[labels == c]
            panel.scatter(*points.T, s=9, color=[colour], alpha=0.85, linewidths=0, label=classes[c])
            if len(present) <= NAMED:
                x, y = np.median(points, axis=0)
                panel.text(
                    x, y, classes[c], ha="center", va="center", fontsize=9, fontweight="bold", color="#1f2630",
                    path_effects=[withStroke(linewidth=2.5, foreground="white", alpha=0.85)],
                )  # fmt: skip
        panel.set(title=title, xticks=[], yticks=[])
        panel.set_aspect("equal", adjustable="datalim")
        panel.spines[:].set(visible=True, color="0.85")
    if 0 < len(present) <= NAMED:
        handles, labels_ = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels_, loc="outside right center", markerscale=2.2, title="class")
    return figure


def draw_held_out(held_out: HeldOut) -> Figure:
    """Draw at most :data:`DRAWN` test images before and after training.

    Raises
    ------
    ValueError
        If there are less than :data:`LEAST` test images, or one is embedded by NaN or infinity, or by nothing.
    """
    if len(held_out.labels) < LEAST:
        raise ValueError(f"a map needs at least {LEAST} test examples, found {len(held_out.labels)}")
    for name in (BEFORE, AFTER):
        if name not in held_out.embeddings:
            raise ValueError(f"a map needs an embedding by the {name}, found none")
    if not all(np.isfinite(held_out.embeddings[name]).all() for name in (BEFORE, AFTER)):
        raise ValueError("a map needs finite embeddings of the test examples, found NaN or infinity")
    titles = {
        name: f"{name}\nNMI {percent(figures['nmi'], 1)}   R@1 {percent(figures['recall@1'], 1)}"
        for name, figures in held_out.figures.items()
        if name in (BEFORE, AFTER)
    }
    some = np.sort(np.random.default_rng(0).permutation(len(held_out.labels))[:DRAWN])
    maps = {titles[name]: held_out.embeddings[name][some] for name in titles}
    return draw_maps(maps, held_out.labels[some], held_out.classes)


def _colours(n: int) -> Sequence[Any]:
    """One colour for each of `n` classes."""
    if n <= len(CLASSES):
        return CLASSES[:n]
    count = max(n, NAMED)
    return list(colormaps["tab20" if n <= NAMED else "nipy_spectral"].resampled(count)(np.arange(n)))
