"""What a trainer needs of a data set, and the one way to divide labelled examples between its parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import _arrays as arrays


@dataclass(frozen=True)
class Dataset:
    """Images in three parts: a few labels to train from, a part to choose the model on, a part to report on.

    Attributes
    ----------
    images : (N, channels, height, width) float32 array
        Training images.
    labels : (N,) int64 array
        Their labels; -1 marks an unlabelled image.
    val_images, val_labels
        Validation images, taken from the training data, with all their labels: the best model is chosen on them.
    test_images, test_labels
        Held-out images with all their labels, seen only by the final report.
    """

    images: np.ndarray
    labels: np.ndarray
    val_images: np.ndarray
    val_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def stratified_split(labels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Divide the examples of every class at random in the same proportion.

    Parameters
    ----------
    labels : (N,) integer array
        Class of each example.
    share : float
        Share of each class that goes to the second part, rounded to whole examples, between 0 and 1.
    rng : numpy.random.Generator
        Source of the random choice.

    Returns
    -------
    first, second : int64 arrays
        Ascending indices of the two parts.

    Examples
    --------
    >>> import numpy as np
    >>> first, second = stratified_split(np.array([0, 0, 0, 1, 1, 1]), 1 / 3, np.random.default_rng(0))
    >>> len(first), len(second)
    (4, 2)
    """
    second = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        second[members[: round(share * len(members))]] = True
    return np.flatnonzero(~second), np.flatnonzero(second)


def hide_labels(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Keep the labels of `per_class` random examples of each class and mark every other example unlabelled.

    Parameters
    ----------
    labels : (N,) integer array
        Class of each example.
    per_class : int
        Labels to keep in each class; no more than the smallest class has.
    rng : numpy.random.Generator
        Source of the random choice.

    Returns
    -------
    (N,) int64 array
        `labels` with all but the kept entries replaced by -1.

    Raises
    ------
    TypeError, ValueError
        If `per_class` is no integer between 1 and the size of the smallest class.

    Examples
    --------
    >>> import numpy as np
    >>> kept = hide_labels(np.array([0, 0, 1, 1]), 1, np.random.default_rng(0))
    >>> sorted(kept.tolist())
    [-1, -1, 0, 1]
    """
    classes, counts = np.unique(labels, return_counts=True)
    per_class = arrays.as_int(per_class, "labels_per_class", 1, int(counts.min()), " (the size of the smallest class)")
    kept = np.full(len(labels), -1, np.int64)
    for c in classes:
        kept[rng.permutation(np.flatnonzero(labels == c))[:per_class]] = c
    return kept
