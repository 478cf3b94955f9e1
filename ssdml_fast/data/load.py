"""Data sets by name and path, as the command line takes them: ``mnist:PATH``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .cifar10 import load_cifar10
from .dataset import DataError, Dataset, Source
from .digits import load_digits
from .features import load_features
from .idx import load_mnist
from .images import image_folder
from .zero_shot import cars196, cub200, stanford_online_products

SIZE = 227  # pixels a side of zero-shot images in memory: what a network's usual crop of 224 leaves room in

PHOTOGRAPHS = ("cub200", "cars196", "sop")  # no network here takes them: they are described by features first

LOADERS: dict[str, Callable[[Path], Source]] = {
    "mnist": load_mnist,
    "fashion-mnist": load_mnist,
    "cifar10": load_cifar10,
    "cub200": lambda path: cub200(path).decode(SIZE),
    "cars196": lambda path: cars196(path).decode(SIZE),
    "sop": lambda path: stanford_online_products(path).decode(SIZE),
    "images": lambda path: image_folder(path).decode(),
    "features": load_features,
}


def load(name: str, seed: int = 0, labels_per_class: int = 10) -> Dataset:
    """Load a data set and split it for semi-supervised training.

    Parameters
    ----------
    name : str
        ``"digits"``, which comes with scikit-learn, or the kind and the path of files, as in ``"mnist:data/mnist"``:
        ``mnist``, ``fashion-mnist``, ``cifar10``, ``cub200``, ``cars196``, ``sop`` (Stanford Online Products),
        ``images`` (a folder per class), ``features`` (``.npz`` or a folder of ``.npy``).
    seed : int
        Decides the split and which labels are kept, at least 0.
    labels_per_class : int
        Labelled training examples of each class, at least 1.

    Returns
    -------
    Dataset
        uint8 images, or float32 features; digits are float32 already.

    Raises
    ------
    DataError
        If there is no such kind, or files are missing or damaged.
    TypeError, ValueError
        If `seed` or `labels_per_class` is no integer or out of range.

    Examples
    --------
    >>> load("digits").images.shape
    (1019, 1, 8, 8)
    """
    if name == "digits":
        return load_digits(seed, labels_per_class)
    return read(name).split(seed, labels_per_class)


def read(name: str) -> Source:
    """Load the files of ``KIND:PATH``, with all their labels."""
    kind, _, path = name.partition(":")
    if kind not in LOADERS or not path:
        raise DataError(f"data must be digits or KIND:PATH with KIND one of {', '.join(LOADERS)}, found {name!r}")
    return LOADERS[kind](_expanded(path))


def absolute(name: str) -> str:
    """Return the name with its path made absolute, so that it holds in any folder.

    Examples
    --------
    >>> absolute("digits"), absolute("mnist:/data/../mnist")
    ('digits', 'mnist:/mnist')
    """
    kind, _, path = name.partition(":")
    return f"{kind}:{_expanded(path).resolve()}" if path else name


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"data must be at a path of this system, found {path!r}, whose user has no home here") from None
