"""CIFAR-10, from its pickles or from image files."""

from __future__ import annotations

import io
import os
import pickle
from typing import Any

import numpy as np

from .dataset import DataError, Source
from .files import File, open_files, read, some_names
from .images import find_images

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
        If a file is missing or damaged, or a pickle asks for more than arrays.
    ImportError
        If image files are to be decoded and Pillow is not installed.

    Examples
    --------
    >>> load_cifar10("cifar-10-python.tar.gz").images.shape  # doctest: +SKIP
    (50000, 3, 32, 32)
    """
    files = open_files(path)
    pickles = {name.rsplit("/", 1)[-1]: file for name, file in files.items()}
    if not set(pickles) & {*TRAIN, TEST}:
        return find_images(files, path).decode((32, 32))
    if missing := {*TRAIN, TEST} - set(pickles):
        raise DataError(f"expected {', '.join(sorted(missing))} in {path}, found {some_names(files)}")
    classes = _classes(pickles[META]) if META in pickles else tuple(map(str, range(10)))
    images, labels = zip(*(_batch(pickles[name], name, len(classes)) for name in (*TRAIN, TEST)), strict=True)
    return Source(classes, np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1], labels[-1])


def _batch(file: File, name: str, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    content = _unpickle(file, name)
    try:
        images = np.asarray(content[b"data"], np.uint8).reshape(-1, 3, 32, 32)
        labels = np.asarray(content[b"labels"], np.int64)
        if labels.shape != (len(images),):
            raise ValueError(f"{len(images)} images, labels of shape {labels.shape}")
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= n_classes:
            raise ValueError(f"labels from {labels.min()} to {labels.max()} for {n_classes} classes")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{name} must be a CIFAR-10 batch with 'data' (N, 3072) and 'labels', found {error}") from None
    return images, labels


def _classes(file: File) -> tuple[str, ...]:
    content = _unpickle(file, META)
    try:
        return tuple(name.decode() for name in content[b"label_names"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{META} must hold 'label_names', found {error!r}") from None


def _unpickle(file: File, name: str) -> Any:
    try:
        return _ArraysOnly(io.BytesIO(read(file)), encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:  # unpickling raises whatever a damaged file makes it stumble over
        raise DataError(f"{name} cannot be read as a pickle: {error}") from None


class _ArraysOnly(pickle.Unpickler):
    """Reads containers, numbers, strings and NumPy arrays; a pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in known:
            raise DataError(f"a pickle of arrays must not need {module}.{name}; it may be malicious and is not read")
        return known[module, name]


def _reconstruct(kind: type, shape: tuple[int, ...], dtype: bytes) -> np.ndarray:
    """The empty array that a pickled one is then filled into; its place in NumPy differs between versions."""
    return np.ndarray.__new__(kind, shape, dtype.decode())


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as Python 3 writes them to a pickle of protocol 2."""
    return text.encode(encoding)
