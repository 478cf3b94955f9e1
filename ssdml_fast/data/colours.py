"""Pixels of every mode that Pillow has, as shades of grey or as red, green and blue: what a viewer shows.

Colour profiles are not applied: the weights of backbones were learnt from, and the benchmark sets of this field are
judged on, pixels as they are stored, which torchvision and timm read alike; and applying one takes longer than decoding
the picture (ImageCms, 3000x2000 pixels: 275 ms; what a JPEG file of them takes: 28 ms).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
KEYS: dict[str, type | tuple[type, ...]] = {"1": int, "L": int, "I": int, "I;16": int, "RGB": tuple, "P": (int, bytes)}
"""By mode, how a transparent colour, or the opacity of each of a palette's, is given."""
ORDERS = {
    "RGB": (0, 1, 2),
    "RGBA": (0, 1, 2),
    "RGBX": (0, 1, 2),
    "BGR": (2, 1, 0),
    "BGRA": (2, 1, 0),
    "BGRX": (2, 1, 0),
}
"""Where red, green and blue are in each entry of a palette."""


def as_background(background: str) -> tuple[int, ...]:
    """Read a colour.

    Parameters
    ----------
    background : str
        A name ("white", of CSS) or ``#rrggbb``.

    Returns
    -------
    (red, green, blue)
        0 … 255.

    Raises
    ------
    ValueError
        If it is no colour, or a transparent one.
    TypeError
        If it is no text.

    Examples
    --------
    >>> as_background("#ff8000")
    (255, 128, 0)
    """
    if not isinstance(background, str):
        raise TypeError(f"background must be the name of a colour or #rrggbb, found {background!r}")
    colour = _rgb(background)
    if len(colour) != 3:
        raise ValueError(f"background must be the name of a colour or #rrggbb, found {background!r}")
    return colour


@functools.lru_cache
def _rgb(colour: str) -> tuple[int, ...]:
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(colour)
    except ValueError:
        return ()


def rawmode_of(image: Image.Image) -> str:
    """How the pixels lie in the file of an image that Pillow opened and has not loaded; empty where it does not say."""
    if not image.__dict__.get("tile"):
        return ""
    how = image.tile[0][3]  # type: ignore[attr-defined]
    how = how[0] if isinstance(how, tuple) and how else how
    return how if isinstance(how, str) else ""


def is_grey(image: Image.Image, rawmode: str = "", background: tuple[int, ...] = (255, 255, 255)) -> bool:
    """Whether an image has shades of grey only, by its mode, its palette and what it is laid over; nothing is decoded.

    Parameters
    ----------
    image : PIL.Image.Image
        May be opened and not loaded.
    rawmode : str
        Of :func:`rawmode_of`, before it was loaded.
    background : (red, green, blue)
        What is behind transparent pixels.
    """
    if has_alpha(image) and len(set(background)) > 1:
        return False
    if image.mode in ("P", "PA"):
        return _is_grey_palette(image)
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16") or rawmode == "LA;16B"


def has_alpha(image: Image.Image) -> bool:
    """Whether pixels of an image may be transparent."""
    if image.mode in WITH_ALPHA or (image.mode == "P" and image.palette and image.palette.mode.endswith("A")):
        return True
    kind = KEYS.get("I;16" if image.mode.startswith("I;16") else image.mode)
    return kind is not None and isinstance(image.info.get("transparency"), kind)


def flattened(
    image: Image.Image, mode: str, rawmode: str = "", background: tuple[int, ...] = (255, 255, 255)
) -> Image.Image:
    """Return an image of mode L or RGB, transparent pixels laid over a background.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode.
    mode : "L" or "RGB"
        Of the result.
    rawmode : str
        Of :func:`rawmode_of`, before the image was loaded: by it shades of less than 8 bits, and of more, are told.
    background : (red, green, blue)
        What is behind transparent pixels.

    Raises
    ------
    ValueError
        If its numbers are no shades of up to 16 bits.

    Notes
    -----
    Over the background b a colour c of opacity a becomes (a c + (255 - a) b) / 255, rounded; of 16 bits the upper 8 are
    kept.

    Examples
    --------
    >>> from PIL import Image
    >>> flattened(Image.new("RGBA", (1, 1), (0, 0, 0, 51)), "RGB").getpixel((0, 0))
    (204, 204, 204)
    """
    from PIL import Image

    if not has_alpha(image):
        if image.mode == mode:
            return image
        return _of_shades(image, rawmode)[0].convert(mode) if _is_wide(image) else image.convert(mode)
    if _is_wide(image):
        image, opacity = _of_shades(image, rawmode)
        colours = image.convert("RGB")
    else:
        if "transparency" in image.info and image.mode in ("1", "L", "RGB"):
            image = _with_key_of_8_bits(image, rawmode)
        image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, "RGBA")).convert("RGBA")
        colours, opacity = image.convert("RGB"), image.getchannel("A")
    over = Image.new("RGB", image.size, background)
    over.paste(colours, mask=opacity)
    return over.convert(mode)


def _is_grey_palette(image: Image.Image) -> bool:
    if image.palette is None:
        return False
    order, colours = image.palette.getdata()
    if order.endswith(";L"):  # in planes
        planes = np.frombuffer(colours, np.uint8)[: len(colours) // 3 * 3].reshape(3, -1)
        return bool((planes == planes[0]).all())
    if order not in ORDERS:
        return False
    entries = np.frombuffer(colours, np.uint8)[: len(colours) // len(order) * len(order)].reshape(-1, len(order))
    entries = entries[:, list(ORDERS[order])]
    return bool((entries == entries[:, :1]).all())


def _is_wide(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _of_shades(image: Image.Image, rawmode: str) -> tuple[Image.Image, Image.Image | None]:
    """Scale shades of up to 16 bits to 8, which `convert` would cut off at 255; and opacity, if a shade is transparent.

    Mode I is one of 32 bits, but Pillow has 16 bits of PGM files in it, and older versions those of PNG files.
    """
    from PIL import Image

    shades = np.asarray(image)
    of_32_bits = image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM"))
    if of_32_bits or shades.min() < 0 or shades.max() >= 1 << 16:
        what = f"{image.mode}, stored as {rawmode}" if rawmode else image.mode
        raise ValueError(f"its pixels must be shades of 1 to 16 bits, found numbers of another range (mode {what})")
    key = image.info.get("transparency")
    opacity = Image.fromarray(np.where(shades == key, 0, 255).astype(np.uint8)) if isinstance(key, int) else None
    if rawmode.startswith("I;12"):
        shades = shades << 4
    if getattr(image, "tag_v2", {}).get(262) == 0:  # TIFF's PhotometricInterpretation: 0 is white
        shades = 0xFFFF - shades
    return Image.fromarray((shades >> 8).astype(np.uint8)), opacity


def _with_key_of_8_bits(image: Image.Image, rawmode: str) -> Image.Image:
    """Scale the transparent colour of a PNG file to 8 bits, as Pillow does its pixels, but not that colour."""
    key = image.info["transparency"]
    if image.mode == "RGB":
        return image if rawmode != "RGB;16B" else _with_key(image, tuple(part >> 8 for part in key))
    levels = 1 if image.mode == "1" else {"L;2": 3, "L;4": 15}.get(rawmode)
    image = image.convert("L")
    return image if levels is None else _with_key(image, key * 255 // levels)


def _with_key(image: Image.Image, key: int | tuple[int, ...]) -> Image.Image:
    image = image.copy()
    image.info["transparency"] = key
    return image
