"""MNIST's file format, IDX, in which Fashion-MNIST and others come too."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import Account, DataError, Source
from .files import beside

_UBYTE = 8  # the type code of unsigned bytes


def load_mnist(path: str | os.PathLike[str]) -> Source:
    """Load MNIST, Fashion-MNIST or any data set in the same four files.

    Parameters
    ----------
    path : str or path
        Folder of ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
        ``t10k-labels-idx1-ubyte``, each as it is or compressed (``.gz``); ``.idx`` in place of ``-idx`` will do.

    Returns
    -------
    Source
        uint8 images of shape (1, height, width).

    Raises
    ------
    DataError
        If a file is missing or damaged.

    Examples
    --------
    >>> load_mnist("mnist").images.shape  # doctest: +SKIP
    (60000, 1, 28, 28)
    """
    parts: list[Any] = []
    for prefix in ("train", "t10k"):
        images = read_idx(_find(Path(path), f"{prefix}-images", "idx3-ubyte"), ndim=3)
        labels = read_idx(_find(Path(path), f"{prefix}-labels", "idx1-ubyte"), ndim=1)
        if len(images) != len(labels):
            raise DataError(
                f"{path} must hold one label per image, found {len(labels)} for {len(images)} {prefix} images"
            )
        parts += [images[:, None], labels.astype(np.int64)]
    n_classes = max(int(labels.max(initial=-1)) for labels in parts[1::2]) + 1
    images, labels, test_images, test_labels = parts
    account = Account("the four IDX files of MNIST: train and t10k, images and labels")
    return Source(tuple(map(str, range(n_classes))), images, labels, test_images, test_labels, account=account)


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read an IDX file of bytes.

    Parameters
    ----------
    path : Path
        The file, gzip-compressed if its name ends so.
    ndim : int
        Dimensions that it must have.

    Returns
    -------
    uint8 array

    Raises
    ------
    DataError
        If it is damaged, or of other dimensions or another type.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    header = 4 + 4 * ndim
    magic = content[:4]
    if len(content) < header or magic != bytes([0, 0, _UBYTE, ndim]):
        raise DataError(
            f"{path} must be an IDX file of bytes in {ndim} dimensions, found one that begins {magic.hex()}"
        )
    shape = struct.unpack(f">{ndim}I", content[4:header])
    size = int(np.prod(shape, dtype=object))
    if len(content) != header + size:
        raise DataError(
            f"{path} must hold {size} bytes after its header (shape {shape}), found {len(content) - header}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()  # writable


def _find(folder: Path, stem: str, kind: str) -> Path:
    candidates = [folder / f"{stem}{joint}{kind}{end}" for joint in "-." for end in ("", ".gz")]
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(f"expected {stem}-{kind} or {stem}-{kind}.gz in {folder}, found {beside(candidates[0])}")
