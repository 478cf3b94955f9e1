"""Triplets from propagated classes."""

from __future__ import annotations

from typing import Any

from .. import _arrays as arrays
from .._run import mine_class_triplets as run


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
    return run.mine_class_triplets(posteriors, n_triplets, min_confidence, seed, balanced, z, n_nearest, num_threads)
