"""Plain JPEG files, given to Pillow's decoder at once: a third of the time of opening a small one is spared."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .bounds import check_pixels, room
from .orientation import of_exif, of_xmp, upright

if TYPE_CHECKING:
    from PIL import Image

FRAMES = {0xC0, 0xC1, 0xC2}  # markers of frames: baseline, extended sequential, progressive; all of Huffman's codes
SCAN, APP1 = 0xDA, 0xE1  # markers: the pixels begin; EXIF or XMP data
MODES = {1: "L", 3: "RGB"}  # by the number of components
XMP = b"http://ns.adobe.com/xap/1.0/\0"


class Header(NamedTuple):
    """What a plain JPEG file says before its pixels: their size as they are stored, L or RGB, which way up."""

    width: int
    height: int
    mode: str
    orientation: int


def decode_jpeg(data: bytes, draft: int | None = None) -> Image.Image | None:
    """Decode a JPEG file of one or three components, to the pixels that ``PIL.Image.open`` gives, the right way up.

    Parameters
    ----------
    data : bytes
        A file of any kind.
    draft : int, optional
        Decode to an eighth, a quarter or half the size, the least that leaves that many pixels a side.

    Returns
    -------
    Image, of mode L or RGB; or None, for ``PIL.Image.open`` to decode or to refuse

    Raises
    ------
    PIL.Image.DecompressionBombError
        If it has more pixels than are decoded.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (60, 40)).save(file, "jpeg")
    >>> decode_jpeg(file.getvalue()).size, decode_jpeg(file.getvalue(), draft=16).size
    ((60, 40), (30, 20))
    >>> decode_jpeg(b"GIF89a") is None
    True
    """
    from PIL import Image

    header = read_header(data)
    if header is None:
        return None
    check_pixels(header.width, header.height)
    scale = next((s for s in (8, 4, 2) if draft and min(header.width, header.height) // draft >= s), 1)
    size = -(-header.width // scale), -(-header.height // scale)
    with room(*size):
        try:
            image = Image.frombytes(header.mode, size, data, "jpeg", (header.mode, "", scale, 0))
        except (OSError, ValueError):
            return None
        return upright(image, header.orientation)


def read_header(data: bytes) -> Header | None:
    """Read the header of a plain JPEG file; None if it is of another kind, or longer than `data`."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    at, frame, exif, xmp = 2, None, 0, 0
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + (data[at + 2] << 8 | data[at + 3])
        if marker == SCAN:
            orientation = exif or xmp
            return Header(*frame, orientation if 1 <= orientation <= 8 else 1) if frame else None
        if marker in FRAMES:
            mode = MODES.get(data[at + 9])
            size = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
            if frame or not mode or data[at + 4] != 8 or not all(size):
                return None
            frame = *size, mode
        elif marker == APP1 and data[at + 4 : at + 10] == b"Exif\0\0":
            exif = exif or of_exif(data[at + 10 : end])
        elif marker == APP1 and data.startswith(XMP, at + 4):
            xmp = xmp or of_xmp(data[at + 4 + len(XMP) : end])
        at = end
    return None
