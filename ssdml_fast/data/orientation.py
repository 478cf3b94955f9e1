"""Which way up a picture is shown: the tag of cameras in its EXIF (or XMP) data."""

from __future__ import annotations

import contextlib
import re
import struct
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL import Image

TAG = 0x0112
INTEGERS = {1: "B", 3: "H", 4: "I"}  # by EXIF's number of their type
XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
TURNED = ("HEIF", "TIFF")  # formats whose plugins turn what they decode
ROTATED = (5, 6, 7, 8)
"""Orientations whose width is the height that is stored."""


def of_exif(exif: bytes) -> int:
    """Read the orientation from EXIF data; 0 where they have none, or are damaged.

    Examples
    --------
    >>> from PIL import Image
    >>> exif = Image.Exif()
    >>> exif[0x0112] = 6
    >>> of_exif(exif.tobytes()), of_exif(b"nothing")
    (6, 0)
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 0
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, entry)
            if tag == TAG and kind in INTEGERS and count == 1:
                (value,) = struct.unpack_from(order + INTEGERS[kind], exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 0


def of_xmp(xmp: bytes) -> int:
    """Read the orientation from XMP data, for where the EXIF data have none; 0 where these have none either.

    Examples
    --------
    >>> of_xmp(b'<rdf:Description tiff:Orientation="3"/>')
    3
    """
    found = XMP.search(xmp)
    return int(found[1]) if found else 0


def orientation_of(image: Image.Image) -> int:
    """Read which way up an image is that Pillow opened: 1 where it is as it is shown, or its plugin turns it.

    Nothing is decoded. A PNG file may have EXIF data behind its pixels, which Pillow knows once it has loaded them;
    before, :func:`png_exif` finds them.
    """
    if image.format in TURNED:
        return 1
    exif = image.info.get("exif")
    if exif is None and isinstance(raw := image.info.get("Raw profile type exif"), str):  # ImageMagick's, in PNG
        with contextlib.suppress(ValueError):
            exif = bytes.fromhex("".join(raw.split("\n")[3:]))
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp")
    xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    orientation = (isinstance(exif, bytes) and of_exif(exif)) or (isinstance(xmp, bytes) and of_xmp(xmp)) or 1
    return orientation if orientation <= 8 else 1


def shown_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    """Width and height of an image of that orientation that Pillow opened and has not loaded, as it is shown."""
    width, height = image.size
    if image.format == "TIFF":  # some versions of Pillow turn this before the pixels, some with them
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height, orientation = tags.get(256, width), tags.get(257, height), tags.get(TAG, 1)
    return (height, width) if orientation in ROTATED else (width, height)


def png_exif(file: BinaryIO) -> bytes:
    """Return the EXIF data of a PNG file, wherever they are in it; none is no bytes."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            return file.read(length)
        file.seek(length + 4, 1)
    return b""


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn and mirror an image of that orientation to the way that it is shown.

    Examples
    --------
    >>> from PIL import Image
    >>> upright(Image.new("L", (6, 4)), 6).size
    (4, 6)
    """
    from PIL import Image

    if orientation == 1:
        return image
    how = Image.Transpose
    return image.transpose(
        (
            how.FLIP_LEFT_RIGHT,
            how.ROTATE_180,
            how.FLIP_TOP_BOTTOM,
            how.TRANSPOSE,
            how.ROTATE_270,
            how.TRANSVERSE,
            how.ROTATE_90,
        )[orientation - 2]
    )
