"""A file written so that a crash never leaves half of one."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")  # what a process that was killed within replace_atomically leaves


def replace_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a new file, then put it in the place of `path` in one step.

    Whatever lies in the folder, nothing outside is written: the new file has a name that nobody can foresee and is made
    by this call or not at all, and where `path` is a link, the link is replaced.

    Raises
    ------
    OSError
        If the file cannot be written, as on a full disk; what was at `path` is still there, as after any error.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:  # x: by O_EXCL, which follows no link
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()
