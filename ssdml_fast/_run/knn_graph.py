"""Checks, allocates and calls the kernel of ``csrc/knn_graph/``."""

from __future__ import annotations

import math

import numpy as np

from .. import _arrays as arrays
from .. import _core
from .. import _scalars as scalars

BLOCK_BYTES = 256 << 20
"""Memory for the copies that distances are bounded from; larger inputs are read in ranges of points."""

METRICS = ("sqeuclidean", "euclidean", "cosine", "inner_product")


def knn_graph(x, k, metric, ptr, num_threads, progress=None):
    """Return indices, distances and the validated ptr."""
    x = as_points(x, "x")
    n, d = x.shape
    dtype = arrays.dtype_name(x)
    metric = scalars.as_choice(metric, "metric", METRICS)
    ptr = arrays.as_ptr(ptr, n, like=x)
    bounds = np.array([0, n]) if ptr is None else arrays.to_numpy(ptr)
    sizes = np.diff(bounds)
    smallest = int(sizes[sizes > 0].min(initial=n))
    of = "points" if ptr is None else "points in the smallest segment"
    if n and smallest == 1:
        raise ValueError(f"x must hold at least 2 {of}, found 1")
    k = scalars.as_int(k, "k", 1, smallest - 1 if n else None, f" with {smallest} {of}")
    largest = int(sizes.max(initial=0))
    check_countable(largest, "x")
    num_threads = _core.threads(scalars.as_threads(num_threads))
    progress = scalars.as_callable(progress, "progress")

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
            cuda.knn_graph(*arguments, *segments, *results, arrays.address(work), stream, progress)
    elif not _core.lib.knn_graph(
        *arguments, arrays.address(bounds), len(sizes), *results, num_threads, BLOCK_BYTES, progress
    ):
        check_coordinates(x, "x")
    return indices, distances, ptr


def knn_search(queries, base, k, metric, num_threads, progress=None):
    """Return indices and distances."""
    queries = as_points(queries, "queries")
    base = as_points(base, "base", like=queries)
    dtype = arrays.dtype_name(queries)
    progress = scalars.as_callable(progress, "progress")
    if arrays.dtype_name(base) != dtype:
        raise TypeError(f"base must be of the type of queries, {dtype}, found {arrays.dtype_name(base)}")
    if base.shape[1] != queries.shape[1]:
        raise ValueError(f"base must have {queries.shape[1]} columns like queries, found shape {tuple(base.shape)}")
    check_countable(len(base), "base")
    if len(base) == 0:
        raise ValueError(f"base must hold at least one point, found shape {tuple(base.shape)}")
    k = scalars.as_int(k, "k", 1, len(base), f" with {len(base)} base points")
    metric = scalars.as_choice(metric, "metric", METRICS)
    num_threads = _core.threads(scalars.as_threads(num_threads))
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
            cuda.knn_search(*arguments, arrays.address(work), stream, progress)
    elif not _core.lib.knn_search(*arguments, num_threads, BLOCK_BYTES, progress):
        check_coordinates(queries, "queries")
        check_coordinates(base, "base")
    return indices, distances


def knn_between(a, b, k, metric, limits_a, limits_b, num_threads, progress=None):
    """Return (indices, distances) for the points of `a`, among `b`, and for those of `b`; neither is empty.

    Each pair is visited once where a kernel can. A point gets its k nearest of those no farther than its limit, or all
    there are, and -1 at infinite distance after them. The arguments have been checked.
    """
    dtype = arrays.dtype_name(a)
    of_a, of_b = found = tuple(
        (arrays.empty((len(x), k), "int64", like=x), arrays.empty((len(x), k), distance_type(dtype), like=x))
        for x in (a, b)
    )
    if arrays.is_cuda(a):
        halves = part_of(progress, 0, 0.5), part_of(progress, 0.5, 1)
        for x, others, limits, result, part in ((a, b, limits_a, of_a, halves[0]), (b, a, limits_b, of_b, halves[1])):
            within = min(k, len(others))
            near = knn_search(x, others, within, metric, num_threads, part)
            for entries, entry, nothing in zip(result, near, (-1, math.inf), strict=True):
                entries[:, :within], entries[:, within:] = entry, nothing
                entries[:, :within][near[1] > limits[:, None]] = nothing
    else:
        (indices_a, distances_a), (indices_b, distances_b) = (map(arrays.address, of) for of in found)
        _core.lib.knn_between(
            dtype,
            arrays.address(a),
            len(a),
            arrays.address(b),
            len(b),
            a.shape[1],
            k,
            metric,
            arrays.address(limits_a),
            indices_a,
            distances_a,
            arrays.address(limits_b),
            indices_b,
            distances_b,
            _core.threads(num_threads),
            BLOCK_BYTES,
            progress,
        )
    return found


def merge_neighbors(indices, distances, further, further_distances, first, num_threads):
    """Replace neighbours on the CPU by the nearest of them and of further ones, which are numbered from `first`."""
    _core.lib.merge_neighbors(
        arrays.dtype_name(distances),
        len(indices),
        indices.shape[1],
        arrays.address(indices),
        arrays.address(distances),
        further.shape[1],
        arrays.address(further),
        arrays.address(further_distances),
        first,
        _core.threads(num_threads),
    )


def part_of(progress, before, after):
    """Return the progress of a part of some work, from the share `before` of the whole to `after`."""
    return None if progress is None else lambda share: progress(before + share * (after - before))


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
    """Refuse coordinates that are not finite, or so large that distances overflow; CPU kernels see for themselves.

    The limit is ``largest_coordinate`` of ``csrc/knn_graph/knn_graph.h``.
    """
    largest = float(np.finfo(distance_type(arrays.dtype_name(x))).max)
    arrays.check_finite(x, name, limit=math.sqrt(largest / x.shape[1]) / 2)


def distance_type(dtype):
    """Name the type of distances between points of type `dtype`."""
    return "float64" if dtype == "float64" else "float32"
