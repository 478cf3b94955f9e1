"""Pictures, decoded to bytes as a viewer shows them. Pillow is imported when one is.

That is: turned as the camera was held, transparent pixels over a background, palettes, CMYK and 16 bits as 8 bits of
grey or of red, green and blue; of several frames or pages the first. :mod:`~ssdml_fast.data.formats` says which
formats, :mod:`~ssdml_fast.data.colours` how pixels are converted.

A picture may have twice ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, where Pillow draws the line (178,956,970, unless the
process has set another): what claims more is damaged. Pillow's warning of half as many is not shown; instead no two
large pictures are decoded at once (:mod:`~ssdml_fast.data.bounds`), so that many take no more memory than one.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from .. import _scalars as scalars
from .._cores import usable_cores
from .._extras import require
from .bounds import check_pixels, room
from .colours import as_background, flattened, is_grey, rawmode_of
from .damage import DamagedPictures, quiet, told
from .dataset import DataError
from .files import File, read
from .formats import HEAD, format_of, is_readable
from .jpeg import decode_jpeg, read_header
from .orientation import ROTATED, of_exif, orientation_of, png_exif, shown_size, upright

if TYPE_CHECKING:
    from PIL import Image

    from .._world import World

JPEG_HEAD = 1 << 16  # bytes that hold the header of most JPEG files, EXIF data with a small picture included
TICK = 0.1  # seconds between two calls of `progress`


class Looked(NamedTuple):
    """What the headers of pictures say; a row of zeros and True for one that is damaged."""

    sizes: np.ndarray  # (N, 2) int64: height and width, as they are shown
    grey: np.ndarray  # (N,) bool: whether there are shades of grey only
    damaged: list[tuple[int, str]]  # row and why


class Damaged(NamedTuple):
    """A picture that cannot be decoded."""

    part: int
    row: int
    name: str
    why: str


Part = tuple[Sequence[File], Sequence[str]]
"""Pictures, and what to call each in a message: the folder of the part, ``train/``, included."""

Progress = Callable[[float], object]


def decode_images(
    files: Sequence[File],
    names: Sequence[str],
    size: int | tuple[int, ...] | None = None,
    grey: bool | None = None,
    crop: float = 1.0,
    background: str = "white",
) -> np.ndarray:
    """Decode images, on as many threads as the process may use cores.

    Parameters
    ----------
    files : sequence of path or bytes
        The images; not empty.
    names : sequence of str
        What to call each in an error message.
    size, crop, background
        As in :func:`decode_image`; by default the size of the first image, which all must have.
    grey : bool, optional
        One channel rather than three (red, green, blue); by default where all images are grey.

    Returns
    -------
    (N, channels, height, width) uint8 array

    Raises
    ------
    DamagedPictures
        If images are damaged, missing, or of numbers that are no shades of 8 or 16 bits: it names them all.
    DataError
        If they differ in size, or are of another one.
    TypeError, ValueError
        If `size`, `crop` or `background` is none.
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
    (images,), damaged = decode_parts([(files, names)], size, crop, grey, background)
    if damaged:
        raise DamagedPictures([(name, why) for _, _, name, why in damaged])
    assert images is not None
    return images


def decode_parts(
    parts: Sequence[Part],
    size: int | tuple[int, ...] | None = None,
    crop: float = 1.0,
    grey: bool | None = None,
    background: str = "white",
    progress: Progress | None = None,
    draft: bool = False,
    world: World | None = None,
) -> tuple[list[np.ndarray | None], list[Damaged]]:
    """Decode the images of all parts of a data set; those that are damaged are left out and told.

    Parameters
    ----------
    parts : sequence of (files, names)
        The images of each part, paths or bytes, and what to call each in an error message. A part may be empty.
    size, crop, background, draft
        As in :func:`decode_image`; by default the size of the first image, which those of all parts must have.
    grey : bool, optional
        One channel rather than three (red, green, blue); by default where the images of all parts are grey.
    progress : callable, optional
        Called in this thread, some ten times a second and at the end, with the share done, up to 1.
    world : World, optional
        Processes that share the work, as each calls this with the same images; by default this one does all.

    Returns
    -------
    images : list of (N, channels, height, width) uint8 array, or None
        Of each part, without those that are damaged; None of a part that is empty.
    damaged : list of Damaged
        Part, row in it, name, and why; ascending.

    Raises
    ------
    DataError
        If images that are not damaged differ in size, or are of another one.
    TypeError, ValueError
        If `size`, `crop` or `background` is none.
    ImportError
        If Pillow is not installed.

    Notes
    -----
    Each file is read once, and its header once more before unless `size` is a number and `grey` is given. An exception
    of `progress`, or Ctrl-C, ends the threads as soon as each has finished the picture that it is at.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("L", (6, 4)).save(file, "png")
    >>> train, test = ([file.getvalue(), b"none"], ["train/a", "train/b"]), ([], [])
    >>> (images, none), damaged = decode_parts([train, test], size=2)
    >>> images.shape, none, damaged[0].name, damaged[0].row
    ((1, 1, 2, 2), None, 'train/b', 1)
    """
    size, crop, colour = check_how(size, crop, background)
    entries = _own(parts, world)
    common, grey = _agreed(parts, size, grey, background)
    shape = (size, size) if isinstance(size, int) else common
    images = [np.empty((len(files), 1 if grey else 3, *shape), np.uint8) if len(files) else None for files, _ in parts]

    def decode(file: File, part: int, row: int) -> None:
        out = images[part]
        assert out is not None
        out[row] = _planes_of(file, size if isinstance(size, int) else None, bool(grey), crop, colour, draft, shape)

    damaged = _of_all(_each(parts, entries, decode, progress), world)
    if world is not None:
        world.fill_([out for out in images if out is not None])
    for p, out in enumerate(images):
        if out is not None and (rows := {d.row for d in damaged if d.part == p}):
            images[p] = _without(out, rows)
    return images, damaged


def check_parts(
    parts: Sequence[Part],
    size: int | tuple[int, ...] | None = None,
    crop: float = 1.0,
    grey: bool | None = None,
    background: str = "white",
    progress: Progress | None = None,
    draft: bool = True,
    world: World | None = None,
) -> list[Damaged]:
    """Decode the images of all parts as :func:`decode_parts` does, keep none, and return which are damaged.

    Examples
    --------
    >>> check_parts([([b"none"], ["train/b"])], size=2)
    [Damaged(part=0, row=0, name='train/b', why='it is of no format that is read here')]
    """
    size, crop, colour = check_how(size, crop, background)
    entries = _own(parts, world)
    common, grey = _agreed(parts, size, grey, background)

    def decode(file: File, part: int, row: int) -> None:
        _planes_of(file, size if isinstance(size, int) else None, bool(grey), crop, colour, draft, common)

    return _of_all(_each(parts, entries, decode, progress), world)


def look(files: Sequence[File], names: Sequence[str], background: str = "white") -> Looked:
    """Read sizes and colours from the headers of images, on as many threads as the process may use cores.

    Parameters
    ----------
    files : sequence of path or bytes
        The images.
    names : sequence of str
        What to call each.
    background : str
        As in :func:`decode_image`: over one that is coloured, grey images with transparent pixels are not grey.

    Returns
    -------
    Looked
        Sizes as they are shown, whether each is grey, and which are damaged as far as a header shows it, in rows.

    Raises
    ------
    TypeError, ValueError
        If `background` is no colour.
    ImportError
        If Pillow is not installed.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> file, exif = io.BytesIO(), Image.Exif()
    >>> exif[0x0112] = 6
    >>> Image.new("L", (6, 4)).save(file, "png", exif=exif)
    >>> look([file.getvalue()], ["a"])
    Looked(sizes=array([[6, 4]]), grey=array([ True]), damaged=[])
    """
    require("decoding image files", "PIL")
    colour = as_background(background)
    sizes, grey = np.zeros((len(files), 2), np.int64), np.ones(len(files), bool)

    def read_one(file: File, part: int, row: int) -> None:
        *sizes[row], grey[row] = _header(file, colour)

    damaged = _each([(files, names)], [(0, row) for row in range(len(files))], read_one, None)
    return Looked(sizes, grey, [(d.row, d.why) for d in damaged])


def decode_image(
    file: File,
    name: str,
    size: int | tuple[int, ...],
    grey: bool = False,
    draft: bool = False,
    crop: float = 1.0,
    background: str = "white",
) -> np.ndarray:
    """Decode an image as a viewer shows it.

    Parameters
    ----------
    file : path or bytes
        The image.
    name : str
        What to call it in an error message.
    size : int or (height, width)
        A number: the central square, resized (bicubic) to that many pixels a side. A pair: the size that it must have.
    grey : bool
        One channel rather than three (red, green, blue).
    draft : bool
        Whether a JPEG file that is to be resized may be decoded to a half, a quarter or an eighth of its size at once,
        as long as that leaves twice the pixels a side that are asked for: much quicker for photographs, and hardly
        another picture.
    crop : float
        Share of the shorter side that the square takes, above 0 and at most 1: the picture is resized to ``size /
        crop`` pixels along it, of which the square in the middle is taken, as backbones want it (224 of 256: 0.875).
    background : str
        What is behind transparent pixels: the name of a colour, or ``#rrggbb``.

    Returns
    -------
    (channels, height, width) uint8 array

    Raises
    ------
    DamagedPictures
        If the image is missing or damaged, or of numbers that are no shades of up to 16 bits.
    DataError
        If it is of another size.
    TypeError, ValueError
        If `size`, `crop` or `background` is none.
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
    checked, crop, colour = check_how(size, crop, background)
    side = checked if isinstance(checked, int) else None
    with told(name):
        image = _planes_of(file, side, grey, crop, colour, draft, None)
    if side is None and image.shape[1:] != checked:
        raise DataError(
            f"all images must be of {size[1]}x{size[0]} pixels as the first, or be resized, found "  # type: ignore[index]
            f"{image.shape[2]}x{image.shape[1]} in {name}"
        )
    return image


def open_image(
    file: File, name: str, mode: str = "RGB", draft: int | None = None, background: str = "white"
) -> Image.Image:
    """Decode an image as a viewer shows it, to mode L or RGB, a JPEG file to as little as `draft` pixels a side.

    Raises
    ------
    DamagedPictures
        If it is missing or damaged, or of numbers that are no shades of up to 16 bits.
    TypeError, ValueError
        If `background` is no colour.
    ImportError
        If Pillow is not installed.
    """
    require("decoding image files", "PIL")
    colour = as_background(background)
    with told(name):
        return _decoded(file, mode, draft, colour)


def pixels(image: Image.Image) -> np.ndarray:
    """Return an image as a (channels, height, width) uint8 array: one channel if it is grey, else red, green, blue.

    Transparent pixels lie over white; it is not turned.

    Raises
    ------
    ValueError
        If its numbers are no shades of up to 16 bits.

    Examples
    --------
    >>> from PIL import Image
    >>> pixels(Image.new("RGBA", (6, 4))).shape
    (3, 4, 6)
    """
    rawmode = rawmode_of(image)
    image.load()
    return planes(flattened(image, "L" if is_grey(image, rawmode) else "RGB", rawmode))


def planes(image: Image.Image) -> np.ndarray:
    """View an image of mode L or RGB as a (channels, height, width) array.

    Pillow writes a colour's row at a time, so that copying the array moves rows, not bytes: three times as quick.
    """
    if image.mode == "L":
        return np.asarray(image)[None]
    rows = np.frombuffer(image.tobytes("raw", "RGB;L"), np.uint8)
    return rows.reshape(image.height, 3, image.width).transpose(1, 0, 2)


# --- one picture ------------------------------------------------------------------------------------------------------


def _planes_of(
    file: File,
    side: int | None,
    grey: bool,
    crop: float,
    background: tuple[int, ...],
    draft: bool,
    shape: tuple[int, ...] | None,
) -> np.ndarray:
    """Decode a picture to a square of that side, or as it is: of that shape, if one is given."""
    mode = "L" if grey else "RGB"
    if side is not None:
        short = round(side / crop)
        return planes(_square(_decoded(file, mode, 2 * short if draft else None, background), side, short))
    image = _decoded(file, mode, None, background)
    if shape is not None and (image.height, image.width) != shape:  # other than its header said
        raise ValueError(f"it is of {image.width}x{image.height} pixels, not {shape[1]}x{shape[0]}")
    return planes(image)


def _decoded(file: File, mode: str, draft: int | None, background: tuple[int, ...]) -> Image.Image:
    data = read(file)
    image = decode_jpeg(data, draft)
    if image is None:
        with quiet(), _opened(io.BytesIO(data), data[:HEAD]) as image, room(*image.size):
            rawmode, extent = rawmode_of(image), _extent(image)
            image.load()
            if extent:  # of a GIF file's first frame; beside it there is nothing
                image = _beside(image, extent)
            image = flattened(upright(image, orientation_of(image)), mode, rawmode, background)
    return image if image.mode == mode else image.convert(mode)


def _opened(file: BinaryIO, head: bytes) -> Image.Image:
    """Open a picture of one of the formats that are read, and look no further than at its header."""
    from PIL import Image

    kind = format_of(head)
    if kind is None:
        raise ValueError("it is empty" if not head else "it is of no format that is read here")
    if not is_readable(kind):
        with_ = ", without the package pillow-heif" if kind == "HEIF" else ""
        raise ValueError(f"it is of the format {kind}, which Pillow {Image.__version__} does not read here{with_}")
    try:
        image = Image.open(file, formats=(kind,))
    except Image.UnidentifiedImageError:
        raise ValueError(f"its header is damaged, or of a kind of {kind} that Pillow does not read") from None
    return image


def _header(file: File, background: tuple[int, ...]) -> tuple[int, int, bool]:
    """Height and width as they are shown, and whether there are shades of grey only."""
    with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as opened:
        head = opened.read(JPEG_HEAD)
        if jpeg := read_header(head):
            check_pixels(jpeg.width, jpeg.height)
            is_turned = jpeg.orientation in ROTATED
            return *((jpeg.width, jpeg.height) if is_turned else (jpeg.height, jpeg.width)), jpeg.mode == "L"
        opened.seek(0)
        with quiet(), _opened(opened, head[:HEAD]) as image:
            orientation = orientation_of(image)
            grey = is_grey(image, rawmode_of(image), background)
            if image.format == "PNG" and orientation == 1 and "exif" not in image.info:
                orientation = of_exif(png_exif(opened)) or 1
            width, height = shown_size(image, orientation)
            return height, width, grey


def _square(image: Image.Image, size: int, short: int) -> Image.Image:
    """Resize the shorter side to `short` pixels and take the square of `size` in the middle, both at once."""
    from PIL import Image

    if short == size:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))  # resize(box=...) would let in pixels from outside
        return square.resize((size, size), Image.Resampling.BICUBIC)
    # the square in pixels of the image; what lies around it shines in at its edges, as if all had been resized
    ends: list[tuple[float, float]] = []
    for side in image.size:
        resized = max(short, int(short * side / min(image.size)))
        start = round((resized - size) / 2)
        ends.append((start * side / resized, min((start + size) * side / resized, float(side))))
    (x, x_end), (y, y_end) = ends
    return image.resize((size, size), Image.Resampling.BICUBIC, (x, y, x_end, y_end))


def _extent(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Where the first frame of a GIF file is, if it does not fill the picture and nothing else says what is beside."""
    if image.format != "GIF" or "transparency" in image.info or not image.tile:  # type: ignore[attr-defined]
        return None
    extent = tuple(image.tile[0][1])  # type: ignore[attr-defined]
    return extent if extent != (0, 0, *image.size) else None


def _beside(image: Image.Image, extent: tuple[int, int, int, int]) -> Image.Image:
    from PIL import Image

    frame = image.convert("RGBA").crop(extent)
    image = Image.new("RGBA", image.size)
    image.paste(frame, extent)
    return image


# --- many pictures ----------------------------------------------------------------------------------------------------


def check_how(
    size: int | tuple[int, ...] | None, crop: float, background: str
) -> tuple[int | tuple[int, ...] | None, float, tuple[int, ...]]:
    require("decoding image files", "PIL")
    if isinstance(size, tuple | list):
        if len(size) != 2:
            raise ValueError(f"size must be a number or (height, width), found {size!r}")
        size = tuple(scalars.as_int(side, "size", 1) for side in size)
    elif size is not None:
        size = scalars.as_int(size, "size", 1)
    crop = scalars.as_float(crop, "crop")
    if not 0 < crop <= 1:
        raise ValueError(f"crop must be above 0 and at most 1, found {crop}")
    if crop != 1 and not isinstance(size, int):
        raise ValueError(f"crop must be 1 where size is no number, found {crop}")
    return size, crop, as_background(background)


def _agreed(
    parts: Sequence[Part], size: int | tuple[int, ...] | None, grey: bool | None, background: str
) -> tuple[tuple[int, ...], bool]:
    """Size, if it is not a number, and whether all pictures are grey, by their headers."""
    files = [file for part in parts for file in part[0]]
    if isinstance(size, int):
        if grey is None:  # a grey photograph among coloured ones does not take their colours
            grey = all(_is_grey(file, as_background(background)) for file in files)
        return (), grey
    names = [name for part in parts for name in part[1]]
    looked = look(files, names, background)
    sound = np.setdiff1d(np.arange(len(files)), [row for row, _ in looked.damaged])
    found = looked.sizes[sound]
    common = size or tuple(int(side) for side in found[0]) if len(found) else (0, 0)
    if (other := (found != common).any(1)).any():
        first = int(np.flatnonzero(other)[0])
        height, width = found[first]
        raise DataError(
            f"all images must be of {common[1]}x{common[0]} pixels{' as the first' if size is None else ''}, or be "
            f"resized, found {width}x{height} in {names[sound[first]]} ({other.sum()} of {len(found)} differ)"
        )
    return common, bool(looked.grey.all()) if grey is None else grey


def _is_grey(file: File, background: tuple[int, ...]) -> bool:
    """Whether there are shades of grey only; where that cannot be told, it takes nobody's colours."""
    with contextlib.suppress(DamagedPictures), told(""):
        return _header(file, background)[2]
    return True


def _each(
    parts: Sequence[Part],
    entries: Sequence[tuple[int, int]],
    work: Callable[[File, int, int], None],
    progress: Progress | None,
) -> list[Damaged]:
    """Call work(file, part, row) for each entry, on threads; return those that it fails for."""
    damaged: list[Damaged] = []
    finished: list[int] = []  # appending is atomic, counting is not
    places, stop = itertools.count(), threading.Event()

    def crew() -> None:
        for i in places:
            if i >= len(entries) or stop.is_set():
                return
            part, row = entries[i]
            files, names = parts[part]
            try:
                with told(names[row]):
                    work(files[row], part, row)
            except DamagedPictures as error:
                damaged.append(Damaged(part, row, *error.damaged[0]))
            finished.append(i)

    n_threads = max(1, min(usable_cores(), len(entries)))
    with quiet(), ThreadPoolExecutor(n_threads) as pool:  # Pillow decodes without holding the interpreter's lock
        try:
            crews = [pool.submit(crew) for _ in range(n_threads)]
            while (state := wait(crews, TICK, FIRST_EXCEPTION)).not_done:
                for done in state.done:
                    done.result()  # raises what is none of a picture's: too little memory
                if progress:
                    progress(len(finished) / max(len(entries), 1))
            for done in state.done:
                done.result()
        finally:
            stop.set()
    if progress:
        progress(1.0)
    return sorted(damaged)


def _own(parts: Sequence[Part], world: World | None) -> list[tuple[int, int]]:
    """Part and row of the pictures that this process is to decode."""
    rows = [range(len(files)) if world is None else range(len(files))[world.shard(len(files))] for files, _ in parts]
    return [(p, row) for p, own in enumerate(rows) for row in own]


def _of_all(damaged: list[Damaged], world: World | None) -> list[Damaged]:
    """What is damaged among the pictures of all processes."""
    return damaged if world is None else sorted(itertools.chain(*world.every(damaged)))


def _without(images: np.ndarray, rows: set[int]) -> np.ndarray:
    """Move images up over the rows that are left out, within the array."""
    kept = 0
    for row in range(len(images)):
        if row not in rows:
            if kept != row:
                images[kept] = images[row]
            kept += 1
    return images[:kept]
