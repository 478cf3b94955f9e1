"""Draws embeddings side by side in the plane."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .run import write_atomically


def draw_embeddings(path: Path, embeddings: dict[str, np.ndarray], labels: np.ndarray) -> None:
    """Write a PNG with one t-SNE map per embedding, points coloured by class.

    Parameters
    ----------
    path : Path
        The file, written atomically.
    embeddings : dict of (N, d) arrays
        Title of each panel, and the embedding to draw in it; N at least 4.
    labels : (N,) integer array
        Class of each point.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: it keeps global state and may want a display
    from sklearn.manifold import TSNE

    classes = np.unique(labels)
    figure = Figure(figsize=(5.2 * len(embeddings) + 0.8, 5.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(embeddings), squeeze=False)[0]
    for panel, (title, embedding) in zip(panels, embeddings.items(), strict=True):
        perplexity = min(30, (len(labels) - 1) / 3)
        plane = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(embedding)
        for i, c in enumerate(classes):
            points = plane[labels == c]
            panel.scatter(*points.T, s=14, color=f"C{i % 10}", alpha=0.85, linewidths=0, label=str(c))
        panel.set(title=title, xticks=[], yticks=[])
        panel.set_aspect("equal", adjustable="datalim")
        panel.spines[:].set_color("0.8")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", frameon=False, markerscale=2, title="class")
    write_atomically(path, lambda temporary: figure.savefig(temporary))
