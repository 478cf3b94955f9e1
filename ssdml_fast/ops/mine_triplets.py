"""Triplets from the neighbourhoods of a graph."""

from __future__ import annotations

from typing import Any

from .. import _arrays as arrays
from .._run import mine_triplets as run
from ..graph import EdgeAffinity, KnnGraph


def mine_triplets(graph: KnnGraph, affinity: EdgeAffinity, anchors: Any = None, num_threads: int | None = None) -> Any:
    """Pair the high-affinity half of every anchor's neighbours with the low-affinity half.

    Parameters
    ----------
    graph : KnnGraph
        N points with k neighbours each.
    affinity : EdgeAffinity
        Affinities on the edges of `graph`.
    anchors : (A,) integer array, optional
        Points to mine for, in [0, N), in the order wanted; all points by default.
    num_threads : int, optional
        Threads on the CPU; by default what OMP_NUM_THREADS or threadpoolctl says, or all cores.

    Returns
    -------
    (T, 3) int64 array
        Rows (anchor, positive, negative), T = A ⌊k/2⌋, in the order of the anchors.

    Raises
    ------
    TypeError
        If an argument is not of a type above, or `anchors` lies elsewhere than the graph.
    ValueError
        If ``affinity.values`` does not have the shape of ``graph.indices`` or is not finite, or an anchor or
        `num_threads` is out of range.

    Notes
    -----
    The neighbours of an anchor are ranked by affinity (descending), then distance, then index; with h = ⌊k/2⌋, the
    r-th of the first h is the positive of the r-th triplet and the r-th of the last h its negative. For odd k the
    median neighbour is unused. Section 4 of Dutta, Harandi, Sekhar, AAAI 2021. Time O(A k log k).

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> graph = sf.knn_graph(np.array([[0.0], [1.0], [3.0], [4.0]]), k=2)
    >>> affinity = sf.propagate_affinity(graph, labels=np.array([0, -1, -1, 1]))
    >>> sf.mine_triplets(graph, affinity)
    array([[0, 1, 2],
           [1, 2, 0],
           [2, 1, 3],
           [3, 2, 1]])
    """
    if not isinstance(graph, KnnGraph):
        raise TypeError(f"graph must be a KnnGraph, found {type(graph).__name__}")
    if not isinstance(affinity, EdgeAffinity):
        raise TypeError(f"affinity must be an EdgeAffinity, found {type(affinity).__name__}")
    (anchors,) = arrays.adopt(graph.indices, anchors=anchors)
    if arrays.is_compiling(graph.indices):
        from .. import _torch

        return _torch.ops.mine_triplets(graph.indices, graph.distances, affinity.values, anchors, num_threads)
    return run.mine_triplets(graph.indices, graph.distances, affinity.values, anchors, num_threads)
