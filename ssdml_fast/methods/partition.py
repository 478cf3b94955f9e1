"""Cuts the training data into partitions small enough for a graph each."""

from __future__ import annotations

import numpy as np


def partitions(labels: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Join all labelled examples with successive random shares of the unlabelled ones.

    Parameters
    ----------
    labels : (N,) integer array
        -1 = unlabelled.
    size : int
        Most unlabelled examples in one partition, at least 1. The shares differ by at most one example.
    rng : numpy.random.Generator
        Source of the random order.

    Returns
    -------
    list of int64 arrays
        Indices of the examples of each partition, labelled ones first. Together the partitions hold every
        unlabelled example exactly once; with no unlabelled examples there is one partition.

    Examples
    --------
    >>> import numpy as np
    >>> [len(p) for p in partitions(np.array([0, -1, -1, 1, -1]), 2, np.random.default_rng(0))]
    [4, 3]
    """
    labelled = np.flatnonzero(labels >= 0)
    unlabelled = rng.permutation(np.flatnonzero(labels < 0))
    return [np.concatenate([labelled, part]) for part in np.array_split(unlabelled, count(labels, size))]


def count(labels: np.ndarray, size: int) -> int:
    """Return how many partitions :func:`partitions` makes."""
    return max(1, -(-int((labels < 0).sum()) // size))
