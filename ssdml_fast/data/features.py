"""Features, or images, that a user has as arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import DataError, Source
from .files import beside


def load_features(path: str | os.PathLike[str]) -> Source:
    """Load arrays.

    Parameters
    ----------
    path : str or path
        A ``.npz`` file, or a folder of ``.npy`` files, with the arrays ``x_train``, ``y_train``, ``x_test`` and
        ``y_test``; or with ``x`` and ``y`` only, where there is no test part. x is (N, d), or (N, ...) uint8 images
        with the channels first; y is (N,) integers, at least 0.

    Returns
    -------
    Source
        Features as float32; uint8 as it is, (N, height, width) images with one channel added.

    Raises
    ------
    DataError
        If a file or an array is missing, damaged or of another form.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/my.npz", x=np.ones((4, 2)), y=np.array([5, 5, 7, 7]))
    ...     source = load_features(f"{folder}/my.npz")
    >>> source.images.dtype, source.labels, source.classes
    (dtype('float32'), array([0, 0, 1, 1]), ('5', '7'))
    """
    path = Path(path)
    arrays = _arrays(path)
    suffixes = ("_train", "_test") if {"x_train", "y_train", "x_test", "y_test"} <= set(arrays) else ("",)
    if suffixes == ("",) and not {"x", "y"} <= set(arrays):
        found = ", ".join(sorted(arrays)) or "none"
        raise DataError(f"expected arrays x_train, y_train, x_test and y_test, or x and y, in {path}, found {found}")
    values = np.unique(np.concatenate([_labels(arrays, s, path) for s in suffixes]))
    parts: list[Any] = []
    for suffix in suffixes:
        labels = _labels(arrays, suffix, path)
        parts += [_examples(arrays[f"x{suffix}"], f"x{suffix} in {path}", len(labels)), np.searchsorted(values, labels)]
    if len(suffixes) == 2 and parts[0].shape[1:] != parts[2].shape[1:]:
        raise DataError(
            f"x_train and x_test in {path} must be of one form, found {parts[0].shape} and {parts[2].shape}"
        )
    return Source(tuple(map(str, values)), *parts)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if (not path.is_dir() and path.suffix != ".npz") or not path.exists():
        raise DataError(f"expected an .npz file or a folder of .npy files at {path}, found {beside(path)}")
    try:
        if path.is_dir():
            return {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in sorted(path.glob("*.npy"))}
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except MemoryError:
        raise
    except Exception as error:  # NumPy and zipfile raise whatever a damaged file makes them stumble over
        raise DataError(f"{path} cannot be read: {error}") from None


def _labels(arrays: dict[str, np.ndarray], suffix: str, path: Path) -> np.ndarray:
    labels = arrays[f"y{suffix}"]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels.size and labels.min() < 0):
        found = f"{labels.dtype} of shape {labels.shape}"
        raise DataError(f"y{suffix} in {path} must be (N,) integers, at least 0, found {found}")
    return labels.astype(np.int64)


def _examples(x: np.ndarray, name: str, n: int) -> np.ndarray:
    if n == 0:
        raise DataError(f"{name} must hold at least one example, found shape {x.shape}")
    if x.ndim < 2 or len(x) != n or x.dtype.kind not in "fiu":
        raise DataError(f"{name} must be numbers, one row for each of {n} labels, found {x.dtype} of shape {x.shape}")
    if x.dtype == np.uint8 and x.ndim > 2:
        return np.asarray(x[:, None] if x.ndim == 3 else x)
    with np.errstate(over="ignore"):  # told below
        x = np.asarray(x, np.float32)
    if not np.isfinite(x).all():
        raise DataError(f"{name} must be finite, as float32 too")
    return x
