"""A lock on a folder, which the system releases when the process that holds it dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where folders have no such lock
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()  # descriptors of this process's locks


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder; it leaves no file. Nothing is held where the system or the file system has no locks.

    Raises
    ------
    BlockingIOError
        If it is held already, by this process or another.
    OSError
        If the folder cannot be opened.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # file systems without locks on folders, as NFS
            pass
        yield
    finally:
        if descriptor in _held:  # not in a process forked meanwhile
            _held.discard(descriptor)
            os.close(descriptor)


def _let_go() -> None:
    """Leave the locks to the process that took them: workers that outlive it must not hold them on."""
    while _held:
        os.close(_held.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_let_go)
