"""Triplets from propagated classes. Kernel: ``csrc/mine_class_triplets/``."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from .. import _arrays as arrays
from .. import _core
from .knn_graph import as_points, check_coordinates, knn_search


def mine_class_triplets(
    posteriors: Any,
    n_triplets: int,
    min_confidence: float = 0.0,
    seed: int = 0,
    balanced: bool = False,
    z: Any = None,
    n_nearest: int = 10,
    num_threads: int | None = None,
) -> Any:
    """Draw triplets at random among all points that are classed with confidence.

    Parameters
    ----------
    posteriors : (N, C) array
        Class probabilities of each point, float32 or float64 (half precisions are read as float32), such as propagated
        class mass divided by its sum over each class and then over each point. A point's class is its most probable
        one (the first, of equals), its confidence that entry.
    n_triplets : int
        Triplets to draw, with replacement.
    min_confidence : float
        Least confidence of the points that are drawn.
    seed : int
        Decides the draw, in [0, 2⁶³).
    balanced : bool
        Draw anchors, and negatives without `z`, uniformly over classes and then within, rather than over points.
    z : (N, d) array, optional
        Embeddings. With them negatives are hard: drawn among the `n_nearest` to their anchor.
    n_nearest : int
        Confident points of other classes that a hard negative is drawn from, at least 1; 1 takes the hardest.
    num_threads : int, optional
        Threads on the CPU; by default what OMP_NUM_THREADS or threadpoolctl says, or all cores.

    Returns
    -------
    (n_triplets, 3) int64 array
        Rows (anchor, positive, negative) of three distinct confident points, the first two of one class, the third of
        another; of the library of `posteriors`. Empty if the confident points do not allow one.

    Raises
    ------
    TypeError
        If an argument is not of a type above, or `z` lies elsewhere than `posteriors`.
    ValueError
        If shapes do not fit, an entry is not finite, or a number is out of range.

    Notes
    -----
    The anchor is uniform over the confident points that have another of their class, the positive over the others of
    its class, and the negative over the confident points of all other classes. Triplet t is computed from numbers 5 t
    to 5 t + 4 of a counter-based generator (SplitMix64), hence the same for every library, device and number of
    threads. Time O(N C + N log N + n_triplets log C), and with `z` one search per class, O(N² d) together.

    Triplets of propagated classes rather than of neighbourhoods: the draw is what keeps classes apart where the
    neighbourhoods' negatives are mostly of the anchor's own class.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> posteriors = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.5, 0.5]])
    >>> np.unique(sf.mine_class_triplets(posteriors, 100, min_confidence=0.7), axis=0)
    array([[0, 2, 1],
           [2, 0, 1]])
    """
    posteriors, z = arrays.adopt(posteriors=posteriors, z=z)
    if arrays.is_compiling(posteriors):
        from .. import _torch

        return _torch.ops.mine_class_triplets(
            posteriors, n_triplets, min_confidence, seed, balanced, z, n_nearest, num_threads
        )
    return compute(posteriors, n_triplets, min_confidence, seed, balanced, z, n_nearest, num_threads)


def compute(posteriors, n_triplets, min_confidence, seed, balanced, z, n_nearest, num_threads):
    """Validate, group by class, allocate and run the kernel."""
    arrays.check_not_capturing(posteriors, "mine_class_triplets")
    posteriors = arrays.as_floats(posteriors, "posteriors", ndim=2, halves=True)
    if posteriors.shape[1] == 0:
        raise ValueError(f"posteriors must have at least one column, found shape {tuple(posteriors.shape)}")
    arrays.check_finite(posteriors, "posteriors")
    n_triplets = arrays.as_int(n_triplets, "n_triplets", 0)
    min_confidence = arrays.as_float(min_confidence, "min_confidence")
    seed = arrays.as_int(seed, "seed", 0, 2**63 - 1)
    if not isinstance(balanced, (bool, np.bool_)):
        raise TypeError(f"balanced must be True or False, found {balanced!r}")
    n_nearest = arrays.as_int(n_nearest, "n_nearest", 1)
    num_threads = arrays.as_threads(num_threads)
    if z is not None:
        z = as_points(z, "z", like=posteriors)
        check_coordinates(z, "z")
        if len(z) != len(posteriors):
            raise ValueError(f"z must have {len(posteriors)} rows like posteriors, found shape {tuple(z.shape)}")

    points, starts, n_anchor_groups = _group(arrays.native(posteriors), min_confidence)
    if len(starts) < 3 or n_anchor_groups == 0:
        return arrays.empty((0, 3), "int64", like=posteriors)
    nearest = None if z is None else _nearest_outside(z, points, starts, n_anchor_groups, n_nearest, num_threads)
    points, starts = arrays.of_native(points, like=posteriors), arrays.from_numpy(starts, like=posteriors)
    triplets = arrays.empty((n_triplets, 3), "int64", like=posteriors)
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
    if arrays.is_cuda(posteriors):
        with arrays.on_device(posteriors) as stream:
            _core.cuda().mine_class_triplets(*arguments, stream)
    else:
        _core.lib.mine_class_triplets(*arguments, num_threads)
    return triplets


def _group(posteriors, min_confidence):
    """Order the confident points by class; classes of a single one, which cannot be an anchor, come last.

    Returns the points, where they are, and on the host where each class starts (and the last ends), and the number of
    classes of two points or more.
    """
    xp = arrays.namespace(posteriors, "posteriors")
    classes = posteriors.argmax(1)
    confidence = posteriors[arrays.arange(len(classes), like=posteriors), classes]
    points = xp.argwhere(
        arrays.astype(confidence, "float64") >= min_confidence
    ).ravel()  # float32 would round the bound
    classes = classes[points]
    sizes = arrays.to_numpy(xp.bincount(classes, minlength=posteriors.shape[1]))
    kept = np.concatenate([np.flatnonzero(sizes > 1), np.flatnonzero(sizes == 1)])
    place = np.empty(len(sizes), np.min_scalar_type(len(sizes)))  # the narrower, the faster NumPy sorts
    place[kept] = np.arange(len(kept))
    if arrays.is_cuda(posteriors):
        place = arrays.from_numpy(place.astype(np.int64), like=posteriors)
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
        found = knn_search(z[own], z[others], min(width, len(others)), num_threads=num_threads).indices
        nearest[low:high, : found.shape[1]] = others[found]
    return nearest
