"""What lies in a folder, on the disk or in an archive, accounted for completely."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .dataset import DataError, LeftOut

File = str | Path | bytes
"""The path of a file on the disk, or what is in it."""

FILE = (str, Path, bytes)

Files = dict[str, File]
"""Files by name: their path below the folder or in the archive, with forward slashes; ascending."""

HIDDEN = frozenset(["thumbs.db", "desktop.ini", "__macosx"])  # beside names with a dot before them
STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # of lines and directions of writing too
MOST_LINKED = 1_000_000  # entries found by way of links, which can be folded into each other to any number


@dataclass
class Tree:
    """What lies in a folder or archive.

    Attributes
    ----------
    files : dict
        The files by name, as :func:`shown`: their path on the disk, or what is in them.
    empty : list of str
        Names of the folders in which nothing lies, or hidden files alone.
    left_out : list of LeftOut
        What was found and cannot be read: dangling links, special files, what nobody may read.
    n_hidden : int
        Files and folders that are not looked at, as they are hidden or made by a file manager.
    """

    files: Files = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    n_hidden: int = 0

    def notes(self) -> tuple[str, ...]:
        """Say in a line what is hidden, if anything is."""
        if not self.n_hidden:
            return ()
        return (f"{self.n_hidden} hidden file{'s were' if self.n_hidden > 1 else ' was'} not looked at",)


@dataclass(frozen=True)
class Folder:
    """A folder: where it is found again, what it is the same as, and whether a link led to it."""

    place: str
    identity: Hashable
    is_link: bool = False


@dataclass(frozen=True)
class Unreadable:
    """What cannot be read, and why."""

    why: str


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or made by a file manager."""
    return name[0] == "." or name.lower() in HIDDEN


def shown(name: str) -> str:
    r"""Return a name as text that can be written anywhere: what is no UTF-8, or steers a terminal, by its number.

    Examples
    --------
    >>> shown(b"caf\xe9".decode("utf-8", "surrogateescape")), shown("\x1b[31mred")
    ('caf\\xe9', '\\x1b[31mred')
    """
    if not name.isascii():
        name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), name)


def walk(root: Folder, entries: Callable[[str], Sequence[tuple[str, File | Folder | Unreadable | None]]]) -> Tree:
    """Go through a folder and those in it; a folder that lies in itself by way of a link is not entered again.

    Parameters
    ----------
    root : Folder
        Where to begin.
    entries : callable
        The entries of the folder at a place, by their names there; None for one that is hidden. Raises OSError where
        it cannot be read.

    Returns
    -------
    Tree

    Raises
    ------
    OSError
        If `root` cannot be read.
    DataError
        If links lead to more than a million entries.
    """
    tree = Tree()
    waiting: list[tuple[Folder, str, tuple[Hashable, ...]]] = [(root, "", ())]
    n_linked = 0
    while waiting:
        folder, name, above = waiting.pop()
        above = (*above, folder.identity)
        try:
            found = entries(folder.place)
        except OSError as error:
            if folder is root:
                raise
            tree.left_out.append(LeftOut(name, f"a folder that cannot be read: {error.strerror}"))
            continue
        if folder is not root and all(entry is None for _, entry in found):
            tree.empty.append(name)
        n_linked += len(found) if folder.is_link else 0
        if n_linked > MOST_LINKED:
            raise DataError(f"links in {root.place} must lead to at most {MOST_LINKED:,} files and folders")
        before = f"{name}/" if name else ""
        for last, entry in found:
            inner = before + shown(last)
            if isinstance(entry, FILE):
                if inner in tree.files:
                    tree.left_out.append(LeftOut(inner, "a name that cannot be told from another's"))
                else:
                    tree.files[inner] = entry
            elif entry is None:
                tree.n_hidden += 1
            elif isinstance(entry, Unreadable):
                tree.left_out.append(LeftOut(inner, entry.why))
            elif entry.identity in above:
                tree.left_out.append(LeftOut(inner, "a link to a folder that it lies in"))
            else:
                waiting.append((replace(entry, is_link=entry.is_link or folder.is_link), inner, above))
    tree.files = {name: tree.files[name] for name in sorted(tree.files)}
    tree.empty.sort()
    tree.left_out.sort(key=lambda left: left.name)
    return tree
