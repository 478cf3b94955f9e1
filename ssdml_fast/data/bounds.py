"""How large a picture may be, and how many large ones are decoded at once: the memory that a few bytes can ask for."""

from __future__ import annotations

import contextlib
import threading

LARGE = 1 << 26  # pixels: 256 MiB of them in Pillow

_large = threading.Lock()


def check_pixels(width: int, height: int) -> None:
    """Refuse a picture of more pixels than Pillow decodes: twice ``PIL.Image.MAX_IMAGE_PIXELS``, if that is set.

    Raises
    ------
    PIL.Image.DecompressionBombError
        Pillow's own, which it raises of most formats itself.
    """
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"{width}x{height} pixels")


def room(width: int, height: int) -> contextlib.AbstractContextManager:
    """Hold what lets one thread at a time decode a picture of more than `LARGE` pixels; others need not wait.

    Examples
    --------
    >>> with room(500, 375):
    ...     pass
    """
    return _large if width * height > LARGE else contextlib.nullcontext()
