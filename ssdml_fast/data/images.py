"""Image files, by class: found in folders."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .dataset import Account, DataError, LeftOut, Source
from .files import File, Tree, open_files, some_names
from .layouts import understand
from .pictures import decode_images

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def _no_labels() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class ImageFiles:
    """Image files of a data set that are not decoded yet.

    Attributes
    ----------
    classes : tuple of str
        Name of each class.
    names, test_names, val_names : list of str
        Names of the training, test and validation images: their paths below the folder of the data or in its archive.
    files, test_files, val_files : list
        The images: a path or the encoded bytes of each. Empty where there is no such part.
    labels, test_labels, val_labels : int64 arrays
        Their classes, 0 … C - 1; -1 for a training image without one.
    account : Account
        What the folders were taken for, and what was left out.
    """

    classes: tuple[str, ...]
    names: list[str]
    files: list[File]
    labels: np.ndarray
    test_names: list[str] = field(default_factory=list)
    test_files: list[File] = field(default_factory=list)
    test_labels: np.ndarray = field(default_factory=_no_labels)
    val_names: list[str] = field(default_factory=list)
    val_files: list[File] = field(default_factory=list)
    val_labels: np.ndarray = field(default_factory=_no_labels)
    account: Account = field(default_factory=Account)

    def decode(self, size: int | tuple[int, ...] | None = None) -> Source:
        """Decode all images with :func:`decode_images`."""
        images = decode_images(self.files, self.names, size)
        parts: dict = {}
        for part in ("test", "val"):
            if files := getattr(self, f"{part}_files"):
                names = getattr(self, f"{part}_names")
                parts[f"{part}_images"] = decode_images(
                    files, names, size or images.shape[2:], grey=images.shape[1] == 1
                )
                parts |= {f"{part}_labels": getattr(self, f"{part}_labels"), f"{part}_names": names}
        return Source(self.classes, images, self.labels, names=self.names, account=self.account, **parts)


def image_folder(path: str | os.PathLike[str]) -> ImageFiles:
    """Find images in folders, on the disk or in a tar or zip.

    Parameters
    ----------
    path : str or path
        Folder or archive of ``<class>/<image>``; of ``train/``, ``val/`` and ``test/``, or some of these, with folders
        of classes in them; with ``unlabelled/`` beside the classes or the parts; or of images alone, none of which has
        a label. :mod:`ssdml_fast.data.layouts` has the rules, and other names for these folders.

    Returns
    -------
    ImageFiles
        Classes are the sorted names of their folders. Its account says what the folders were taken for, and has each
        file and folder that is not used.

    Raises
    ------
    DataError
        If there are no such images, the folders can mean more than one thing, or they cannot be read.

    Notes
    -----
    Files of other suffixes than those of images are opened, and are images where their first bytes say so.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat/1.jpg", "dog/2.jpg", "dog/notes.txt", "unlabelled/3.jpg"):
    ...         (pathlib.Path(folder) / name).parent.mkdir(exist_ok=True)
    ...         (pathlib.Path(folder) / name).touch()
    ...     found = image_folder(folder)
    >>> found.classes, found.labels, found.account.layout
    (('cat', 'dog'), array([ 0,  1, -1]), 'a folder for each class, unlabelled images in unlabelled/')
    >>> found.account.left_out
    (LeftOut(name='dog/notes.txt', why='no image'),)
    """
    return find_images(open_files(path, is_image), path)


def is_image(name: str, head: bytes) -> bool:
    """Whether a file is taken for an image, by its name or else its first bytes."""
    return name.lower().endswith(SUFFIXES)


def find_images(tree: Tree, path: str | os.PathLike[str]) -> ImageFiles:
    """Sort out images by the folders that they lie in, as :func:`image_folder`; `path` is for messages."""
    images = {name: file for name, file in tree.files.items() if is_image(name, b"")}
    others = [name for name in tree.files if name not in images]
    if not images:
        raise DataError(
            f"expected images in {path} as <class>/<image>, as train/<class>/<image> and test/<class>/<image>, or with "
            f"unlabelled/<image> beside these, found {some_names(others)}"
        )
    layout = understand(images, [*others, *(f"{name}/" for name in tree.empty)], path)
    known = itertools.chain(layout.train.values(), layout.test.values(), layout.val.values())
    classes = tuple(sorted({name for name in known if name is not None}))
    of: dict[str | None, int] = {None: -1, **{name: c for c, name in enumerate(classes)}}
    found: dict[str, Any] = {}
    for before, part in (("", layout.train), ("test_", layout.test), ("val_", layout.val)):
        names = sorted(part)
        found[f"{before}names"], found[f"{before}files"] = names, [images[name] for name in names]
        found[f"{before}labels"] = np.array([of[part[name]] for name in names], np.int64)
    left_out = [*tree.left_out, *layout.left_out, *(LeftOut(name, "no image") for name in others)]
    account = Account(layout.text, tuple(sorted(left_out, key=lambda left: left.name)), (*layout.notes, *tree.notes()))
    return ImageFiles(classes, **found, account=account)
