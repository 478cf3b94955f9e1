"""Twin of :mod:`ssdml_fast.ops.affinity`."""

from __future__ import annotations

import numpy as np

from ..graph import EdgeAffinity, KnnGraph


def propagate_affinity(graph: KnnGraph, labels, gamma=0.99, tol=1e-6) -> EdgeAffinity:
    """Affinities on the edges from the dense random walk with restart; see :func:`ssdml_fast.propagate_affinity`."""
    n = graph.n
    dtype = np.float64 if graph.distances is None else graph.distances.dtype
    classes = np.unique(labels[labels >= 0])

    walk = restart_walk(graph.indices, gamma)
    mass = np.stack([walk[:, labels == c].sum(1) for c in classes], 1) if len(classes) else np.zeros((n, 0))
    propagated = walk.copy()  # an unlabelled column j is column j of the walk ...
    for c, label in enumerate(classes):  # ... a labelled one sees +1 at its own class and -1 at every other
        propagated[:, labels == label] = (2 * mass[:, c] - mass.sum(1))[:, None]
    symmetric = (propagated + propagated.T) / 2
    values = np.take_along_axis(symmetric, graph.indices, 1)
    return EdgeAffinity(values.astype(dtype), mass.astype(dtype), classes, iterations=0, error_bound=0.0)


def restart_walk(indices, gamma) -> np.ndarray:
    """(1 - gamma) (I - gamma Q)^-1, the random walk on the graph that restarts with probability 1 - gamma."""
    n, k = indices.shape
    transition = np.zeros((n, n))
    np.put_along_axis(transition, indices, 1 / max(k, 1), axis=1)
    walk = np.linalg.inv(np.eye(n) - gamma * transition)
    return walk / walk.sum(1, keepdims=True)  # instead of (1 - gamma) walk: frees it of most of the inverse's rounding
