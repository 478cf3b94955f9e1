"""Checks, allocates and calls the kernel of ``csrc/propagate_labels/``."""

from __future__ import annotations

from .. import _arrays as arrays
from .. import _core
from .. import _scalars as scalars
from .affinity import prepare, type_of, warn_above


def propagate_labels(indices, distances, ptr, weights, labels, gamma, tol, num_threads, progress=None, peers=None):
    """Return the fields of LabelPosteriors, whose columns any `peers` (csrc/common/peers.h) divide among them."""
    progress = scalars.as_callable(progress, "progress")
    n, k = indices.shape
    classes, column, weights, gamma, tol, num_threads = prepare(indices, weights, labels, gamma, tol, num_threads)
    dtype = type_of(distances)
    ptr = arrays.arange(2, like=indices) * n if ptr is None else ptr
    posteriors = arrays.empty((n, len(classes)), dtype, like=indices)
    operands = (
        dtype,
        arrays.address(indices),
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
    if arrays.is_cuda(indices):
        cuda = _core.cuda()
        with arrays.on_device(indices) as stream:
            need = cuda.propagate_labels_workspace(n, k, weights is not None, len(ptr) - 1, len(classes))
            work = arrays.workspace(need, like=indices)
            iterations, bound = cuda.propagate_labels(*operands, arrays.address(work), stream, progress, peers)
    else:
        iterations, bound = _core.lib.propagate_labels(*operands, num_threads, progress, peers)
    warn_above(tol, bound, gamma, "posteriors")
    return posteriors, classes, iterations, bound
