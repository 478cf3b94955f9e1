"""Plain JPEG files, given to Pillow's decoder at once: a third of the time of opening a small one is spared."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

FRAMES = {0xC0, 0xC1, 0xC2}  # markers of frames: baseline, extended sequential, progressive; all of Huffman's codes
MODES = {1: "L", 3: "RGB"}  # by the number of components


def decode_jpeg(data: bytes, draft: int | None = None) -> Image.Image | None:
    """Decode a JPEG file of one or three components, to the pixels that ``PIL.Image.open`` gives.

    Parameters
    ----------
    data : bytes
        A file of any kind.
    draft : int, optional
        Decode to an eighth, a quarter or half the size, the least that leaves that many pixels a side.

    Returns
    -------
    Image, of mode L or RGB; or None, for ``PIL.Image.open`` to decode or to refuse

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

    frame = _frame(data)
    if frame is None or frame[0] * frame[1] > (Image.MAX_IMAGE_PIXELS or 0):
        return None
    width, height, mode = frame
    scale = next((s for s in (8, 4, 2) if draft and min(width, height) // draft >= s), 1)
    size = -(-width // scale), -(-height // scale)
    try:
        return Image.frombytes(mode, size, data, "jpeg", (mode, "", scale, 0))
    except (OSError, ValueError):
        return None


def _frame(data: bytes) -> tuple[int, int, str] | None:
    """Width, height and mode of a JPEG file; None if it is of another kind."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        if data[at + 1] in FRAMES:
            mode = MODES.get(data[at + 9])
            is_of_bytes = data[at + 4] == 8
            size = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
            return (*size, mode) if mode and is_of_bytes and all(size) else None
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None
