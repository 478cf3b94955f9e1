"""The handwritten digits that come with scikit-learn: 1,797 real 8x8 images of ten classes, no download."""

from __future__ import annotations

import numpy as np

from .._extras import require
from .dataset import Account, Dataset, Source


def load_digits(seed: int = 0, labels_per_class: int | str | None = None) -> Dataset:
    """Load and split scikit-learn's digits.

    A third of each class is held out for testing and 15% of the rest for validation; of what remains (1,019 images),
    all but `labels_per_class` images of each class lose their label. Pixels are scaled to [0, 1] and the mean
    training image is subtracted.

    Parameters
    ----------
    seed : int
        Decides the split and which labels are kept, at least 0.
    labels_per_class : int or "all", optional
        Labelled training images of each class, at least 1; by default 10.

    Returns
    -------
    Dataset
        With images of shape (1, 8, 8).

    Raises
    ------
    TypeError, ValueError
        If `seed` or `labels_per_class` is no integer or out of range.

    Examples
    --------
    >>> data = load_digits(seed=0)
    >>> data.images.shape[1:], int((data.labels >= 0).sum())
    ((1, 8, 8), 100)
    """
    return centred(read_digits().split(seed, labels_per_class))


def read_digits() -> Source:
    """Load scikit-learn's digits with all their labels, pixels scaled to [0, 1]."""
    require("load_digits", "sklearn")
    from sklearn import datasets  # deferred: scikit-learn takes a second to import

    pixels, classes = datasets.load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    account = Account("the 8x8 digits of scikit-learn")
    return Source(tuple("0123456789"), images, classes.astype(np.int64), account=account)


def centred(data: Dataset) -> Dataset:
    """Subtract the mean training image."""
    mean = data.images.mean(0)
    return data.map(lambda part: part - mean)
