"""Modes of a kNN graph, as anchors for mining. On the host, by SciPy's sparse graphs; no kernel of its own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from .. import _arrays as arrays
from .. import _scalars as scalars
from ..graph import KnnGraph, integers_of_edges

COSINES = {
    "sqeuclidean": lambda distances: 1 - distances / 2,
    "euclidean": lambda distances: 1 - distances**2 / 2,
    "cosine": lambda distances: 1 - distances,
    "inner_product": lambda distances: -distances,
}
"""The cosine of two unit vectors from their distance in each metric of `knn_graph`."""


def graph_modes(graph: KnnGraph, n: int | None = None, metric: str = "sqeuclidean") -> Any:
    """Find the modes of a graph: the points where a random walk on it stays longest, locally.

    Parameters
    ----------
    graph : KnnGraph
        Neighbours of l2-normalised points (for the cosine metric, of any), with distances.
    n : int, optional
        Keep the n highest modes of each segment, at least 1; all by default.
    metric : {"sqeuclidean", "euclidean", "cosine", "inner_product"}
        What ``graph.distances`` are.

    Returns
    -------
    (M,) int64 array
        Modes, the highest first (ties: the smaller index), segment after segment; of the library of `graph`. For
        ``mine_triplets(anchors=...)``. A segment without mutual neighbours at acute angles has none.

    Raises
    ------
    TypeError
        If `graph` is not a KnnGraph.
    ValueError
        If `graph` has no distances, or `n` or `metric` is out of range.

    Notes
    -----
    Two points that are among each other's k neighbours are joined by an edge of weight max(cosine, 0)³; the larger of
    their two distances counts, should they differ. On the largest connected component of each segment (ties: that with
    the smallest index) the stationary probability of the random walk is proportional to a point's weighted degree; a
    mode is a point where it is greater than at every neighbour, so that of equal neighbours, such as duplicates, none
    is one. Degrees are sums in float64 of weights in ascending order. Time O(N k log(N k)).

    Iscen, Tolias, Avrithis, Chum, "Mining on manifolds: metric learning without labels", CVPR 2018, Section 3.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> angles = np.radians([0, 10, 18, 30, 90, 99])
    >>> x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    >>> sf.graph_modes(sf.knn_graph(x, k=3))  # in the larger group, the point nearest to the others
    array([2])
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not isinstance(graph, KnnGraph):
        raise TypeError(f"graph must be a KnnGraph, found {type(graph).__name__}")
    if graph.distances is None:
        raise ValueError("graph must have distances, which its edges are weighted by, found none")
    arrays.check_not_capturing(graph.indices, "graph_modes")
    if n is not None:
        n = scalars.as_int(n, "n", 1)
    cosine_of = COSINES[scalars.as_choice(metric, "metric", tuple(COSINES))]
    arrays.check_indices(graph.indices, graph.n, "graph.indices", "points")  # validated once, but writable since

    weights = np.maximum(cosine_of(arrays.to_numpy(graph.distances).astype(np.float64)), 0) ** 3
    integer = integers_of_edges(graph)
    rows = np.repeat(np.arange(graph.n, dtype=integer), graph.k)
    columns = arrays.to_numpy(graph.indices).ravel().astype(integer)
    directed = coo_array((weights.ravel(), (rows, columns)), shape=(graph.n, graph.n)).tocsr()
    mutual = directed.minimum(directed.T).tocoo()  # 0 where either direction is missing
    edges = np.lexsort((mutual.data, mutual.row))
    tails, heads, weights = mutual.row[edges], mutual.col[edges], mutual.data[edges]
    degree = np.bincount(tails, weights, graph.n)
    highest_neighbour = np.zeros(graph.n)
    np.maximum.at(highest_neighbour, tails, degree[heads])

    component = connected_components(mutual, directed=False)[1]
    ptr = np.array([0, graph.n]) if graph.ptr is None else arrays.to_numpy(graph.ptr)
    modes = [np.empty(0, np.int64)]
    for low, high in pairwise(ptr):
        if low == high:
            continue
        of_point = component[low:high] - component[low:high].min()
        size = np.bincount(of_point)[of_point]
        inside = low + np.flatnonzero(of_point == of_point[np.argmax(size)])  # of equal sizes, that of the first point
        of_segment = inside[degree[inside] > highest_neighbour[inside]]
        modes.append(of_segment[np.argsort(-degree[of_segment], kind="stable")][:n])
    return arrays.from_numpy(np.concatenate(modes), like=graph.indices)
