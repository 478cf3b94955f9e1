"""Exact k-nearest-neighbour graph, and search between two sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import _arrays as arrays
from .._run import knn_graph as run
from ..graph import KnnGraph, Neighbors


def knn_graph(
    x: Any,
    k: int,
    metric: str = "sqeuclidean",
    ptr: Any = None,
    num_threads: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> KnnGraph:
    """Find the k nearest neighbours of every point among the other points of its segment, exactly.

    Parameters
    ----------
    x : (N, d) array
        Points: float32 or float64; float16 and bfloat16 are computed and answered in float32. NumPy, torch or CuPy, or
        of a library that speaks DLPack or ``__cuda_array_interface__``, which torch then reads and answers.
    k : int
        Neighbours per point, at least 1 and less than the size of every non-empty segment.
    metric : {"sqeuclidean", "euclidean", "cosine", "inner_product"}
        Squared Euclidean or Euclidean distance, 1 - cosine similarity (1 if either point is zero), or minus the inner
        product: smaller is nearer for all four.
    ptr : (S + 1,) integer array, optional
        Boundaries of independent segments, from 0 to N; segment ``s`` holds the points ``ptr[s]`` to
        ``ptr[s + 1] - 1``. All points form one segment by default.
    num_threads : int, optional
        Threads on the CPU; by default what OMP_NUM_THREADS or threadpoolctl says, or all cores.
    progress : callable, optional
        Called now and then with the share done, from 0 to 1.

    Returns
    -------
    KnnGraph
        ``indices`` (N, k) int64 and ``distances`` (N, k) in the type of `x`, each row sorted by distance, then index.
        A point is never its own neighbour, but a duplicate of it is one, at distance 0.

    Raises
    ------
    TypeError
        If an argument is not of a type above, or `ptr` lies elsewhere than `x`.
    ValueError
        If `x` is not 2-D, not finite or so large that distances overflow; if `k`, `metric` or `ptr` is out of range.

    Notes
    -----
    Distances are computed in float64 from direct differences and rounded once, so near-duplicates are told apart, and
    the same graph comes out for any number of threads and any instruction set. Time O(N² d / 2) per segment. Memory
    O(N k), plus at most 256 MiB for copies of `x`, so `x` may be a ``numpy.memmap`` (or a torch tensor on a mapped
    file) larger than memory; Ctrl-C is answered between blocks of points. On a CUDA device, a call returns before its
    kernels have run, unless it reports `progress`, for which it waits; segments of 512 points and more take about
    N (24 k + 1100) bytes (up to 3100 N for k in the tens) and a float16 copy of `x`, cosine also one in float64.
    Segments hold fewer than 2³² points. This is the graph of Section 2 of Dutta, Harandi, Sekhar, "Semi-Supervised
    Metric Learning: A Deep Resurrection", AAAI 2021, with Q[i, j] = 1/k on its edges.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> graph = sf.knn_graph(np.array([[0.0], [1.0], [3.0], [3.5]]), k=2)
    >>> graph.indices
    array([[1, 2],
           [0, 2],
           [3, 1],
           [2, 1]])
    >>> graph.distances
    array([[1.  , 9.  ],
           [1.  , 4.  ],
           [0.25, 4.  ],
           [0.25, 6.25]])
    """
    x, ptr = arrays.adopt(x=x, ptr=ptr)
    if arrays.is_compiling(x):
        from .. import _torch

        indices, distances = _torch.ops.knn_graph(x, k, metric, ptr, num_threads)
    else:
        indices, distances, ptr = run.knn_graph(x, k, metric, ptr, num_threads, progress)
    return KnnGraph(indices, distances, ptr, _validated=True)


def knn_search(
    queries: Any,
    base: Any,
    k: int,
    metric: str = "sqeuclidean",
    num_threads: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> Neighbors:
    """Find the k nearest base points of every query, exactly; the engine of :func:`knn_graph` between two sets.

    Parameters
    ----------
    queries : (Q, d) array
        float32 or float64; half precisions are computed in float32.
    base : (N, d) array
        Of the same library, device and type as `queries`.
    k : int
        Neighbours per query, from 1 to N.
    metric, num_threads, progress
        As for :func:`knn_graph`.

    Returns
    -------
    Neighbors
        ``indices`` (Q, k) int64 and ``distances`` (Q, k), each row sorted by distance, then index.

    Raises
    ------
    TypeError
        If an argument is not of a type above, or `base` lies elsewhere than `queries`.
    ValueError
        If shapes do not fit, an entry is not finite or too large, or `k` or `metric` is out of range.

    Notes
    -----
    Time O(Q N d); memory O(Q k), plus at most 256 MiB, or on a CUDA device, with 512 base points and more, about
    Q (24 k + 1100) bytes (up to 3100 Q for k in the tens) and a float16 copy of all points; for cosine one in float64.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> sf.knn_search(np.array([[0.0], [5.0]]), base=np.array([[1.0], [4.0], [0.0]]), k=2)
    Neighbors(indices=array([[2, 0],
           [1, 0]]), distances=array([[ 0.,  1.],
           [ 1., 16.]]))
    """
    queries, base = arrays.adopt(queries=queries, base=base)
    if arrays.is_compiling(queries):
        from .. import _torch

        return Neighbors(*_torch.ops.knn_search(queries, base, k, metric, num_threads))
    return Neighbors(*run.knn_search(queries, base, k, metric, num_threads, progress))
