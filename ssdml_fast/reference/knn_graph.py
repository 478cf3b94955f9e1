"""Twin of :mod:`ssdml_fast.ops.knn_graph`."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..graph import KnnGraph


def knn_graph(x, k, metric="sqeuclidean", ptr=None) -> KnnGraph:
    """Exact k nearest neighbours by all pairwise distances; see :func:`ssdml_fast.knn_graph`."""
    n = len(x)
    indices = np.empty((n, k), np.int64)
    distances = np.empty((n, k), x.dtype)
    bounds = np.array([0, n]) if ptr is None else ptr
    for low, high in pairwise(bounds):
        d = pairwise_distances(x[low:high], metric)
        for i in range(high - low):
            others = np.delete(np.arange(high - low), i)
            nearest = others[np.lexsort((others, d[i, others]))[:k]]  # last key first: distance, then index
            indices[low + i] = low + nearest
            distances[low + i] = d[i, nearest]
    return KnnGraph(indices, distances, ptr)


def pairwise_distances(x, metric) -> np.ndarray:
    """All distances among the rows of `x`: computed in float64 from direct differences, rounded once to x.dtype."""
    wide = x.astype(np.float64)
    if metric == "inner_product":
        d = -(wide @ wide.T)
    elif metric == "cosine":
        norms = np.sqrt((wide**2).sum(1))
        unit = wide * (1 / np.where(norms == 0, 1, norms))[:, None]
        d = ((unit[:, None] - unit[None]) ** 2).sum(2) / 2  # = 1 - cos, exact for near-duplicates too
        d[(norms[:, None] == 0) | (norms[None] == 0)] = 1  # a zero vector has no direction
    else:
        d = ((wide[:, None] - wide[None]) ** 2).sum(2)
        if metric == "euclidean":
            d = np.sqrt(d)
    return d.astype(x.dtype)
