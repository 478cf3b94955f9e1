"""Grids of queries and their nearest neighbours, right and wrong ones marked."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ..data.examples import as_examples
from .style import RIGHT, WRONG, new_figure, styled

CELL, FRAME, GAP = 64, 5, 5  # pixels: an example, the frame around it, the space between frames
SCALE = 130  # of these pixels, to an inch

Pictures = np.ndarray | dict[int, np.ndarray]


@styled
def draw_retrieval(
    examples: Pictures | None,
    labels: np.ndarray,
    queries: np.ndarray,
    neighbors: dict[str, np.ndarray],
    classes: tuple[str, ...],
) -> Figure:
    """Draw each query in a row with its nearest neighbours: of its class in green, of another in orange and crossed.

    Without a frame are those of which, as of the query, the class is not known.

    Parameters
    ----------
    examples : (N, height, width, 3) uint8 array, dict of such by number of the example, or None
        Pictures of the examples; without, their classes are written instead.
    labels : (N,) integer array
        Class of each example, an index of `classes`; -1: not known.
    queries : (Q,) integer array
        The examples looked up.
    neighbors : dict of (Q, K) integer arrays
        Title of each block of columns, and the neighbours of each query in it, nearest first.
    classes : tuple of str
        Name of each class.

    Returns
    -------
    matplotlib.figure.Figure
    """
    step, wide = CELL + 2 * FRAME + GAP, 3 * GAP
    starts, x = [], step + wide  # the queries' column comes first
    for found in neighbors.values():
        starts.append(x)
        x += found.shape[1] * step + wide
    canvas = np.full((len(queries) * step - GAP, x - wide - GAP, 3), 255, np.uint8)
    figure = new_figure(canvas.shape[1] / SCALE + 0.6, canvas.shape[0] / SCALE + 0.4)
    panel = figure.subplots()

    def named(example: int) -> str:
        return classes[labels[example]] if labels[example] >= 0 else "unknown"

    def frame(example: int, query: int) -> str | None:
        if labels[example] < 0 or labels[query] < 0:
            return None
        return RIGHT if labels[example] == labels[query] else WRONG

    def cell(row: int, left: int, example: int, colour: str | None) -> None:
        top, outer = row * step, CELL + 2 * FRAME
        if colour:
            canvas[top : top + outer, left : left + outer] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        inside = canvas[top + FRAME : top + FRAME + CELL, left + FRAME : left + FRAME + CELL]
        if examples is not None:
            picture = examples[example]
            at = [np.arange(CELL) * size // CELL for size in picture.shape[:2]]
            inside[:] = picture[np.ix_(*at)]
        else:
            inside[:] = 255
            name = named(example)
            panel.text(left + outer / 2, top + outer / 2, name, ha="center", va="center", fontsize=8, clip_on=True)
        if colour == WRONG:
            x, y = left + outer - FRAME - 8, top + FRAME + 8
            panel.plot(x, y, "X", color=WRONG, markersize=8, markeredgecolor="white", markeredgewidth=0.8)

    for row, query in enumerate(queries):
        cell(row, 0, query, None)
        for start, found in zip(starts, neighbors.values(), strict=True):
            for i, example in enumerate(found[row]):
                cell(row, start + i * step, example, frame(example, query))
    panel.imshow(canvas, interpolation="nearest")
    panel.set_yticks(np.arange(len(queries)) * step + step // 2, [named(query) for query in queries])
    panel.set_xticks([])
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    for title, left in zip(("query", *neighbors), (FRAME, *starts), strict=True):
        panel.text(left, -10, title, fontsize=10, color="#3c4450")
    return figure


def as_pictures(examples: Any, rows: np.ndarray) -> Pictures | None:
    """Turn examples into pictures to look at.

    Parameters
    ----------
    examples : (N, channels, height, width) or (N, d) array, or map-style Dataset
        uint8; or floats, of which each pixel's least value becomes black (that undoes the subtraction of a mean image)
        and the greatest of all white.
    rows : integer array
        Those that are to be looked at; of a Dataset no others are read.

    Returns
    -------
    (N, height, width, 3) uint8 array, dict of such by number of the example, or None
        None for feature vectors, of which there is nothing to look at.

    Examples
    --------
    >>> as_pictures(np.zeros((2, 1, 4, 5), np.uint8), np.array([1]))[1].shape
    (4, 5, 3)
    """
    if not isinstance(examples, np.ndarray):
        rows = np.unique(rows)
        read = as_examples(examples, "examples", cache_gb=0).take(torch.from_numpy(rows)).numpy()
        pictures = as_pictures(read, rows)
        return None if pictures is None else {int(row): pictures[i] for i, row in enumerate(rows)}
    if examples.ndim != 4 or examples.shape[1] not in (1, 3):
        return None
    if examples.dtype != np.uint8:
        examples = examples - examples.min(0)
        examples = (255 * examples / max(examples.max(), np.finfo(examples.dtype).tiny)).astype(np.uint8)
    return np.broadcast_to(examples.transpose(0, 2, 3, 1), (len(examples), *examples.shape[2:], 3))
