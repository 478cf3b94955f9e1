"""The files of a data set, whether they lie in a folder or in an archive."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

from .archives import Wanted, unpack
from .dataset import DataError
from .tree import File, Files, Folder, Tree, Unreadable, is_hidden, walk

__all__ = [
    "File", "Files", "Tree", "beside", "existing", "open_files", "read", "some_lines", "some_names",
]  # fmt: skip

TOLD = 20  # lines of an error message that lists what was found


def open_files(path: str | os.PathLike[str], wanted: Wanted | None = None) -> Tree:
    """List the files of a folder, or read those of a tar (plain or compressed) or zip; nothing is written to the disk.

    Links are followed, also within an archive; one that leads nowhere, out of the archive or back to a folder that it
    lies in is left out, as are special files and what may not be read.

    Parameters
    ----------
    path : str or path
        The folder or archive. Hidden files are counted, not listed: names with a dot before them, ``__MACOSX``,
        ``Thumbs.db`` and ``desktop.ini``.
    wanted : callable, optional
        By name and first bytes, whether a member of an archive is to be read: the others are listed with no bytes.

    Returns
    -------
    Tree

    Raises
    ------
    DataError
        If there is neither at `path`, it cannot be looked at, or the archive is damaged or encrypted.

    Notes
    -----
    Takes the length of its path for each file of a folder, and what is in them for those of an archive.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.txt").write_text("text")
    ...     (Path(folder) / "lost.txt").symlink_to("nowhere")
    ...     tree = open_files(folder)
    >>> list(tree.files), tree.left_out
    (['a.txt'], [LeftOut(name='lost.txt', why='a dangling link')])
    """
    path = Path(path)
    expected = f"expected a folder, tar or zip at {path}"
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return walk(Folder(str(path), _identity(status)), _entries)
        if stat.S_ISREG(status.st_mode):
            return unpack(path, wanted)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{expected}, found nothing") from None
    except OSError as error:
        raise DataError(f"{expected}, which cannot be read: {error.strerror}") from None
    except MemoryError:
        raise DataError(f"{path} takes more memory than there is; unpack it, and give the folder") from None
    raise DataError(f"{expected}, found a special file")


def read(file: File, size: int = -1) -> bytes:
    """Return what is in a file, or no more than its first `size` bytes."""
    if isinstance(file, bytes):
        return file if size < 0 else file[:size]
    with open(file, "rb", buffering=0) as opened:
        return opened.read(size)


def existing(path: Path, what: str) -> Path:
    """Return `path` where there is a file; where there is not, say that `what` was expected there, and what is."""
    if not os.path.isfile(path):  # no for what cannot be looked at, too
        found = "a folder" if os.path.isdir(path) else beside(path)
        raise DataError(f"expected {what} at {path}, found {found}")
    return path


def beside(path: Path) -> str:
    """Say what is in the folder of `path`, for an error message."""
    try:
        return some_names(sorted(os.listdir(path.parent)))
    except (FileNotFoundError, NotADirectoryError):
        return "no such folder"
    except OSError as error:
        return f"a folder that cannot be read: {error.strerror}"


def some_names(names: Collection[str]) -> str:
    """Say what is there, for an error message."""
    some = ", ".join(itertools.islice(names, 5))
    return some + f" and {len(names) - 5} more" * (len(names) > 5) if names else "no files"


def some_lines(found: Sequence[str]) -> str:
    """Say what was found, a line each, for an error message."""
    return "".join(f"\n  {one}" for one in found[:TOLD]) + f"\n  and {len(found) - TOLD} more" * (len(found) > TOLD)


def _entries(folder: str) -> list[tuple[str, File | Folder | Unreadable | None]]:
    """Entries of a folder on the disk; paths as text, which for 200,000 files saves 70 MB."""
    with os.scandir(folder) as entries:
        return [(entry.name, None if is_hidden(entry.name) else _kind(entry)) for entry in entries]


def _kind(entry: os.DirEntry[str]) -> File | Folder | Unreadable:
    try:
        if entry.is_file():  # special files are never opened: a pipe would wait for ever
            return entry.path if os.access(entry.path, os.R_OK) else Unreadable("a file that may not be read")
        if entry.is_dir():
            return Folder(entry.path, _identity(entry.stat()), entry.is_symlink())
        return Unreadable("a dangling link" if entry.is_symlink() else "a special file")
    except OSError as error:
        why = {errno.ELOOP: "a link to itself", errno.ENOTDIR: "a dangling link"}
        return Unreadable(why.get(error.errno or 0, f"cannot be looked at: {error.strerror}"))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
