"""The formats of pictures that are read, told from the first bytes of a file, whatever its name ends in.

Pillow opens no other: some that it knows start a program (EPS), load code that an application registered (GRIB, HDF5),
or would take files of any kind for theirs (TGA).
"""

from __future__ import annotations

import contextlib
import re

from .files import File

HEAD = 64
"""Bytes that a format is told from."""

SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # with the length of a header that there is
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "PPM": rb"P[1-6][\s#]|P[fF]\s",
    "AVIF": rb"....ftypavi[fs]|....ftyp(?:mif1|msf1|miaf).{0,40}avi[fs]",
    "HEIF": rb"....ftyp(?:hei[cfmsx]|hev[cmsx]|mif1|msf1|miaf)",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "QOI": rb"qoif",
    "SGI": rb"\x01\xda[\0\x01][\x01\x02]\0[\x01-\x03]",
    "PCX": rb"\n[\0\x02\x03\x05][\0\x01][\x01\x02\x04\x08]",
    "ICO": rb"\0\0\x01\0[^\0]\0",
}  # by Pillow's names; the first that fits
BEGINNING = re.compile(b"|".join(b"(?P<%s>%s)" % (n.encode(), p) for n, p in SIGNATURES.items()), re.DOTALL)


def format_of(head: bytes) -> str | None:
    """Tell a format, by Pillow's name for it, from the first `HEAD` bytes of a file; None if it is none that is read.

    Examples
    --------
    >>> format_of(b"GIF89a..."), format_of(b"%!PS-Adobe-3.0 EPSF-3.0")
    ('GIF', None)
    """
    found = BEGINNING.match(head[:HEAD])
    return found.lastgroup if found else None


def is_picture(file: File) -> bool:
    """Whether a file begins as a picture does, of a format that is read here or with a plugin.

    Parameters
    ----------
    file : path or bytes
        Of which no more than `HEAD` bytes are read.

    Raises
    ------
    OSError
        If there is no such file, or it must not be read.

    Examples
    --------
    >>> is_picture(b"P5 28 28 255 ..."), is_picture(b"label,path")
    (True, False)
    """
    if isinstance(file, bytes):
        return format_of(file) is not None
    with open(file, "rb", buffering=0) as opened:
        return format_of(opened.read(HEAD)) is not None


def is_readable(name: str) -> bool:
    """Whether Pillow opens a format, with ``pillow_heif`` for HEIF where that is installed."""
    from PIL import Image

    if name not in Image.OPEN:
        Image.init()
    if name not in Image.OPEN and name == "HEIF":
        with contextlib.suppress(Exception):  # not installed, or for another Pillow
            import pillow_heif

            pillow_heif.register_heif_opener()
    return name in Image.OPEN
