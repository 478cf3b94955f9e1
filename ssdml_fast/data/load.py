"""Data sets by name and path, as the command line takes them: ``mnist:PATH``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import _scalars as scalars
from .cifar10 import load_cifar10
from .dataset import Account, DataError, Dataset, Source, as_labels_per_class
from .digits import centred, read_digits
from .features import load_features
from .idx import load_mnist
from .images import ImageFiles, image_folder
from .photo_table import photo_table
from .relabel import with_labels
from .unlabelled import with_unlabelled
from .zero_shot import cars196, cub200, stanford_online_products

SIZE = 227  # pixels a side of zero-shot images in memory: what a network's usual crop of 224 leaves room in

LOADERS: dict[str, Callable[[Path], Source | ImageFiles]] = {
    "mnist": load_mnist,
    "fashion-mnist": load_mnist,
    "cifar10": load_cifar10,
    "cub200": cub200,
    "cars196": cars196,
    "sop": stanford_online_products,
    "images": image_folder,
    "table": photo_table,
    "features": load_features,
}
ZERO_SHOT = ("cub200", "cars196", "sop")


def load(
    name: str,
    seed: int = 0,
    labels_per_class: int | str | None = None,
    *,
    unlabelled: str | None = None,
    labels: str | None = None,
    image_size: int | None = None,
    background: str = "white",
    skip_damaged: bool = False,
    strict: bool = False,
) -> Dataset:
    """Load a data set and split it for semi-supervised training.

    Parameters
    ----------
    name : str
        ``"digits"``, which comes with scikit-learn, or the kind and the path of files, as in ``"mnist:data/mnist"``:
        ``mnist``, ``fashion-mnist``, ``cifar10``, ``cub200``, ``cars196``, ``sop`` (Stanford Online Products),
        ``images`` (folders of images), ``table`` (a table of the paths of images), ``features`` (arrays).
    seed : int
        Decides the split and which labels are kept, at least 0.
    labels_per_class : int or "all", optional
        Labelled training examples of each class, at least 1. By default 10, or all where there are unlabelled examples,
        or `labels`.
    unlabelled : str, optional
        Folder or archive of more images, all of them without labels; for features, more features.
    labels : str, optional
        Table with the columns path and label, which goes before what the data say.
    image_size : int, optional
        Pixels a side that images are brought to. By default they stay as they are, and must be of one size.
    background : str
        What transparent pixels show: the name of a colour, or #rrggbb.
    skip_damaged : bool
        Go on without images that cannot be decoded; they are listed in the account.
    strict : bool
        Raise an error where anything is left out.

    Returns
    -------
    Dataset
        uint8 images, or float32 features; digits are float32 already. Its `account` says what was understood, and what
        was left out.

    Raises
    ------
    DataError
        If there is no such kind, files are missing or damaged, or `image_size` is given for arrays.
    TypeError, ValueError
        If `seed`, `labels_per_class` or `image_size` is no integer or out of range, or `background` is no colour.

    Examples
    --------
    >>> load("digits").images.shape
    (1019, 1, 8, 8)
    """
    scalars.as_int(seed, "seed", 0)  # before any work, as what follows
    as_labels_per_class(labels_per_class, False)
    if image_size is not None:
        scalars.as_int(image_size, "image_size", 1)
    if labels_per_class is None and labels:
        labels_per_class = "all"
    how = {"background": background, "skip_damaged": skip_damaged}
    found = find(name, unlabelled, labels, **how)
    if image_size is not None and isinstance(found, Source):
        raise DataError(f"image_size must be None for {name}, whose examples are arrays, found {image_size}")
    source = decoded(found, image_size or usual_size(name), strict, **how)
    return split(name, source, seed, labels_per_class)


def read(name: str) -> Source:
    """Load the files of ``KIND:PATH``, with all their labels."""
    return decoded(find(name), usual_size(name))


def usual_size(name: str) -> int | None:
    """Pixels a side that images are brought to unless another size is asked for; None: they stay as they are."""
    return SIZE if name.partition(":")[0] in ZERO_SHOT else None


def find(name: str, unlabelled: str | None = None, labels: str | None = None, **decoding: Any) -> Source | ImageFiles:
    """Find the examples of a data set, image files undecoded but for those that join arrays; see :func:`load`."""
    kind, _, path = name.partition(":")
    if name != "digits" and (kind not in LOADERS or not path):
        raise DataError(f"data must be digits or KIND:PATH with KIND one of {', '.join(LOADERS)}, found {name!r}")
    found = read_digits() if name == "digits" else LOADERS[kind](expanded(path))
    if unlabelled:
        found = with_unlabelled(found, expanded(unlabelled), **decoding)
    if labels:
        found = with_labels(found, expanded(labels))
    return found


def decoded(found: Source | ImageFiles, size: int | None = None, strict: bool = False, **decoding: Any) -> Source:
    """Decode what :func:`find` found, if it is image files, as :meth:`ImageFiles.decode` does; see :func:`load`."""
    if strict:  # before any work
        refuse_left_out(found.account)
    source = found.decode(size, **decoding) if isinstance(found, ImageFiles) else found
    if strict:
        refuse_left_out(source.account)
    return source


def split(name: str, source: Source, seed: int, labels_per_class: int | str | None) -> Dataset:
    """Divide what :func:`decoded` gives, as :meth:`Source.split` does; see :func:`load`."""
    data = source.split(seed, labels_per_class)
    return centred(data) if name == "digits" else data


def refuse_left_out(account: Account) -> None:
    """Refuse data of which something is not used; the message lists all of it."""
    if account.left_out:
        listed = "".join(f"\n  {each.name}: {each.why}" for each in account.left_out)
        raise DataError(
            f"with strict all that is found must be of use, found {len(account.left_out)} that is not:{listed}"
        )


def absolute(name: str) -> str:
    """Return the name with its path made absolute, so that it holds in any folder.

    Examples
    --------
    >>> absolute("digits"), absolute("mnist:/data/../mnist")
    ('digits', 'mnist:/mnist')
    """
    kind, _, path = name.partition(":")
    if not path:
        return name
    try:
        return f"{kind}:{expanded(path).resolve()}"
    except (OSError, RuntimeError) as error:  # RuntimeError: of links that lead in a circle
        raise DataError(f"data must be at a path that can be looked at, found {path!r}: {error}") from None


def expanded(path: str) -> Path:
    """Return a path with the user's home in place of ``~``."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"data must be at a path of this system, found {path!r}, whose user has no home here") from None
