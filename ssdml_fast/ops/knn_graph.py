"""Exact k-nearest-neighbour graph. Kernel: ``csrc/knn_graph/``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _arrays as arrays
from .. import _core
from ..graph import KnnGraph, Neighbors

BLOCK_BYTES = 256 << 20
"""Memory for the copies that distances are bounded from; larger inputs are read in ranges of points."""

METRICS = ("sqeuclidean", "euclidean", "cosine", "inner_product")


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
    file) larger than memory; Ctrl-C is answered between blocks of points. On a CUDA device, segments of 512 points and
    more take about N (24 k + 1100) bytes (up to 3100 N for k in the tens) and a float16 copy of `x`, cosine also one
    in float64. Segments hold fewer than 2³² points. This is the graph of Section 2 of Dutta, Harandi, Sekhar,
    "Semi-Supervised Metric Learning: A Deep Resurrection", AAAI 2021, with Q[i, j] = 1/k on its edges.

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
        indices, distances, ptr = compute(x, k, metric, ptr, num_threads, progress)
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
    queries = as_points(queries, "queries")
    base = as_points(base, "base", like=queries)
    dtype = arrays.dtype_name(queries)
    progress = arrays.as_callable(progress, "progress")
    if arrays.dtype_name(base) != dtype:
        raise TypeError(f"base must be of the type of queries, {dtype}, found {arrays.dtype_name(base)}")
    if base.shape[1] != queries.shape[1]:
        raise ValueError(f"base must have {queries.shape[1]} columns like queries, found shape {tuple(base.shape)}")
    check_countable(len(base), "base")
    if len(base) == 0:
        raise ValueError(f"base must hold at least one point, found shape {tuple(base.shape)}")
    k = arrays.as_int(k, "k", 1, len(base), f" with {len(base)} base points")
    metric = arrays.as_choice(metric, "metric", METRICS)
    num_threads = arrays.as_threads(num_threads)
    indices = arrays.empty((len(queries), k), "int64", like=queries)
    distances = arrays.empty((len(queries), k), distance_type(dtype), like=queries)
    arguments = (
        dtype,
        arrays.address(queries),
        len(queries),
        arrays.address(base),
        len(base),
        queries.shape[1],
        k,
        metric,
        arrays.address(indices),
        arrays.address(distances),
    )
    if arrays.is_cuda(queries):
        check_coordinates(queries, "queries")
        check_coordinates(base, "base")
        cuda = _core.cuda()
        with arrays.on_device(queries) as stream:
            n_bytes = cuda.knn_search_workspace(len(queries), len(base), queries.shape[1], k, metric)
            work = arrays.workspace(n_bytes, like=queries)
            cuda.knn_search(*arguments, arrays.address(work), stream)
    elif not _core.lib.knn_search(*arguments, num_threads, BLOCK_BYTES, progress):
        check_coordinates(queries, "queries")
        check_coordinates(base, "base")
    return Neighbors(indices, distances)


def check_countable(n, name):
    """Refuse more points than the kernel's 32-bit candidates can number."""
    if n >= 2**32:
        raise ValueError(f"{name} must have fewer than 2**32 points in a segment, found {n}")


def as_points(x, name, like=None):
    """Return points in C order."""
    x = arrays.check_floats(x, name, ndim=2, like=like)
    if x.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column, found shape {tuple(x.shape)}")
    return arrays.contiguous(x)


def check_coordinates(x, name):
    """Refuse coordinates that are not finite, or so large that distances overflow; CPU kernels see for themselves."""
    largest = float(np.finfo(distance_type(arrays.dtype_name(x))).max)
    arrays.check_finite(x, name, limit=math.sqrt(largest / x.shape[1]) / 2)


def distance_type(dtype):
    """Name the type of distances between points of type `dtype`."""
    return "float64" if dtype == "float64" else "float32"


def compute(x, k, metric, ptr, num_threads, progress=None):
    """Validate, allocate and run the kernel; returns indices, distances and the validated ptr."""
    x = as_points(x, "x")
    n, d = x.shape
    dtype = arrays.dtype_name(x)
    metric = arrays.as_choice(metric, "metric", METRICS)
    ptr = arrays.as_ptr(ptr, n, like=x)
    bounds = np.array([0, n]) if ptr is None else arrays.to_numpy(ptr)
    sizes = np.diff(bounds)
    smallest = int(sizes[sizes > 0].min(initial=n))
    of = "points" if ptr is None else "points in the smallest segment"
    if n and smallest == 1:
        raise ValueError(f"x must hold at least 2 {of}, found 1")
    k = arrays.as_int(k, "k", 1, smallest - 1 if n else None, f" with {smallest} {of}")
    largest = int(sizes.max(initial=0))
    check_countable(largest, "x")
    num_threads = arrays.as_threads(num_threads)
    progress = arrays.as_callable(progress, "progress")

    indices = arrays.empty((n, k), "int64", like=x)
    distances = arrays.empty((n, k), distance_type(dtype), like=x)
    bounds = np.ascontiguousarray(bounds, np.int64)
    arguments = (dtype, arrays.address(x), n, d, k, metric)
    results = (arrays.address(indices), arrays.address(distances))
    if arrays.is_cuda(x):
        check_coordinates(x, "x")
        cuda = _core.cuda()
        with arrays.on_device(x) as stream:
            device_bounds = arrays.arange(2, like=x) * n if ptr is None else ptr
            work = arrays.workspace(cuda.knn_graph_workspace(n, d, k, metric, largest), like=x)
            segments = (arrays.address(device_bounds), len(sizes), largest)
            cuda.knn_graph(*arguments, *segments, *results, arrays.address(work), stream)
    elif not _core.lib.knn_graph(
        *arguments, arrays.address(bounds), len(sizes), *results, num_threads, BLOCK_BYTES, progress
    ):
        check_coordinates(x, "x")
    return indices, distances, ptr
