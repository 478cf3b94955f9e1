"""Twin of :mod:`ssdml_fast.ops.knn_graph`."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..graph import KnnGraph, Neighbors


def knn_graph(x, k, metric="sqeuclidean", ptr=None) -> KnnGraph:
    """Exact k nearest neighbours by all pairwise distances; see :func:`ssdml_fast.knn_graph`."""
    n = len(x)
    indices = np.empty((n, k), np.int64)
    distances = np.empty((n, k), x.dtype)
    bounds = np.array([0, n]) if ptr is None else ptr
    for low, high in pairwise(bounds):
        d = pairwise_distances(x[low:high], x[low:high], metric)
        for i in range(high - low):
            others = np.delete(np.arange(high - low), i)
            nearest = others[np.lexsort((others, d[i, others]))[:k]]  # last key first: distance, then index
            indices[low + i] = low + nearest
            distances[low + i] = d[i, nearest]
    return KnnGraph(indices, distances, ptr)


def knn_search(queries, base, k, metric="sqeuclidean") -> Neighbors:
    """Exact k nearest base points of every query by all distances; see :func:`ssdml_fast.knn_search`."""
    d = pairwise_distances(queries, base, metric)
    indices = np.argsort(d, axis=1, kind="stable")[:, :k]  # stable: ties fall to the smaller index
    return Neighbors(indices, np.take_along_axis(d, indices, 1))


def pairwise_distances(x, y, metric) -> np.ndarray:
    """Distances from the rows of `x` to those of `y`: in float64 from direct differences, rounded once to x.dtype."""
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    if metric == "inner_product":
        d = -(x64 @ y64.T)
    elif metric == "cosine":
        x_norms, y_norms = np.sqrt((x64**2).sum(1)), np.sqrt((y64**2).sum(1))
        x_unit = x64 * (1 / np.where(x_norms == 0, 1, x_norms))[:, None]
        y_unit = y64 * (1 / np.where(y_norms == 0, 1, y_norms))[:, None]
        d = ((x_unit[:, None] - y_unit[None]) ** 2).sum(2) / 2  # = 1 - cos, exact for near-duplicates too
        d[(x_norms[:, None] == 0) | (y_norms[None] == 0)] = 1  # a zero vector has no direction
    else:
        d = ((x64[:, None] - y64[None]) ** 2).sum(2)
        if metric == "euclidean":
            d = np.sqrt(d)
    return d.astype(x.dtype)
