"""A map-style Dataset of image files, decoded when they are asked for."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .damage import DamagedPictures
from .dataset import DataError
from .pictures import check_how, decode_image, look

if TYPE_CHECKING:
    from .images import ImageFiles


class ImageFileDataset(Dataset):
    """Image files as a map-style Dataset of torch, one decoded at a time.

    Parameters
    ----------
    files : ImageFiles
        The images, as :func:`~ssdml_fast.data.image_folder` finds them.
    size : int or (height, width), optional
        A number: the central square of each image, resized (bicubic) to that many pixels a side. A pair: the size that
        they must all have; by default that of the first image.
    test : bool
        Whether to take the test part.
    grey : bool
        One channel rather than three (red, green, blue).
    crop : float
        Share of the shorter side that the square takes, as in :meth:`ImageFiles.decode`.
    background : str
        What is behind transparent pixels: the name of a colour, or ``#rrggbb``.

    Attributes
    ----------
    labels : (N,) int64 array
        Class of each image.
    classes : tuple of str
        Name of each class.

    Raises
    ------
    DataError
        If the part holds no images. And where one is asked for: if it is missing or damaged, of another size, or of
        numbers that are no shades of up to 16 bits.
    TypeError, ValueError
        If `size` is not made of integers of at least 1, or `crop` or `background` is none.
    ImportError
        If Pillow is not installed.

    Notes
    -----
    Takes about the length of its path for each file, in each process that reads it; images in a tar lie in memory as
    they are encoded, and are copied to each worker: better unpack a large one.

    Where `size` is a number, JPEG files that are at least four times as large are decoded to a half, a quarter or an
    eighth of their size at once, to no less than twice `size`: several times as quick, and hardly another picture.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from ssdml_fast.data.images import image_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         (pathlib.Path(folder) / name).mkdir()
    ...         Image.new("RGB", (60, 40)).save(pathlib.Path(folder) / name / "1.jpg")
    ...     dataset = ImageFileDataset(image_folder(folder), size=32)
    ...     image, label = dataset[1]
    >>> image.shape, dataset.classes[label], len(dataset)
    (torch.Size([3, 32, 32]), 'dog', 2)
    """

    def __init__(
        self,
        files: ImageFiles,
        size: int | tuple[int, int] | None = None,
        test: bool = False,
        grey: bool = False,
        crop: float = 1.0,
        background: str = "white",
    ) -> None:
        found, names = (files.test_files, files.test_names) if test else (files.files, files.names)
        if not found:
            raise DataError(f"files must hold images of the {'test' if test else 'training'} part, found none")
        check_how(size, crop, background)
        if size is None:
            looked = look(found[:1], names[:1], background)
            if looked.damaged:
                raise DamagedPictures([(names[0], looked.damaged[0][1])])
            size = int(looked.sizes[0, 0]), int(looked.sizes[0, 1])
        self.size, self.crop, self.background = size, crop, background
        self.grey = grey
        self.classes = files.classes
        self.labels = files.test_labels if test else files.labels
        self._encoded = found if any(isinstance(file, bytes) for file in found) else []  # or some of them
        self._paths = np.array([] if self._encoded else [os.fsencode(file) for file in found], np.bytes_)
        self._names = names if self._encoded else []

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        file = self._encoded[i] if self._encoded else os.fsdecode(self._paths[i])
        name = self._names[i] if self._encoded else str(file)
        image = decode_image(file, name, self.size, self.grey, True, self.crop, self.background)
        return torch.from_numpy(np.array(image, order="C")), int(self.labels[i])

    def stamp(self) -> str:
        """Tell these images from others without decoding them.

        Returns
        -------
        str
            A hash of the path, size and time of change of each file, or of its bytes where it lies in a tar, and of how
            they are decoded.
        """
        how = f"{len(self)} {self.size} {self.grey} {self.crop} {self.background}"
        digest = hashlib.blake2b(how.encode(), digest_size=16)
        for file in self._encoded or map(os.fsdecode, self._paths):
            if isinstance(file, bytes):
                digest.update(hashlib.blake2b(file).digest())
                continue
            with suppress(OSError):  # whoever decodes it says what is wrong
                status = os.stat(file)
                digest.update(f"{status.st_size} {status.st_mtime_ns} ".encode())
            digest.update(os.fsencode(os.path.abspath(file)) + b"\0")
        return digest.hexdigest()
