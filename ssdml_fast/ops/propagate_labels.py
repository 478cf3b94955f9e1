"""Propagation of labels along a graph, as probabilities of each class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import _arrays as arrays
from .._run import propagate_labels as run
from ..graph import KnnGraph, LabelPosteriors


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
        If `labels` has another length or entries below -1, if `gamma`, `tol` or `num_threads` is out of range, or if
        the graph has 2³¹ points or more.

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
    results = run.propagate_labels(
        graph.indices, graph.distances, graph.ptr, graph.weights, labels, gamma, tol, num_threads, progress
    )
    return LabelPosteriors(*results)
