"""CIFAR-10, from its pickles or from image files."""

from __future__ import annotations

import os

import numpy as np

from .dataset import Account, DataError, Source
from .files import File, open_files, read, some_names
from .images import find_images
from .pickled import load_pickled

TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"
META = "batches.meta"


def load_cifar10(path: str | os.PathLike[str]) -> Source:
    """Load CIFAR-10.

    Parameters
    ----------
    path : str or path
        The folder ``cifar-10-batches-py``, a folder that holds it, or ``cifar-10-python.tar.gz``; or a folder or tar of
        image files ``train/<class>/<image>`` and ``test/<class>/<image>``.

    Returns
    -------
    Source
        uint8 images of shape (3, 32, 32).

    Raises
    ------
    DataError
        If a file is missing or damaged, or a pickle holds more than plain data and arrays of bytes.
    ImportError
        If image files are to be decoded and Pillow is not installed.

    Examples
    --------
    >>> load_cifar10("cifar-10-python.tar.gz").images.shape  # doctest: +SKIP
    (50000, 3, 32, 32)
    """
    tree = open_files(path)
    pickles = {name.rsplit("/", 1)[-1]: file for name, file in tree.files.items()}
    if not set(pickles) & {*TRAIN, TEST}:
        return find_images(tree, path).decode((32, 32))
    if missing := {*TRAIN, TEST} - set(pickles):
        raise DataError(f"expected {', '.join(sorted(missing))} in {path}, found {some_names(tree.files)}")
    classes = _classes(pickles[META]) if META in pickles else tuple(map(str, range(10)))
    images, labels = zip(*(_batch(pickles[name], name, len(classes)) for name in (*TRAIN, TEST)), strict=True)
    return Source(
        classes, np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1], labels[-1],
        account=Account("the six pickles of CIFAR-10: five batches for training, one for testing"),
    )  # fmt: skip


def _batch(file: File, name: str, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    content = load_pickled(read(file), name)
    try:
        images, listed = content[b"data"], content[b"labels"]
        if not isinstance(images, np.ndarray) or not all(type(label) is int for label in listed):
            raise ValueError("'data' that are no array, or 'labels' that are no integers")
        images, labels = images.reshape(-1, 3, 32, 32), np.array(listed, np.int64)
        if labels.shape != (len(images),):
            raise ValueError(f"{len(images)} images, labels of shape {labels.shape}")
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= n_classes:
            raise ValueError(f"labels from {labels.min()} to {labels.max()} for {n_classes} classes")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{name} must be a CIFAR-10 batch with 'data' (N, 3072) and 'labels', found {error}") from None
    return images, labels


def _classes(file: File) -> tuple[str, ...]:
    content = load_pickled(read(file), META)
    try:
        return tuple(name.decode() for name in content[b"label_names"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{META} must hold 'label_names', found {error!r}") from None
