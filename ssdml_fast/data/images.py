"""Image files, by class: found in folders."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from .dataset import DataError, Source
from .files import File, Files, below, open_files, some_names
from .pictures import decode_images

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFiles:
    """Image files of a data set that are not decoded yet.

    Attributes
    ----------
    classes : tuple of str
        Name of each class.
    names, test_names : list of str
        Names of the training and test images, for messages and for finding an image again.
    files, test_files : list
        The images: a path or the encoded bytes of each. `test_files` is empty where there is no test part.
    labels, test_labels : int64 arrays
        Their classes, 0 … C - 1.
    """

    classes: tuple[str, ...]
    names: list[str]
    files: list[File]
    labels: np.ndarray
    test_names: list[str]
    test_files: list[File]
    test_labels: np.ndarray

    def decode(self, size: int | tuple[int, ...] | None = None) -> Source:
        """Decode all images with :func:`decode_images`."""
        images = decode_images(self.files, self.names, size)
        if not self.test_files:
            return Source(self.classes, images, self.labels)
        test = decode_images(self.test_files, self.test_names, size or images.shape[2:], grey=images.shape[1] == 1)
        return Source(self.classes, images, self.labels, test, self.test_labels)


def image_folder(path: str | os.PathLike[str]) -> ImageFiles:
    """Find images in one folder per class, on the disk or in a tar.

    Parameters
    ----------
    path : str or path
        Folder or tar of ``<class>/<image>``, or of ``train/<class>/<image>`` and ``test/<class>/<image>``; deeper
        folders belong to their class.

    Returns
    -------
    ImageFiles
        Classes are the sorted names of their folders.

    Raises
    ------
    DataError
        If there are no such images, or one lies outside the folder of its class.
    """
    return find_images(open_files(path), path)


def find_images(files: Files, path: str | os.PathLike[str]) -> ImageFiles:
    """Sort out images by the folders that they lie in, as :func:`image_folder`; `path` is for messages."""
    files = {name: file for name, file in files.items() if name.lower().endswith(SUFFIXES)}
    train, test = below(files, "train"), below(files, "test")
    if not (train and test):
        train, test = {name: file for name, file in files.items() if "/" in name}, {}
    if not train:
        raise DataError(
            f"expected images in {path} as <class>/<image>, or as train/<class>/<image> and test/<class>/<image>, "
            f"found {some_names(files)}"
        )
    if stray := [name for name in (*train, *test) if "/" not in name]:
        raise DataError(f"expected every image of {path} in the folder of its class, found {stray[0]} in none")
    classes = tuple(sorted({name.split("/")[0] for name in (*train, *test)}))
    of = {name: c for c, name in enumerate(classes)}
    labels, test_labels = (np.array([of[n.split("/")[0]] for n in part], np.int64) for part in (train, test))
    return ImageFiles(classes, [*train], [*train.values()], labels, [*test], [*test.values()], test_labels)
