"""Checks, allocates and calls the kernel of ``csrc/mine_triplets/``."""

from __future__ import annotations

from .. import _arrays as arrays
from .. import _core
from .. import _scalars as scalars


def mine_triplets(indices, distances, values, anchors, num_threads):
    """Return the triplets."""
    n, k = indices.shape
    arrays.check_indices(indices, n, "graph.indices", "points")  # validated once, but writable since
    values = arrays.as_floats(values, "affinity.values", ndim=2, like=indices)
    arrays.check_shape(values, (n, k), "affinity.values", "the shape of graph.indices")
    arrays.check_finite(values, "affinity.values")
    dtype = arrays.dtype_name(values)
    if distances is not None:
        distances = arrays.astype(distances, dtype)
    if anchors is not None:
        anchors = arrays.as_integers(anchors, "anchors", ndim=1, like=indices)
        arrays.check_indices(anchors, n, "anchors", "points")
    num_threads = _core.threads(scalars.as_threads(num_threads))

    count = n if anchors is None else len(anchors)
    triplets = arrays.empty((count * (k // 2), 3), "int64", like=indices)
    arguments = (
        dtype,
        arrays.address(indices),
        arrays.address(distances),
        arrays.address(values),
        k,
        arrays.address(anchors),
        count,
        arrays.address(triplets),
    )
    if arrays.is_cuda(indices):
        with arrays.on_device(indices) as stream:
            _core.cuda().mine_triplets(*arguments, stream)
    else:
        _core.lib.mine_triplets(*arguments, num_threads)
    return triplets
