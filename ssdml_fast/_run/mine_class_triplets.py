"""Checks, groups points by class, allocates and calls the kernel of ``csrc/mine_class_triplets/``."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .. import _arrays as arrays
from .. import _core
from .. import _scalars as scalars
from .knn_graph import as_points, check_coordinates, knn_search


def mine_class_triplets(posteriors, n_triplets, min_confidence, seed, balanced, z, n_nearest, num_threads):
    """Return the triplets."""
    arrays.check_not_capturing(posteriors, "mine_class_triplets")
    posteriors = arrays.as_floats(posteriors, "posteriors", ndim=2, halves=True)
    if posteriors.shape[1] == 0:
        raise ValueError(f"posteriors must have at least one column, found shape {tuple(posteriors.shape)}")
    arrays.check_finite(posteriors, "posteriors")
    n_triplets = scalars.as_int(n_triplets, "n_triplets", 0)
    min_confidence = scalars.as_float(min_confidence, "min_confidence")
    seed = scalars.as_int(seed, "seed", 0, 2**63 - 1)
    if not isinstance(balanced, (bool, np.bool_)):
        raise TypeError(f"balanced must be True or False, found {balanced!r}")
    n_nearest = scalars.as_int(n_nearest, "n_nearest", 1)
    num_threads = scalars.as_threads(num_threads)
    if z is not None:
        z = as_points(z, "z", like=posteriors)
        check_coordinates(z, "z")
        if len(z) != len(posteriors):
            raise ValueError(f"z must have {len(posteriors)} rows like posteriors, found shape {tuple(z.shape)}")

    found = arrays.native(posteriors)
    points, classes = _confident(found, min_confidence)
    hard = None if z is None else n_nearest
    groups = _group(points, classes, found.shape[1])
    return _draw(groups, n_triplets, seed, balanced, posteriors if z is None else z, hard, num_threads)


def draw(classes, n_triplets, seed, z, n_nearest=0, balanced=False, num_threads=None):
    """Return triplets of points whose classes the host knows, where z is, without waiting for it.

    `classes` are numbers from 0 of all rows of z, in memory of the host. Negatives are hard if `n_nearest` is positive.
    The triplets are those of :func:`mine_class_triplets` on posteriors that are certain of these classes, bit for bit.
    On a device whose values are trusted (:func:`ssdml_fast._arrays.trusted`) nothing here waits: classes are grouped on
    the host, the two arrays of groups are copied from pinned memory by the current stream, and searches, one per class,
    and the draw are queued behind.
    """
    classes = arrays.to_numpy(arrays.as_integers(classes, "classes", ndim=1))
    z = as_points(z, "z")
    if len(z) != len(classes):
        raise ValueError(f"z must have {len(classes)} rows like classes, found shape {tuple(z.shape)}")
    groups = _group(np.arange(len(classes)), classes, 0)
    return _draw(groups, n_triplets, seed, balanced, z, n_nearest or None, num_threads)


def _draw(groups, n_triplets, seed, balanced, like, n_nearest, num_threads):
    """Draw among groups of points where `like` is: z, if negatives are to be among so many nearest."""
    points, starts, n_anchor_groups = groups
    if len(starts) < 3 or n_anchor_groups == 0:
        return arrays.empty((0, 3), "int64", like=like)
    if arrays.is_cuda(like):
        points = arrays.of_native(points, like=like)
    nearest = None
    if n_nearest is not None:
        nearest = _nearest_outside(like, points, starts, n_anchor_groups, n_nearest, num_threads)
    points, starts = arrays.of_native(points, like=like), arrays.from_numpy(starts, like=like)
    triplets = arrays.empty((n_triplets, 3), "int64", like=like)
    arguments = (
        arrays.address(points),
        arrays.address(starts),
        len(starts) - 1,
        n_anchor_groups,
        arrays.address(nearest),
        0 if nearest is None else nearest.shape[1],
        seed,
        bool(balanced),
        n_triplets,
        arrays.address(triplets),
    )
    if arrays.is_cuda(like):
        with arrays.on_device(like) as stream:
            _core.cuda().mine_class_triplets(*arguments, stream)
    else:
        _core.lib.mine_class_triplets(*arguments, _core.threads(num_threads))
    return triplets


def _confident(posteriors, min_confidence):
    """Return the points that are classed with confidence, and their classes."""
    classes = posteriors.argmax(1)
    confidence = arrays.astype(posteriors[arrays.arange(len(classes), like=posteriors), classes], "float64")
    points = arrays.namespace(posteriors, "posteriors").argwhere(
        confidence >= min_confidence
    )  # in float32 it would round
    points = points.ravel()
    return points, classes[points]


def _group(points, classes, n_classes):
    """Order points by class; classes of a single one, which cannot be an anchor, come last.

    Returns the points, where they are, and on the host where each class starts (and the last ends), and the number of
    classes of two points or more.
    """
    sizes = arrays.to_numpy(arrays.namespace(classes, "classes").bincount(classes, minlength=n_classes))
    kept = np.concatenate([np.flatnonzero(sizes > 1), np.flatnonzero(sizes == 1)])
    place = np.empty(len(sizes), np.min_scalar_type(len(sizes)))  # the narrower, the faster NumPy sorts
    place[kept] = np.arange(len(kept))
    if arrays.is_cuda(classes):
        place = arrays.from_numpy(place.astype(np.int64), like=classes)
    points = points[arrays.stable_argsort(place[classes])]  # within a class by index
    sizes = sizes[kept]
    return points, np.concatenate([[0], np.cumsum(sizes)]), int((sizes > 1).sum())


def _nearest_outside(z, points, starts, n_anchor_groups, width, num_threads):
    """For each possible anchor, the `width` points of other groups nearest to it, or as many as there are."""
    width = min(width, len(points))
    nearest = arrays.full((int(starts[n_anchor_groups]), width), 0, "int64", like=z)
    xp = arrays.namespace(points, "points")
    for low, high in pairwise(starts[: n_anchor_groups + 1]):
        others = arrays.of_native(arrays.sort(xp.concatenate([points[:low], points[high:]])), like=z)
        own = arrays.of_native(points[low:high], like=z)
        found, _ = knn_search(z[own], z[others], min(width, len(others)), "sqeuclidean", num_threads)
        if arrays.is_trusted(z):  # the CUDA kernel finds no neighbour at all for a point that is not finite
            found = xp.clip(found, 0, len(others) - 1) if arrays.is_cupy(z) else found.clamp(0, len(others) - 1)
        nearest[low:high, : found.shape[1]] = others[found]
    return nearest
