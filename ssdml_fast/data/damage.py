"""What is said of pictures that cannot be decoded: by name, in one message, whatever a decoder raised."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator, Sequence

from .dataset import DataError

UNDECODED = "cannot be decoded: "  # what the reason begins with why such a picture is left out

_quiet_lock, _quiet_users = threading.Lock(), 0
_quiet_warnings = contextlib.ExitStack()


class DamagedPictures(DataError):
    """Pictures that cannot be decoded; the message names all of them.

    Attributes
    ----------
    damaged : tuple of (name, why)
        All of them.
    """

    def __init__(self, damaged: Sequence[tuple[str, str]]) -> None:
        self.damaged = tuple(damaged)
        if len(damaged) == 1:
            message = "image {} cannot be decoded: {}".format(*damaged[0])
        else:
            listed = "".join(f"\n  {name}: {why}" for name, why in damaged)
            message = f"{len(damaged)} images cannot be decoded:{listed}"
        super().__init__(message)

    def __reduce__(self) -> tuple[type[DamagedPictures], tuple[tuple[tuple[str, str], ...]]]:
        return type(self), (self.damaged,)


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
    """Say of whatever is raised that it is the picture of that name that cannot be decoded."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # plugins raise whatever a damaged file makes them stumble over
        raise DamagedPictures([(name, _why(error))]) from None


def _why(error: Exception) -> str:
    """Say in a line what is wrong with a picture."""
    from PIL import Image

    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"it claims more than {most:,} pixels, the most that are decoded (twice PIL.Image.MAX_IMAGE_PIXELS)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())[:200]
    if text and isinstance(error, OSError | ValueError | SyntaxError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show no warnings of Pillow's, from whichever thread: what may be decoded is decided here.

    Filters of warnings belong to the process, so that the first thread in sets them, and the last out puts them back.
    """
    global _quiet_users
    with _quiet_lock:
        if _quiet_users == 0:
            _quiet_warnings.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)(\.|$)")
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0:
                _quiet_warnings.close()
