"""Twin of :mod:`ssdml_fast.ops.affinity`."""

from __future__ import annotations

import numpy as np

from ..graph import EdgeAffinity, KnnGraph


def propagate_affinity(graph: KnnGraph, labels, gamma=0.99, tol=1e-6) -> EdgeAffinity:
    """Affinities on the edges from the dense random walk with restart; see :func:`ssdml_fast.propagate_affinity`."""
    dtype = np.float64 if graph.distances is None else graph.distances.dtype
    classes = np.unique(labels[labels >= 0])

    walk = restart_walk(transition(graph), gamma)
    mass = class_mass(walk, labels, classes)
    propagated = walk.copy()  # an unlabelled column j is column j of the walk ...
    for c, label in enumerate(classes):  # ... a labelled one sees +1 at its own class and -1 at every other
        propagated[:, labels == label] = (2 * mass[:, c] - mass.sum(1))[:, None]
    symmetric = (propagated + propagated.T) / 2
    values = np.take_along_axis(symmetric, graph.indices, 1)
    return EdgeAffinity(values.astype(dtype), mass.astype(dtype), classes, iterations=0, error_bound=0.0)


def transition(graph) -> np.ndarray:
    """Q: the share of each edge in the weights of its row, 1 / k without weights."""
    n, k = graph.indices.shape
    weights = np.ones((n, k)) if graph.weights is None else graph.weights.astype(np.float64)
    weights = weights / weights.max(1, keepdims=True) if k else weights  # their sum might overflow
    dense = np.zeros((n, n))
    np.put_along_axis(dense, graph.indices, weights / weights.sum(1, keepdims=True), axis=1)
    return dense


def restart_walk(transition, gamma) -> np.ndarray:
    """(1 - gamma) (I - gamma Q)^-1, the random walk on the graph that restarts with probability 1 - gamma."""
    walk = np.linalg.inv(np.eye(len(transition)) - gamma * transition)
    return walk / walk.sum(1, keepdims=True)  # instead of (1 - gamma) walk: frees it of most of the inverse's rounding


def class_mass(walk, labels, classes) -> np.ndarray:
    """(N, C): share of the walk from each point that restarts at labelled points of each class."""
    return np.stack([walk[:, labels == c].sum(1) for c in classes], 1) if len(classes) else np.zeros((len(walk), 0))
