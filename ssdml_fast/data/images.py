"""Image files, by class: found in folders."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .damage import UNDECODED, DamagedPictures
from .dataset import PREFIXES, Account, DataError, LeftOut, Source
from .files import File, Tree, open_files, some_names
from .formats import format_of, is_picture
from .layouts import understand
from .pictures import Progress, check_how, check_parts, decode_images, decode_parts, look

if TYPE_CHECKING:
    from .._world import World

__all__ = ["ImageFiles", "decode_images", "find_images", "image_folder"]

SUFFIXES = (
    ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm",
    ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""What the names of images end in, in small letters."""

UNREAD = (
    ".arw", ".cr2", ".cr3", ".dng", ".eps", ".nef", ".orf", ".pdf", ".psd", ".raf", ".rw2", ".svg", ".tga", ".xcf",
)  # fmt: skip
"""And of images that are not read: raw ones begin as TIFF does, and would be taken for the preview in them."""

IN_MEMORY = 2 << 30  # bytes of decoded images, of all parts, that are kept as arrays


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

    def look(self, background: str = "white") -> tuple[tuple[int, int] | None, bool]:
        """Look at the headers of all images.

        Parameters
        ----------
        background : str
            What transparent images are shown over, as :meth:`decode` takes it.

        Returns
        -------
        size : (height, width) or None
            The size of all of them, as they are shown; None if they differ, or all are damaged.
        grey : bool
            Whether there are shades of grey only.
        """
        files, names = (
            [one for part in PREFIXES.values() for one in getattr(self, part + of)] for of in ("files", "names")
        )
        sizes, grey, damaged = look(files, names, background)
        sound = np.ones(len(files), bool)
        sound[[row for row, _ in damaged]] = False
        known = np.unique(sizes[sound], axis=0)
        size = (int(known[0, 0]), int(known[0, 1])) if len(known) == 1 else None
        return size, bool(grey[sound].all())

    def decode(
        self,
        size: int | tuple[int, ...] | None = None,
        crop: float = 1.0,
        grey: bool | None = None,
        background: str = "white",
        skip_damaged: bool = False,
        progress: Progress | None = None,
        world: World | None = None,
    ) -> Source:
        """Decode the images of all parts, on as many threads as the process may use cores.

        Parameters
        ----------
        size : int or (height, width), optional
            A number: the largest central square of each image, resized to that many pixels a side; of JPEG files that
            are much larger, from a half, a quarter or an eighth of their size, to which they are decoded at once. A
            pair: the size that they must all have; by default that of the first.
        crop : float
            Share of the sides of that square that is kept, its centre.
        grey : bool, optional
            One channel rather than three (red, green, blue); by default where all images are grey.
        background : str
            The colour that transparent images are shown over.
        skip_damaged : bool
            Whether to leave out images that cannot be decoded, as the account then says, rather than to refuse them.
        progress : callable, optional
            Called now and then, and at the end, with the share that is done.
        world : World, optional
            Processes that share the work, as each calls this with the same files; by default this one does all.

        Returns
        -------
        Source
            An array of uint8 for each part where all take at most 2 GiB; else an
            :class:`~ssdml_fast.data.ImageFileDataset`, which decodes them again when they are asked for.

        Raises
        ------
        DataError
            If images are damaged (all of them are named), or differ in size and `size` is no number; or if none is left
            for training.
        TypeError, ValueError
            If `size`, `crop` or `background` is none.
        ImportError
            If Pillow is not installed.
        """
        size, crop, _ = check_how(size, crop, background)
        parts = [(getattr(self, f"{part}files"), getattr(self, f"{part}names")) for part in PREFIXES.values()]
        shape = size if isinstance(size, tuple) else (size, size) if size is not None else self._first_size(background)
        n_pixels = sum(len(files) for files, _ in parts) * (int(shape[0]) * int(shape[1]) if shape else 0)
        is_large = n_pixels > IN_MEMORY
        if n_pixels * 3 > IN_MEMORY and not is_large:
            grey = self.look(background)[1] if grey is None else grey
            is_large = not grey
        if is_large:
            grey = self.look(background)[1] if grey is None else grey
            damaged = check_parts(parts, size, crop, grey, background, progress, world=world)
            images: list[Any] = []
        else:
            images, damaged = decode_parts(parts, size, crop, grey, background, progress, draft=True, world=world)
        if damaged and not skip_damaged:
            raise DamagedPictures([(one.name, one.why) for one in damaged])
        sound = self._without([[one.row for one in damaged if one.part == part] for part in range(len(PREFIXES))])
        if not sound.files:
            raise DataError(f"at least one image for training must be sound, found {len(self.files)} that are damaged")
        if is_large:
            images = sound._lazily(size, crop, bool(grey), background)
        fields: dict[str, Any] = {}
        for part, of_part in zip(PREFIXES.values(), images, strict=True):
            if len(getattr(sound, f"{part}files")):
                fields[f"{part}images"] = of_part
                fields |= {f"{part}{of}": getattr(sound, f"{part}{of}") for of in ("labels", "names")}
        left_out = [LeftOut(one.name, f"{UNDECODED}{one.why}") for one in damaged]
        return Source(self.classes, **fields, account=self.account.adding(left_out))

    def _first_size(self, background: str) -> tuple[int, ...] | None:
        """The size of the first image; where that is damaged, the one of all."""
        sizes, _, damaged = look(self.files[:1], self.names[:1], background)
        return self.look(background)[0] if damaged else tuple(sizes[0].tolist())

    def _without(self, rows: list[list[int]]) -> ImageFiles:
        """These files without some rows of each part."""
        fields: dict[str, Any] = {}
        for part, of_part in zip(PREFIXES.values(), rows, strict=True):
            labels = getattr(self, f"{part}labels")
            kept = np.delete(np.arange(len(labels)), of_part)
            fields[f"{part}labels"] = labels[kept]
            for of in ("files", "names"):
                listed = getattr(self, part + of)
                fields[part + of] = [listed[row] for row in kept] if of_part else listed
        return replace(self, **fields)

    def _lazily(self, size: Any, crop: float, grey: bool, background: str) -> list[Any]:
        from .image_dataset import ImageFileDataset  # deferred: needs torch

        parts = []
        for part in PREFIXES.values():
            names, files, labels = (getattr(self, part + of) for of in ("names", "files", "labels"))
            one = ImageFiles(self.classes, names, files, labels)
            parts.append(ImageFileDataset(one, size, grey=grey, crop=crop, background=background) if files else None)
        return parts


def image_folder(path: str | os.PathLike[str]) -> ImageFiles:
    """Find images in folders, on the disk or in a tar or zip.

    Parameters
    ----------
    path : str or path
        Folder or archive of ``<class>/<image>``; of ``train/``, ``val/`` and ``test/``, or some of these, with folders
        of classes in them; with ``unlabelled/`` beside the classes or the parts; or of images alone, none of which has
        a label. ``ssdml_fast/data/layouts.py`` has the rules, and other names for these folders.

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
    name = name.lower()
    return name.endswith(SUFFIXES) or (not name.endswith(UNREAD) and format_of(head) is not None)


def find_images(tree: Tree, path: str | os.PathLike[str]) -> ImageFiles:
    """Sort out images by the folders that they lie in, as :func:`image_folder`; `path` is for messages."""
    images = images_in(tree)
    others = [name for name in tree.files if name not in images]
    if not images:
        unread = [f"{left.name} ({left.why})" for left in tree.left_out]
        raise DataError(
            f"expected images in {path} as <class>/<image>, as train/<class>/<image> and test/<class>/<image>, or with "
            f"unlabelled/<image> beside these, found {some_names([*others, *unread])}"
        )
    not_read = [name for name in others if name.lower().endswith(UNREAD)]
    lost = {f"{name}/" for name in (*not_read, *(left.name for left in tree.left_out)) if _could_hold_images(name)}
    no_images = (name for name in others if f"{name}/" not in lost)
    layout = understand(images, [*no_images, *(f"{name}/" for name in tree.empty), *lost], path)
    known = itertools.chain(layout.train.values(), layout.test.values(), layout.val.values())
    classes = tuple(sorted({name for name in known if name is not None}))
    of: dict[str | None, int] = {None: -1, **{name: c for c, name in enumerate(classes)}}
    found: dict[str, Any] = {}
    for name, before in PREFIXES.items():
        part: dict[str, str | None] = getattr(layout, name)
        names = sorted(part)
        found[f"{before}names"], found[f"{before}files"] = names, [images[name] for name in names]
        found[f"{before}labels"] = np.array([of[part[name]] for name in names], np.int64)
    without = (left for left in layout.left_out if left.name not in lost)
    left_out = [*tree.left_out, *without, *(LeftOut(name, why_none(name)) for name in others)]
    account = Account(layout.text, tuple(sorted(left_out, key=lambda left: left.name)), (*layout.notes, *tree.notes()))
    return ImageFiles(classes, **found, account=account)


def _could_hold_images(name: str) -> bool:
    """Whether what cannot be read may be a folder of images, or an image in one: then its folder wraps no other."""
    folder, _, last = name.rpartition("/")
    return "." not in last or (bool(folder) and last.lower().endswith((*SUFFIXES, *UNREAD)))


def images_in(tree: Tree) -> dict[str, File]:
    """The files that are images."""

    def is_one(name: str, file: File) -> bool:
        if is_image(name, b""):
            return True
        try:
            return not name.lower().endswith(UNREAD) and is_picture(file)
        except OSError:  # it has gone
            return False

    return {name: file for name, file in tree.files.items() if is_one(name, file)}


def why_none(name: str) -> str:
    """Say why a file is not among the images."""
    return "an image of a format that is not read" if name.lower().endswith(UNREAD) else "no image"
