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
    """Distances from the rows of `x` to those of `y`: in float64 from direct differences, rounded once."""
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    if metric == "inner_product":
        d = -(x64 @ y64.T)
    elif metric == "cosine":
        x_unit, y_unit = unit_vectors(x64), unit_vectors(y64)
        d = ((x_unit[:, None] - y_unit[None]) ** 2).sum(2) / 2  # = 1 - cos, exact for near-duplicates too
        d[(x64 == 0).all(1)] = d[:, (y64 == 0).all(1)] = 1  # a zero vector has no direction
    else:
        differences = x64[:, None] - y64[None]
        d = (differences**2).sum(2)
        if metric == "euclidean":
            lift = lift_of(d)
            d = np.sqrt(((differences * lift[..., None]) ** 2).sum(2)) / lift
    return d.astype(np.float64 if x.dtype == np.float64 else np.float32)


def unit_vectors(x) -> np.ndarray:
    """Rows of `x` divided by their norms; zero vectors as they are."""
    x = x * lift_of((x**2).sum(1))[:, None]
    norms = np.sqrt((x**2).sum(1))
    return x * (1 / np.where(norms == 0, 1, norms))[:, None]


def lift_of(squares) -> np.ndarray:
    """A power of two to multiply with before squaring where squares would lose digits to underflow, 1 elsewhere."""
    return np.where(squares < 2.0**-900, 2.0**600, 1.0)
