"""Pictures, decoded to bytes. Pillow is imported when one is."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from .._extras import require
from .dataset import DataError
from .files import File, read
from .jpeg import decode_jpeg

if TYPE_CHECKING:
    from PIL import Image


def decode_images(
    files: Sequence[File],
    names: Sequence[str],
    size: int | tuple[int, ...] | None = None,
    grey: bool | None = None,
) -> np.ndarray:
    """Decode images, on as many threads as there are cores.

    Parameters
    ----------
    files : sequence of path or bytes
        The images; not empty.
    names : sequence of str
        What to call each in an error message.
    size : int or (height, width), optional
        A number: the largest central square of each image, resized (bicubic) to that many pixels a side. A pair: the
        size that they must all have; by default that of the first image.
    grey : bool, optional
        One channel rather than three (red, green, blue); by default where all images are grey.

    Returns
    -------
    (N, channels, height, width) uint8 array

    Raises
    ------
    DataError
        If an image is damaged, of another size, or of numbers that are no shades of 8 or 16 bits.
    ImportError
        If Pillow is not installed.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (6, 4)).save(file, "png")
    >>> decode_images([file.getvalue()], ["black"]).shape
    (1, 3, 4, 6)
    """
    first = open_image(files[0], names[0])
    if grey is None:  # a grey photograph among coloured ones does not take their colours
        grey = all(_is_grey(file, name) for file, name in zip(files, names, strict=True))
    shape = (size, size) if isinstance(size, int) else size or (first.height, first.width)
    images = np.empty((len(files), 1 if grey else 3, *shape), np.uint8)

    def decode(rows: Iterable[int]) -> None:
        for i in rows:
            images[i] = decode_image(files[i], names[i], size if isinstance(size, int) else tuple(shape), grey)

    n_threads = os.cpu_count() or 1
    with ThreadPoolExecutor(n_threads) as pool:  # Pillow decodes without holding the interpreter's lock
        for _ in pool.map(decode, [range(t, len(files), n_threads) for t in range(n_threads)]):
            pass
    return images


def decode_image(
    file: File, name: str, size: int | tuple[int, ...], grey: bool = False, draft: bool = False
) -> np.ndarray:
    """Decode an image.

    Parameters
    ----------
    file : path or bytes
        The image.
    name : str
        What to call it in an error message.
    size : int or (height, width)
        A number: the largest central square, resized (bicubic) to that many pixels a side. A pair: the size that it
        must have.
    grey : bool
        One channel rather than three (red, green, blue).
    draft : bool
        Whether a JPEG file that is to be resized may be decoded to a half, a quarter or an eighth of its size at once,
        as long as that leaves twice the pixels a side that are asked for: much quicker for photographs, and hardly
        another picture.

    Returns
    -------
    (channels, height, width) uint8 array

    Raises
    ------
    DataError
        If the image is damaged, of another size, or of numbers that are no shades of 8 or 16 bits.
    ImportError
        If Pillow is not installed.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (60, 40), "red").save(file, "jpeg")
    >>> decode_image(file.getvalue(), "red", 8, draft=True)[:, 0, 0]
    array([254,   0,   0], dtype=uint8)
    """
    mode = "L" if grey else "RGB"
    if isinstance(size, int):
        return planes(_square(open_image(file, name, mode, 2 * size if draft else None), size))
    image = open_image(file, name, mode)
    if (image.height, image.width) != size:
        raise DataError(
            f"all images must be of {size[1]}x{size[0]} pixels as the first, or be resized, found "
            f"{image.width}x{image.height} in {name}"
        )
    return planes(image)


def open_image(file: File, name: str, mode: str | None = None, draft: int | None = None) -> Image.Image:
    """Open an image; with `mode`, decode it to that, a JPEG file to as little as `draft` pixels a side.

    Raises
    ------
    DataError
        If it is missing or damaged.
    ImportError
        If Pillow is not installed.
    """
    require("decoding image files", "PIL")
    from PIL import Image

    try:
        if mode is None:
            return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        data = read(file)
        image = decode_jpeg(data, draft)
        if image is None:
            image = Image.open(io.BytesIO(data))
            image.load()
        return image if image.mode == mode else _of_bytes(image).convert(mode)
    except FileNotFoundError:
        raise DataError(f"expected an image at {file!s}, found nothing") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises of bad files
        raise DataError(f"image {name} cannot be decoded: {error}") from None


def pixels(image: Image.Image) -> np.ndarray:
    """Return an image as a (channels, height, width) uint8 array: one channel if it is grey, else red, green, blue.

    Raises
    ------
    ValueError
        If its numbers are no shades of 8 or 16 bits.

    Examples
    --------
    >>> from PIL import Image
    >>> pixels(Image.new("RGBA", (6, 4))).shape
    (3, 4, 6)
    """
    return planes(_of_bytes(image).convert("L" if _has_shades(image) else "RGB"))


def planes(image: Image.Image) -> np.ndarray:
    """View an image of mode L or RGB as a (channels, height, width) array.

    Pillow writes a colour's row at a time, so that copying the array moves rows, not bytes: three times as quick.
    """
    if image.mode == "L":
        return np.asarray(image)[None]
    rows = np.frombuffer(image.tobytes("raw", "RGB;L"), np.uint8)
    return rows.reshape(image.height, 3, image.width).transpose(1, 0, 2)


def _is_grey(file: File, name: str) -> bool:
    with open_image(file, name) as image:
        return _has_shades(image)


def _has_shades(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")


def _of_bytes(image: Image.Image) -> Image.Image:
    """Scale shades of 16 bits to 8, which `convert` would cut off at 255 instead; refuse other numbers."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    shades = np.asarray(image)
    is_wide = image.mode == "F" or (image.mode == "I" and image.format != "PNG")  # PNG has no more than 16 bits
    if is_wide or shades.min() < 0 or shades.max() >= 1 << 16:
        raise ValueError(f"its pixels must be of 8 or 16 bits, found numbers of 32 bits (mode {image.mode})")
    return Image.fromarray((shades >> 8).astype(np.uint8))


def _square(image: Image.Image, size: int) -> Image.Image:
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))  # resize(box=...) would let in pixels from outside
    return square.resize((size, size), Image.Resampling.BICUBIC)
