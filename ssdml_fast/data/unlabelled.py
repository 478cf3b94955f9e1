"""Unlabelled examples of one's own beside any data set."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .damage import UNDECODED, DamagedPictures
from .dataset import PREFIXES, Account, DataError, LeftOut, Source
from .features import load_features
from .files import File, open_files
from .images import ImageFiles, images_in, is_image, why_none
from .pictures import Progress, decode_parts
from .tables import SUFFIXES

if TYPE_CHECKING:
    from .._world import World

Found = TypeVar("Found", bound=ImageFiles | Source)


def with_unlabelled(
    found: Found,
    path: str | os.PathLike[str],
    background: str = "white",
    skip_damaged: bool = False,
    progress: Progress | None = None,
    world: World | None = None,
) -> Found:
    """Add unlabelled training examples.

    Parameters
    ----------
    found : ImageFiles or Source
        The data set.
    path : str or path
        Images, in a folder or archive, whatever folders they lie in. For features, what
        :func:`~ssdml_fast.data.features.load_features` reads: its training part, whose labels are not used; for arrays
        of images too.
    background, skip_damaged, progress, world
        As :meth:`ImageFiles.decode` takes them, where images are to be decoded to the size and channels of arrays.

    Returns
    -------
    ImageFiles or Source
        With these examples after the others, and label -1. Names of images begin with ``unlabelled/``, or another word
        with which no name of the others begins. A file that is among the images already is left out, as the account
        says.

    Raises
    ------
    DataError
        If there are no such examples, or they cannot be read or are of another form than the others.
    TypeError, ValueError
        If `background` is no colour.
    ImportError
        If images are to be decoded and Pillow is not installed, or a Parquet file to be read without pyarrow.

    Examples
    --------
    >>> import tempfile
    >>> source = Source(("cat", "dog"), np.zeros((2, 3), np.float32), np.array([0, 1]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/more.npy", np.ones((3, 3)))
    ...     with_unlabelled(source, f"{folder}/more.npy").labels
    array([ 0,  1, -1, -1, -1])
    """
    path = Path(path)
    if isinstance(found, ImageFiles):
        new, files, account = _images(path, found)
        labels = np.append(found.labels, np.full(len(files), -1, np.int64))
        return replace(found, names=[*found.names, *new], files=[*found.files, *files], labels=labels, account=account)
    if not isinstance(found.images, np.ndarray):
        raise DataError(f"unlabelled examples must be added before images are decoded, found {type(found.images)}")
    if found.images.ndim == 2 or _has_arrays(path):
        more = _features(path, found)
    else:
        more = _decoded(path, found, skip_damaged, background=background, progress=progress, world=world)
    images = np.concatenate([found.images, more.images])
    labels = np.append(found.labels, np.full(len(more.images), -1, np.int64))
    names = None
    if found.names is not None:
        names = [*found.names, *(more.names or (f"unlabelled/{row}" for row in range(len(more.images))))]
    return replace(found, images=images, labels=labels, names=names, account=more.account)


def _images(path: Path, found: ImageFiles | Source) -> tuple[list[str], list[File], Account]:
    """Names and files of all images at `path` that are not among the others, and what to say of them."""
    tree = open_files(path, is_image)
    images = images_in(tree)
    if not images:
        raise DataError(f"expected unlabelled images in {path}, found none")
    given = [*itertools.chain(*(getattr(found, f"{part}names") or () for part in PREFIXES.values()))]
    begin = _begin(given)
    others = [name for name in tree.files if name not in images]
    left_out = [
        *(LeftOut(f"{begin}{left.name}", left.why) for left in tree.left_out),
        *(LeftOut(f"{begin}{name}", why_none(name)) for name in others),
    ]
    known = _identities(itertools.chain(*(getattr(found, f"{part}files", ()) for part in PREFIXES.values())))
    names, files = [], []
    for name, file in images.items():
        if _identities([file]) & known:
            left_out.append(LeftOut(f"{begin}{name}", "among the other images already"))
        else:
            names.append(begin + name)
            files.append(file)
    if not files:
        raise DataError(f"expected unlabelled images in {path}, found none that is not among the others")
    notes = [f"{len(files)} unlabelled image{'s' * (len(files) > 1)} of {path} as {begin}", *tree.notes()]
    if any("/" in name for name in images):
        notes.append(f"folders in {path} are neither classes nor parts")
    return names, files, found.account.adding(left_out, notes)


def _begin(names: list[str]) -> str:
    """What the names of unlabelled images begin with, and no other does."""
    for number in itertools.count(1):
        begin = f"unlabelled-{number}/" if number > 1 else "unlabelled/"
        if not any(name.startswith(begin) for name in names):
            return begin
    raise AssertionError


def _identities(files: Iterable[File]) -> set[tuple[int, int]]:
    """What tells the files on the disk from others, by whatever path."""
    known = set()
    for file in files:
        if not isinstance(file, bytes):
            try:
                status = os.stat(file)
            except OSError:  # it has gone, as decoding tells
                continue
            known.add((status.st_dev, status.st_ino))
    return known


def _has_arrays(path: Path) -> bool:
    if os.path.isdir(path):
        return any(name.endswith(".npy") for name in os.listdir(path))
    return path.suffix.lower() in (".npz", ".npy", *SUFFIXES)


def _features(path: Path, found: Source) -> Source:
    more = load_features(path)
    shape, own = found.images.shape[1:], more.images.shape[1:]
    if own != shape or (more.images.dtype == np.uint8) != (found.images.dtype == np.uint8):
        raise DataError(
            f"unlabelled examples must be of shape {shape} and {found.images.dtype} as the others, found {own} and "
            f"{more.images.dtype} in {path}"
        )
    notes = [f"{len(more.images)} unlabelled example{'s' * (len(more.images) > 1)} of {path}"]
    if n := int((more.labels >= 0).sum()):
        notes.append(f"{n} labels of {path} are not used")
    left_out = [*more.account.left_out]
    for part, images in (("validation", more.val_images), ("test", more.test_images)):
        if images is not None:
            left_out.append(LeftOut(f"{len(images)} {part} examples of {path}", "not of its training part"))
    return replace(more, account=found.account.adding(left_out, notes))


def _decoded(path: Path, found: Source, skip_damaged: bool, **how: Any) -> Source:
    _, channels, height, width = found.images.shape
    if channels not in (1, 3) or found.images.dtype != np.uint8:
        raise DataError(
            f"unlabelled images can be decoded for uint8 images of 1 or 3 channels, found {channels} channels of "
            f"{found.images.dtype}"
        )
    names, files, account = _images(path, found)
    size = height if height == width else (height, width)
    (images,), damaged = decode_parts([(files, names)], size, grey=channels == 1, draft=True, **how)
    if damaged and not skip_damaged:
        raise DamagedPictures([(one.name, one.why) for one in damaged])
    if images is None or not len(images):
        raise DataError(f"expected unlabelled images that can be decoded in {path}, found none")
    rows = {one.row for one in damaged}
    names = [name for row, name in enumerate(names) if row not in rows]
    account = account.adding(LeftOut(one.name, f"{UNDECODED}{one.why}") for one in damaged)
    return Source((), images, np.full(len(images), -1, np.int64), names=names, account=account)
