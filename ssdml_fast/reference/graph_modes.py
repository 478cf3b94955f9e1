"""Twin of :mod:`ssdml_fast.ops.graph_modes`."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def graph_modes(graph, n=None, metric="sqeuclidean"):
    """Modes by a dense weight matrix and a search of each component; see :func:`ssdml_fast.graph_modes`."""
    weights = np.zeros((graph.n, graph.n))
    distances = graph.distances.astype(np.float64)
    cosines = {
        "sqeuclidean": 1 - distances / 2,
        "euclidean": 1 - distances**2 / 2,
        "cosine": 1 - distances,
        "inner_product": -distances,
    }[metric]
    np.put_along_axis(weights, graph.indices, np.maximum(cosines, 0) ** 3, axis=1)
    weights = np.minimum(weights, weights.T)  # an edge needs both directions
    degree = np.array([np.cumsum(np.sort(row))[-1] for row in weights])  # one by one in ascending order

    modes = []
    for low, high in pairwise([0, graph.n] if graph.ptr is None else graph.ptr):
        largest: set[int] = set()
        for i in range(low, high):
            component = reach(weights, i)
            if len(component) > len(largest):  # of equal ones the first stays
                largest = component
        peaks = [i for i in sorted(largest) if len(largest) > 1 and degree[i] > degree[neighbours(weights, i)].max()]
        modes += sorted(peaks, key=lambda i: -degree[i])[:n]
    return np.array(modes, np.int64)


def neighbours(weights, i):
    """Points joined to `i` by an edge."""
    return np.flatnonzero(weights[i])


def reach(weights, i):
    """The connected component of `i`."""
    found, ahead = {i}, [i]
    while ahead:
        new = set(neighbours(weights, ahead.pop()).tolist()) - found
        found |= new
        ahead += new
    return found
