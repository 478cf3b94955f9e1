"""Propagation along a graph: affinities on its edges, and class posteriors.

Kernels: ``csrc/affinity/`` and ``csrc/propagate_labels/``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _arrays as arrays
from .. import _core
from ..graph import EdgeAffinity, KnnGraph, LabelPosteriors, check_weights


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it reached the tolerance asked for; the message says what was reached."""


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
        If `labels` has another length or entries below -1, or `gamma` or `tol` is out of range.

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
    values, mass, classes, iterations, bound = compute(graph, labels, gamma, tol, num_threads, progress)
    return EdgeAffinity(values, mass, classes, iterations, bound)


def propagate_labels(
    graph: KnnGraph,
    labels: Any,
    gamma: float = 0.99,
    tol: float = 1e-6,
    num_threads: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> LabelPosteriors:
    """Propagate labels along a kNN graph and return the probability of each class at each point.

    Parameters
    ----------
    graph : KnnGraph
        N points with k neighbours each. Answered in the type of ``graph.distances`` (float64 without), computed in
        float64.
    labels : (N,) integer array
        Class of each point, any integers from 0; -1 for an unlabelled point.
    gamma : float
        Share of a probability that comes from the neighbours, between 0 and 1; scikit-learn's `alpha`.
    tol : float
        Largest absolute error of the returned probabilities that is acceptable.
    num_threads : int, optional
        Threads on the CPU; by default what OMP_NUM_THREADS or threadpoolctl says, or all cores.
    progress : callable, optional
        Called now and then with the share done, from 0 to 1.

    Returns
    -------
    LabelPosteriors
        ``posteriors`` (N, C), ``classes`` (C,), the most probable ``labels`` (N,), and the rigorous ``error_bound``
        that was reached. A labelled point is not held to its label.

    Raises
    ------
    TypeError
        If `graph` is not a KnnGraph or `labels` not integers that lie where the graph does.
    ValueError
        If `labels` has another length or entries below -1, or `gamma` or `tol` is out of range.

    Warns
    -----
    ConvergenceWarning
        If float64 rounding, or that of the result, does not allow `tol`: at points that hardly any mass reaches.

    Notes
    -----
    With Q as in :func:`propagate_affinity`, the symmetrised walk S = D⁻¹ (Q + Qᵀ) with row sums 1, and Y the indicator
    of the labels,

        F = (1 - gamma) (I - gamma S)⁻¹ Y,

    each column of which is divided by its sum over the segment (class mass normalisation, Zhu, Ghahramani, Lafferty,
    ICML 2003), so that a class whose labelled points happen to be popular does not swallow the others, and then each
    row by its own. scikit-learn's ``LabelSpreading`` (Zhou et al., NIPS 2003) on the same graph is this without the
    first division, and with the labels weighted by D^-1/2. Conjugate gradients: time O(N k C · steps) with fewer than
    30 / √(1 - gamma) steps, memory O(N (k + C)). On a CUDA device the library's current stream is waited for every few
    steps, and no other.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> graph = sf.knn_graph(np.array([[0.0], [1.0], [2.5], [4.0], [5.0]]), k=2)
    >>> propagated = sf.propagate_labels(graph, np.array([0, -1, -1, -1, 1]), gamma=0.9)
    >>> propagated.posteriors.round(2)
    array([[0.7 , 0.3 ],
           [0.61, 0.39],
           [0.5 , 0.5 ],
           [0.39, 0.61],
           [0.3 , 0.7 ]])
    """
    if not isinstance(graph, KnnGraph):
        raise TypeError(f"graph must be a KnnGraph, found {type(graph).__name__}")
    (labels,) = arrays.adopt(graph.indices, labels=labels)
    if arrays.is_compiling(graph.indices):
        from .. import _torch

        results = _torch.ops.propagate_labels(
            graph.indices, graph.distances, graph.ptr, graph.weights, labels, gamma, tol, num_threads
        )
        return LabelPosteriors(*results)
    return LabelPosteriors(*compute_labels(graph, labels, gamma, tol, num_threads, progress))


def compute(graph, labels, gamma, tol, num_threads, progress=None):
    """Validate, allocate and run the kernel; returns the fields of EdgeAffinity."""
    n, k = graph.n, graph.k
    classes, column, weights, gamma, tol, num_threads = _prepare(graph, labels, gamma, tol, num_threads)
    dtype = _dtype(graph)
    values = arrays.empty((n, k), dtype, like=graph.indices)
    mass = arrays.empty((n, len(classes)), dtype, like=graph.indices)
    results = (gamma, tol, arrays.address(values), arrays.address(mass))
    if arrays.is_cuda(graph.indices):
        cuda = _core.cuda()
        with arrays.on_device(graph.indices) as stream:
            need = cuda.propagate_affinity_workspace(n, k, weights is not None, len(classes))
            work = arrays.workspace(need, like=graph.indices)
            iterations, bound = cuda.propagate_affinity(
                dtype,
                arrays.address(graph.indices),
                arrays.address(weights),
                n,
                k,
                arrays.address(column),
                len(classes),
                *results,
                arrays.address(work),
                stream,
                progress,
            )
    else:
        iterations, bound = _core.lib.propagate_affinity(
            dtype,
            arrays.address(graph.indices),
            arrays.address(weights),
            n,
            k,
            arrays.address(column),
            len(classes),
            *results,
            num_threads,
            progress,
        )
    _warn_above(tol, bound, gamma, "affinities")
    return values, mass, classes, iterations, bound


def compute_labels(graph, labels, gamma, tol, num_threads, progress=None):
    """Validate, allocate and run the kernel; returns the fields of LabelPosteriors."""
    n, k = graph.n, graph.k
    classes, column, weights, gamma, tol, num_threads = _prepare(graph, labels, gamma, tol, num_threads)
    dtype = _dtype(graph)
    ptr = arrays.arange(2, like=graph.indices) * n if graph.ptr is None else graph.ptr
    posteriors = arrays.empty((n, len(classes)), dtype, like=graph.indices)
    operands = (
        dtype,
        arrays.address(graph.indices),
        arrays.address(weights),
        n,
        k,
        arrays.address(ptr),
        len(ptr) - 1,
        arrays.address(column),
        len(classes),
        gamma,
        tol,
        arrays.address(posteriors),
    )
    if arrays.is_cuda(graph.indices):
        cuda = _core.cuda()
        with arrays.on_device(graph.indices) as stream:
            need = cuda.propagate_labels_workspace(n, k, weights is not None, len(ptr) - 1, len(classes))
            work = arrays.workspace(need, like=graph.indices)
            iterations, bound = cuda.propagate_labels(*operands, arrays.address(work), stream, progress)
    else:
        iterations, bound = _core.lib.propagate_labels(*operands, num_threads, progress)
    _warn_above(tol, bound, gamma, "posteriors")
    return posteriors, classes, iterations, bound


def _prepare(graph, labels, gamma, tol, num_threads):
    """Validate what both have in common; returns classes, columns, float64 weights and the scalars."""
    n = graph.n
    arrays.check_not_capturing(graph.indices, "propagation along a graph")
    arrays.check_indices(graph.indices, n, "graph.indices", "points")  # validated once, but writable since
    labels = arrays.as_integers(labels, "labels", ndim=1, like=graph.indices)
    arrays.check_shape(labels, (n,), "labels", "one per point of the graph")
    labels = arrays.native(labels)
    if bool((labels < -1).any()):
        host = arrays.to_numpy(labels)
        i = int(np.flatnonzero(host < -1)[0])
        raise ValueError(f"labels must be at least 0, or -1 where unlabelled, found {host[i]} at labels[{i}]")
    gamma = arrays.as_float(gamma, "gamma", 0, 1)
    tol = arrays.as_float(tol, "tol", 0)
    num_threads = arrays.as_threads(num_threads)

    weights = None
    if graph.weights is not None:
        check_weights(graph.weights)
        weights = arrays.contiguous(arrays.astype(graph.weights, "float64"))
    xp = arrays.namespace(labels, "labels")
    classes = xp.unique(labels[labels >= 0])
    column = xp.searchsorted(classes, labels)
    column[labels < 0] = -1
    classes, column = (arrays.of_native(x, like=graph.indices) for x in (classes, column))
    return classes, column, weights, gamma, tol, num_threads


def _dtype(graph):
    return "float64" if graph.distances is None else arrays.dtype_name(graph.distances)


def _warn_above(tol, bound, gamma, what):
    if bound > tol:
        warnings.warn(
            f"{what} are known to {bound:.2g}, not to tol = {tol:.2g}: rounding allows no better at {gamma = }",
            ConvergenceWarning,
            stacklevel=4,
        )
