"""Twin of :mod:`ssdml_fast.ops.mine_triplets`."""

from __future__ import annotations

import numpy as np

from ..graph import EdgeAffinity, KnnGraph


def mine_triplets(graph: KnnGraph, affinity: EdgeAffinity, anchors=None) -> np.ndarray:
    """Pair the r-th of the high-affinity half with the r-th of the low half; see :func:`ssdml_fast.mine_triplets`."""
    half = graph.k // 2
    distances = np.zeros_like(affinity.values) if graph.distances is None else graph.distances
    triplets = []
    for a in range(graph.n) if anchors is None else anchors:
        order = np.lexsort((graph.indices[a], distances[a], -affinity.values[a]))  # affinity, distance, index
        ranked = graph.indices[a][order]
        triplets += [(a, ranked[r], ranked[graph.k - half + r]) for r in range(half)]
    return np.array(triplets, np.int64).reshape(-1, 3)
