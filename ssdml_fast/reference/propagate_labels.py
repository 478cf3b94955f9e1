"""Twin of :func:`ssdml_fast.propagate_labels`."""

from __future__ import annotations

import itertools

import numpy as np

from ..graph import KnnGraph, LabelPosteriors
from .affinity import class_mass, restart_walk, transition


def propagate_labels(graph: KnnGraph, labels, gamma=0.99, tol=1e-6) -> LabelPosteriors:
    """Class posteriors from the dense walk on the symmetrised graph; see :func:`ssdml_fast.propagate_labels`."""
    n = graph.n
    dtype = np.float64 if graph.distances is None else graph.distances.dtype
    classes = np.unique(labels[labels >= 0])

    edges = transition(graph)
    both_ways = edges + edges.T
    mass = class_mass(restart_walk(both_ways / both_ways.sum(1, keepdims=True), gamma), labels, classes)
    for low, high in itertools.pairwise([0, n] if graph.ptr is None else graph.ptr):
        total = mass[low:high].sum(0)
        mass[low:high] /= np.where(total > 0, total, 1)
    mass[mass.sum(1) == 0] = 1  # no label is connected: undecided
    posteriors = mass / mass.sum(1, keepdims=True)
    return LabelPosteriors(posteriors.astype(dtype), classes, iterations=0, error_bound=0.0)
