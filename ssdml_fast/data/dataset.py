"""What a trainer needs of a data set, and the one way to divide labelled examples between its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .. import _arrays as arrays
from .. import _scalars as scalars

TEST_SHARE = 1 / 3  # of each class, where a data set comes without a test part
VALIDATION_SHARE = 0.15  # of each class of the training data, as in the SSDML paper
CACHE_GB = 4.0  # of decoded examples that do not lie in memory, in 10⁹ bytes, unless asked for more or less


class DataError(ValueError):
    """Files that are missing or damaged; the message says what was expected where, and what was found."""


@dataclass(frozen=True)
class Dataset:
    """Examples in three parts: a few labels to train from, a part to choose the model on, a part to report on.

    Attributes
    ----------
    images : (N, channels, height, width) or (N, d) array
        Training examples: uint8 as they were decoded, or float32 as a network takes them.
    labels : (N,) int64 array
        Their labels; -1 marks an unlabelled example.
    val_images, val_labels
        Validation examples, taken from the training data, with all their labels: the best model is chosen on them.
    test_images, test_labels
        Held-out examples with all their labels, seen only by the final report.
    truth : (N,) int64 array
        All labels of the training examples, hidden ones included: for measuring propagated labels, never for training.
    classes : tuple of str
        Name of each class.
    decoded : Dataset, optional
        The same as it was decoded, where its examples were mapped since. By it the data are told from others: what is
        computed from them may be rounded otherwise on another machine, or by another number of threads.
    """

    images: np.ndarray
    labels: np.ndarray
    val_images: np.ndarray
    val_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    truth: np.ndarray
    classes: tuple[str, ...]
    decoded: Dataset | None = None

    def map(self, prepare: Callable[[np.ndarray], np.ndarray]) -> Dataset:
        """Apply a function to the examples of each part, and return the data set of its results."""
        return replace(
            self,
            images=prepare(self.images),
            val_images=prepare(self.val_images),
            test_images=prepare(self.test_images),
            decoded=self.decoded or self,
        )


@dataclass(frozen=True)
class Source:
    """Examples as a loader finds them, with all their labels.

    Attributes
    ----------
    classes : tuple of str
        Name of each class.
    images : (N, channels, height, width) uint8 or (N, d) float32 array
        Training images, or features.
    labels : (N,) int64 array
        Their classes, 0 … C - 1.
    test_images, test_labels : arrays or None
        The test part; None where the data come without one. In a zero-shot split its classes are other than those of
        the training part.
    """

    classes: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray | None = None
    test_labels: np.ndarray | None = None

    def split(self, seed: int = 0, labels_per_class: int = 10) -> Dataset:
        """Hold out validation examples, and hide all but a few labels of the rest.

        15% of each training class are for validation. Where there is no test part, a third of each class is held out
        for it first.

        Parameters
        ----------
        seed : int
            Decides the split and which labels are kept, at least 0.
        labels_per_class : int
            Labelled training examples of each class, at least 1.

        Returns
        -------
        Dataset

        Raises
        ------
        TypeError, ValueError
            If `seed` or `labels_per_class` is no integer or out of range.

        Examples
        --------
        >>> import numpy as np
        >>> source = Source(("even", "odd"), np.zeros((60, 1, 4, 4), np.uint8), np.arange(60) % 2)
        >>> data = source.split(labels_per_class=3)
        >>> len(data.images), len(data.val_images), len(data.test_images), int((data.labels >= 0).sum())
        (34, 6, 20, 6)
        """
        rng = np.random.default_rng(scalars.as_int(seed, "seed", 0))
        test_images, test_labels = self.test_images, self.test_labels
        rest = np.arange(len(self.labels))
        if test_images is None or test_labels is None:
            rest, test = stratified_split(self.labels, TEST_SHARE, rng)
            test_images, test_labels = self.images[test], self.labels[test]
        train, val = (rest[part] for part in stratified_split(self.labels[rest], VALIDATION_SHARE, rng))
        labels = hide_labels(self.labels[train], labels_per_class, rng)
        return Dataset(
            self.images[train], labels, self.images[val], self.labels[val], test_images, test_labels,
            self.labels[train], self.classes,
        )  # fmt: skip


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
    arrays.check_not_masked(labels, "labels")
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
    arrays.check_not_masked(labels, "labels")
    classes, counts = np.unique(labels, return_counts=True)
    per_class = scalars.as_int(per_class, "labels_per_class", 1, int(counts.min()), " (the size of the smallest class)")
    kept = np.full(len(labels), -1, np.int64)
    for c in classes:
        kept[rng.permutation(np.flatnonzero(labels == c))[:per_class]] = c
    return kept
