"""Propagation of affinities along a graph, on its edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import _arrays as arrays
from .._run import affinity as run
from ..graph import EdgeAffinity, KnnGraph


def propagate_affinity(
    graph: KnnGraph,
    labels: Any,
    gamma: float = 0.99,
    tol: float = 1e-6,
    num_threads: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> EdgeAffinity:
    """Propagate the affinities of labelled pairs along a kNN graph and return them on its edges.

    Parameters
    ----------
    graph : KnnGraph
        N points with k neighbours each. Computed and answered in the type of ``graph.distances`` (float64 without);
        float32 columns that rounding keeps from `tol` are computed again in float64.
    labels : (N,) integer array
        Class of each point, any integers from 0; -1 for an unlabelled point.
    gamma : float
        Share of an affinity that comes from the neighbours, between 0 and 1 (paper: 0.99).
    tol : float
        Largest absolute error of the returned values that is acceptable.
    num_threads : int, optional
        Threads on the CPU; by default what OMP_NUM_THREADS or threadpoolctl says, or all cores.
    progress : callable, optional
        Called now and then with the share done, from 0 to 1.

    Returns
    -------
    EdgeAffinity
        ``values`` (N, k) on the edges ``(i, graph.indices[i, r])``, ``class_mass`` (N, C), ``classes`` (C,), and the
        rigorous ``error_bound`` that was reached.

    Raises
    ------
    TypeError
        If `graph` is not a KnnGraph or `labels` not integers that lie where the graph does.
    ValueError
        If `labels` has another length or entries below -1, if `gamma`, `tol` or `num_threads` is out of range, or if
        the graph has 2³¹ points or more.

    Warns
    -----
    ConvergenceWarning
        If float64 rounding does not allow `tol`.

    Notes
    -----
    With Q[i, j] the share of edge i → j in the weights of its row (1/k without ``graph.weights``) and W⁰ = +1 on the
    diagonal and between labelled points of one class, -1 between labelled points of different classes, 0 elsewhere
    (Dutta, Harandi, Sekhar, AAAI 2021):

        W* = (1 - gamma) (I - gamma Q)⁻¹ W⁰,    values = (W* + W*ᵀ) / 2 on the edges.

    Connected components are solved by themselves. On the CPU, those of up to 511 points, or 320 + 8k (at most 1024)
    where `tol` is below 1e-5, are inverted as dense float64 matrices in O(n³), one per thread, and their bound follows
    from the residual. Of larger ones no matrix is formed: a column of W* is a column of the random walk with restart
    P = (1 - gamma) (I - gamma Q)⁻¹, or a combination of the C columns of ``class_mass``. Time O(N² (k · sweeps + M)),
    with M = √N / 2 slow modes taken out of every column (on the CPU at most 64 where `tol` is 1e-5 or more); some
    twenty sweeps on graphs of images, at worst log(tol)/log(gamma). Only points whose residual is above `tol` are swept
    where those are few: in clustered graphs, and the more so the larger `tol` is. Memory O(N (k + C + M)), and up to 12
    MiB and 12 bytes per edge for each thread that inverts a small component; on a CUDA device, besides, what its blocks
    work in: 227 KiB for each multiprocessor or, for components of more than some 28,000 points, 128 N bytes. The
    library's current stream is waited for, and no other, to know the components, to orthonormalise modes, now and then
    between panels of columns, and for the bound.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> graph = sf.knn_graph(np.array([[0.0], [1.0], [10.0], [11.0]]), k=1)
    >>> affinity = sf.propagate_affinity(graph, labels=np.array([0, -1, 1, -1]), gamma=0.5)
    >>> affinity.values.round(3).ravel()
    array([0.333, 0.333, 0.333, 0.333])
    >>> affinity.class_mass.round(3)
    array([[0.667, 0.   ],
           [0.333, 0.   ],
           [0.   , 0.667],
           [0.   , 0.333]])
    """
    if not isinstance(graph, KnnGraph):
        raise TypeError(f"graph must be a KnnGraph, found {type(graph).__name__}")
    (labels,) = arrays.adopt(graph.indices, labels=labels)
    if arrays.is_compiling(graph.indices):
        from .. import _torch

        results = _torch.ops.propagate_affinity(
            graph.indices, graph.distances, graph.ptr, graph.weights, labels, gamma, tol, num_threads
        )
        return EdgeAffinity(*results)
    results = run.propagate_affinity(
        graph.indices, graph.distances, graph.weights, labels, gamma, tol, num_threads, progress
    )
    return EdgeAffinity(*results)
