"""What a trainer needs of a data set, and the one way to divide labelled examples between its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import _arrays as arrays
from .. import _scalars as scalars

TEST_SHARE = 1 / 3  # of each class, where a data set comes without a test part
VALIDATION_SHARE = 0.15  # of each class of the training data, as in the SSDML paper
LABELS_PER_CLASS = 10  # kept, unless asked for more or fewer
PREFIXES = {"train": "", "test": "test_", "val": "val_"}  # what the fields of each part begin with
CACHE_GB = 4.0  # of decoded examples that do not lie in memory, in 10⁹ bytes, unless asked for more or less


class DataError(ValueError):
    """Files that are missing or damaged; the message says what was expected where, and what was found."""


@dataclass(frozen=True)
class LeftOut:
    """A file, folder or row that is not used.

    Attributes
    ----------
    name : str
        Its path below the folder of the data or in the archive, or what else tells it from others.
    why : str
        In a few words: ``"no image"``, ``"dangling link"``.
    """

    name: str
    why: str


@dataclass(frozen=True)
class Account:
    """What was understood of files, and what was not used of them.

    Attributes
    ----------
    layout : str
        How the examples lie and what tells their classes and parts, in words.
    left_out : tuple of LeftOut
        All that is not used.
    notes : tuple of str
        What else a user may not expect, a sentence each.

    Examples
    --------
    >>> Account("a folder per class").adding([LeftOut("cat/notes.txt", "no image")]).left_out
    (LeftOut(name='cat/notes.txt', why='no image'),)
    """

    layout: str = ""
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    def adding(self, left_out: Iterable[LeftOut] = (), notes: Iterable[str] = ()) -> Account:
        """Return this account with more in it."""
        return replace(self, left_out=(*self.left_out, *left_out), notes=(*self.notes, *notes))


@dataclass(frozen=True)
class Dataset:
    """Examples in three parts: a few labels to train from, a part to choose the model on, a part to report on.

    Attributes
    ----------
    images : (N, channels, height, width) or (N, d) array, or map-style Dataset of torch
        Training examples: uint8 as they were decoded, or float32 as a network takes them. A Dataset decodes them when
        they are asked for.
    labels : (N,) int64 array
        Their labels; -1 marks an unlabelled example.
    val_images, val_labels
        Validation examples with all their labels: the best model is chosen on them. None where there are none.
    test_images, test_labels
        Held-out examples with all their labels, seen only by the final report. None where there are none.
    truth : (N,) int64 array
        All labels of the training examples that are known, hidden ones included: for measuring propagated labels, never
        for training. -1: nobody knows.
    classes : tuple of str
        Name of each class.
    decoded : Dataset, optional
        The same as it was decoded, where its examples were mapped since. By it the data are told from others: what is
        computed from them may be rounded otherwise on another machine, or by another number of threads.
    names, val_names, test_names : list of str, optional
        What tells an example from others: the path of its file.
    account : Account
        What was understood of the files that it was read from.
    """

    images: Any
    labels: np.ndarray
    val_images: Any
    val_labels: np.ndarray | None
    test_images: Any
    test_labels: np.ndarray | None
    truth: np.ndarray
    classes: tuple[str, ...]
    decoded: Dataset | None = None
    names: Sequence[str] | None = None
    val_names: Sequence[str] | None = None
    test_names: Sequence[str] | None = None
    account: Account = Account()

    def map(self, prepare: Callable[[Any], Any]) -> Dataset:
        """Apply a function to the examples of each part that there is, and return the data set of its results."""
        return replace(
            self,
            images=prepare(self.images),
            val_images=None if self.val_images is None else prepare(self.val_images),
            test_images=None if self.test_images is None else prepare(self.test_images),
            decoded=self.decoded or self,
        )


@dataclass(frozen=True)
class Source:
    """Examples as a loader finds them, with all the labels that they have.

    Attributes
    ----------
    classes : tuple of str
        Name of each class.
    images : (N, channels, height, width) uint8 or (N, d) float32 array, or map-style Dataset of torch
        Training images, or features.
    labels : (N,) int64 array
        Their classes, 0 … C - 1; -1: none that is known.
    test_images, test_labels
        The test part, all of it with labels; None where the data come without one. In a zero-shot split its classes are
        other than those of the training part.
    val_images, val_labels
        The validation part, all of it with labels; None where the data come without one.
    names, test_names, val_names : sequence of str, optional
        What tells an example from others: the path of its file.
    account : Account
        What was understood of the files.
    """

    classes: tuple[str, ...]
    images: Any
    labels: np.ndarray
    test_images: Any = None
    test_labels: np.ndarray | None = None
    val_images: Any = None
    val_labels: np.ndarray | None = None
    names: Sequence[str] | None = None
    test_names: Sequence[str] | None = None
    val_names: Sequence[str] | None = None
    account: Account = Account()

    def split(self, seed: int = 0, labels_per_class: int | str | None = None) -> Dataset:
        """Hold out validation and test examples where there are none, and hide all but a few labels of the rest.

        Parameters
        ----------
        seed : int
            Decides the split and which labels are kept, at least 0.
        labels_per_class : int or "all", optional
            Labelled training examples of each class, at least 1; of a class that has fewer, all. By default 10, or all
            where there are unlabelled examples among those for training.

        Returns
        -------
        Dataset
            Where every training example has a label, and there is no test part, that is a third of each class. Where
            there is no validation part, that is 15% of the labelled training examples of each class, but at least two,
            and none of a class of fewer than eight; if that leaves less than two classes, there is none, which the
            account notes.

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
        per_class = as_labels_per_class(labels_per_class, bool((self.labels < 0).any()))
        account, train = self.account, np.arange(len(self.labels))
        test_images, test_labels, test_names = self.test_images, self.test_labels, self.test_names
        if test_images is None and not (self.labels < 0).any():
            train, test = stratified_split(self.labels, TEST_SHARE, rng)
            if len(test):
                test_images, test_labels, test_names = self._part(test)
        val_images, val_labels, val_names = self.val_images, self.val_labels, self.val_names
        if val_images is None:
            rest, val = (train[part] for part in stratified_split(self.labels[train], VALIDATION_SHARE, rng, least=2))
            if len(np.unique(self.labels[val])) > 1:
                train = rest
                val_images, val_labels, val_names = self._part(val)
            else:
                how_few = "too few labelled" if (self.labels >= 0).any() else "no labelled"
                account = account.adding(notes=[f"there are {how_few} examples to spare any for validation"])
        images, truth, names = self._part(train)
        labels = truth if per_class is None else hide_labels(truth, per_class, rng)
        if few := [
            self.classes[c]
            for c, n in zip(*np.unique(truth[truth >= 0], return_counts=True), strict=True)
            if per_class is not None and n < per_class
        ]:
            listed = ", ".join(few[:5]) + ", …" * (len(few) > 5)
            account = account.adding(notes=[f"fewer than {per_class} training examples, all labelled: {listed}"])
        return Dataset(
            images, labels, val_images, val_labels, test_images, test_labels, truth, self.classes, names=names,
            val_names=val_names, test_names=test_names, account=account,
        )  # fmt: skip

    def _part(self, rows: np.ndarray) -> tuple[Any, np.ndarray, Sequence[str] | None]:
        names = None if self.names is None else [self.names[i] for i in rows]
        return select(self.images, rows), self.labels[rows], names


def as_labels_per_class(value: int | str | None, has_unlabelled: bool) -> int | None:
    """Return how many labels of each class are to be kept; None: all.

    Raises
    ------
    TypeError, ValueError
        If `value` is neither ``"all"`` nor an integer of at least 1.

    Examples
    --------
    >>> as_labels_per_class(None, has_unlabelled=False), as_labels_per_class("all", has_unlabelled=False)
    (10, None)
    """
    if value is None:
        return None if has_unlabelled else LABELS_PER_CLASS
    if isinstance(value, str):
        if value != "all":
            raise ValueError(f"labels_per_class must be 'all' or an integer of at least 1, found {value!r}")
        return None
    return scalars.as_int(value, "labels_per_class", 1)


def select(images: Any, rows: np.ndarray) -> Any:
    """Return some of the examples of an array or a map-style Dataset, the latter undecoded."""
    if isinstance(images, np.ndarray):
        return images[rows]
    from torch.utils.data import Subset

    return Subset(images, rows.tolist())


def stratified_split(
    labels: np.ndarray, share: float, rng: np.random.Generator, least: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the examples of every class at random in the same proportion.

    Parameters
    ----------
    labels : (N,) integer array
        Class of each example; -1 marks an unlabelled one, which stays in the first part.
    share : float
        Share of each class that goes to the second part, rounded to whole examples, between 0 and 1.
    rng : numpy.random.Generator
        Source of the random choice.
    least : int
        Examples of a class that go to the second part at least; none do of a class that has less than four times as
        many.

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
    for c in np.unique(labels[labels >= 0]):
        members = rng.permutation(np.flatnonzero(labels == c))
        if len(members) >= 4 * least:
            second[members[: max(round(share * len(members)), least)]] = True
    return np.flatnonzero(~second), np.flatnonzero(second)


def hide_labels(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Keep the labels of `per_class` random examples of each class and mark every other example unlabelled.

    Parameters
    ----------
    labels : (N,) integer array
        Class of each example; -1: it has none.
    per_class : int
        Labels to keep in each class, at least 1; in a class that has fewer, all.
    rng : numpy.random.Generator
        Source of the random choice.

    Returns
    -------
    (N,) int64 array
        `labels` with all but the kept entries replaced by -1.

    Raises
    ------
    TypeError, ValueError
        If `per_class` is no integer of at least 1.

    Examples
    --------
    >>> import numpy as np
    >>> kept = hide_labels(np.array([0, 0, 1, 1]), 1, np.random.default_rng(0))
    >>> sorted(kept.tolist())
    [-1, -1, 0, 1]
    """
    arrays.check_not_masked(labels, "labels")
    per_class = scalars.as_int(per_class, "labels_per_class", 1)
    kept = np.full(len(labels), -1, np.int64)
    for c in np.unique(labels[labels >= 0]):
        kept[rng.permutation(np.flatnonzero(labels == c))[:per_class]] = c
    return kept
