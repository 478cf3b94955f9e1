"""Checks, allocates and calls the kernel of ``csrc/affinity/``."""

from __future__ import annotations

import warnings

from .. import _arrays as arrays
from .. import _core
from .. import _scalars as scalars
from ..exceptions import ConvergenceWarning

MOST_POINTS = 2**31 - 1
"""What walks along a graph can number: they keep places of points in 32 bits."""


def propagate_affinity(indices, distances, weights, labels, gamma, tol, num_threads, progress=None, peers=None):
    """Return the fields of EdgeAffinity, whose columns any `peers` (csrc/common/peers.h) divide among them."""
    progress = scalars.as_callable(progress, "progress")
    n, k = indices.shape
    classes, column, weights, gamma, tol, num_threads = prepare(indices, weights, labels, gamma, tol, num_threads)
    dtype = type_of(distances)
    values = arrays.empty((n, k), dtype, like=indices)
    mass = arrays.empty((n, len(classes)), dtype, like=indices)
    results = (gamma, tol, arrays.address(values), arrays.address(mass))
    if arrays.is_cuda(indices):
        cuda = _core.cuda()
        with arrays.on_device(indices) as stream:
            need = cuda.propagate_affinity_workspace(n, k, weights is not None, len(classes))
            work = arrays.workspace(need, like=indices)
            iterations, bound = cuda.propagate_affinity(
                dtype,
                arrays.address(indices),
                arrays.address(weights),
                n,
                k,
                arrays.address(column),
                len(classes),
                *results,
                arrays.address(work),
                stream,
                progress,
                peers,
            )
    else:
        iterations, bound = _core.lib.propagate_affinity(
            dtype,
            arrays.address(indices),
            arrays.address(weights),
            n,
            k,
            arrays.address(column),
            len(classes),
            *results,
            num_threads,
            progress,
            peers,
        )
    warn_above(tol, bound, gamma, "affinities")
    return values, mass, classes, iterations, bound


def prepare(indices, weights, labels, gamma, tol, num_threads):
    """Validate what propagation of affinities and of labels share.

    Returns the classes, the column of each point's, -1 where unlabelled, weights in float64, and the numbers.
    """
    n = len(indices)
    if n > MOST_POINTS:
        raise ValueError(f"graph must have fewer than 2**31 points, found {n}")
    arrays.check_not_capturing(indices, "propagation along a graph")
    arrays.check_indices(indices, n, "graph.indices", "points")  # validated once, but writable since
    labels = arrays.as_integers(labels, "labels", ndim=1, like=indices)
    arrays.check_shape(labels, (n,), "labels", "one per point of the graph")
    arrays.check_labels(labels)
    labels = arrays.native(labels)
    gamma = scalars.as_float(gamma, "gamma", 0, 1)
    tol = scalars.as_float(tol, "tol", 0)
    num_threads = _core.threads(scalars.as_threads(num_threads))

    if weights is not None:
        arrays.check_weights(weights)
        weights = arrays.contiguous(arrays.astype(weights, "float64"))
    xp = arrays.namespace(labels, "labels")
    classes = xp.unique(labels[labels >= 0])
    column = xp.searchsorted(classes, labels)
    column[labels < 0] = -1
    classes, column = (arrays.of_native(x, like=indices) for x in (classes, column))
    return classes, column, weights, gamma, tol, num_threads


def type_of(distances):
    """Name the type of what is propagated on a graph of these distances."""
    return "float64" if distances is None else arrays.dtype_name(distances)


def warn_above(tol, bound, gamma, what):
    """Warn where the error bound reached is above the tolerance asked for."""
    if bound > tol:
        warnings.warn(
            f"{what} are known to {bound:.2g}, not to tol = {tol:.2g}: rounding allows no better at {gamma = }",
            ConvergenceWarning,
            stacklevel=4,
        )
