"""Archives, tar or zip, read into memory; nothing is written to the disk."""

from __future__ import annotations

import lzma
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .dataset import DataError, LeftOut
from .tree import File, Folder, Tree, Unreadable, is_hidden, shown, walk

Read = Callable[[int], bytes]
"""Reads so many bytes on; all that are left if the number is negative."""

Wanted = Callable[[str, bytes], bool]
"""Whether a file is wanted, by its name and its first bytes."""

HEAD = 64  # bytes by which a file is judged
LARGEST = 1 << 30  # bytes of a file that is read: an archive may claim any number, and fit in a few
LONGEST_PATH = 4096
MOST_LINKS = 40  # on the way to a file, as on the disk

ERRORS = (  # what tarfile and zipfile raise of damaged files, and DataError, which is a ValueError
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, ValueError, OverflowError, NotImplementedError, RuntimeError),
)


@dataclass(frozen=True)
class Member:
    """A member of an archive.

    Attributes
    ----------
    name : str
        As the archive has it, with forward slashes.
    kind : str
        "file", "folder", "link" (to a path from its own folder), "hard link" (to a member) or "special file"; "missing
        end" after the last of an archive that may have had more.
    size : int
        Bytes of a file.
    target : str
        Where a link points to.
    read : callable, optional
        Reads a file, until the next member is asked for; raises DataError if it is damaged.
    """

    name: str
    kind: str
    size: int = 0
    target: str = ""
    read: Read | None = None


def unpack(path: Path, wanted: Wanted | None = None) -> Tree:
    """Read the files of a tar (plain or compressed) or zip, and follow the links in it.

    Parameters
    ----------
    path : Path
        The archive.
    wanted : callable, optional
        By name and first bytes, whether a file is to be read: the others are listed with no bytes.

    Returns
    -------
    Tree
        Of members of one name the last, as when they are unpacked.

    Raises
    ------
    DataError
        If it is no archive, or members are damaged or encrypted, all of which are named.
    """
    contents, damaged = _Contents(), []
    for member in members(path):
        try:
            contents.add(member, wanted)
        except DataError as error:
            damaged.append(str(error))
    if damaged:
        raise DataError("; ".join(damaged[:20]) + f"; and {len(damaged) - 20} more" * (len(damaged) > 20))
    tree = walk(Folder("", ""), contents.entries)
    left_out = (LeftOut(shown(left.name), left.why) for left in contents.left_out)
    tree.left_out = sorted([*tree.left_out, *left_out], key=lambda left: left.name)
    return tree


class _Contents:
    """What lies in an archive: a file system in memory."""

    def __init__(self) -> None:
        self.inner: dict[str, dict[str, None]] = {"": {}}  # names in a folder
        self.files: dict[str, File | Unreadable] = {}
        self.links: dict[str, tuple[bool, str]] = {}  # whether a hard one, and its target
        self.left_out: list[LeftOut] = []

    def add(self, member: Member, wanted: Wanted | None) -> None:
        name = posixpath.normpath(member.name.lstrip("/"))
        if member.kind == "missing end":
            self.left_out.append(LeftOut(name, "the mark of its end is missing: more of it may be"))
        elif name.startswith("../") or name == ".." or len(name) > LONGEST_PATH:
            self.left_out.append(LeftOut(member.name[:LONGEST_PATH], "a name that no folder can hold"))
        elif member.kind == "folder":
            self._enter("" if name == "." else name)
        elif name in self.inner:
            self.left_out.append(LeftOut(name, "a file in the place of a folder"))
        else:
            self._forget(name)
            if member.kind == "link":
                self.links[name] = False, member.target
            elif member.kind == "hard link":
                self.links[name] = True, member.target  # from the root of the archive
            else:
                self.files[name] = self._read(member, name, wanted)
            self._enter(*name.rpartition("/")[::2])

    def _enter(self, folder: str, name: str = "") -> None:
        """Make a folder, and those that it lies in; put a name into it."""
        while True:
            is_new = folder not in self.inner
            if is_new:
                self._forget(folder)
            names = self.inner.setdefault(folder, {})
            if name:
                names[name] = None
            if not is_new:
                return
            folder, _, name = folder.rpartition("/")

    def _forget(self, name: str) -> None:
        """Make room for a later member: of two of one name, the last is what unpacking leaves."""
        if name in self.files or name in self.links:
            self.left_out.append(LeftOut(name, "an earlier member of the same name"))
        self.files.pop(name, None)
        self.links.pop(name, None)

    def _read(self, member: Member, name: str, wanted: Wanted | None) -> File | Unreadable:
        if member.read is None:
            return Unreadable("a special file")
        if member.size > LARGEST:
            return Unreadable(f"a file of {member.size:,} bytes; at most {LARGEST:,} are read")
        if wanted is None:
            return member.read(-1)
        head = member.read(HEAD)
        return head + member.read(-1) if wanted(name, head) else b""

    def entries(self, folder: str) -> list[tuple[str, File | Folder | Unreadable | None]]:
        return [
            (name, None if is_hidden(name) else self._kind(posixpath.join(folder, name))) for name in self.inner[folder]
        ]

    def _kind(self, name: str) -> File | Folder | Unreadable:
        place = self._followed(name)
        if place is None:
            return Unreadable("a link to itself")
        if place in self.files:
            return self.files[place]
        if place in self.inner:
            return Folder(place, place, name in self.links)
        return Unreadable("a link out of the archive" if place == ".." else "a dangling link")

    def _followed(self, name: str) -> str | None:
        """The place that a name leads to, found as on the disk; ".." if that is outside, None if it has no end."""
        if name not in self.links:
            return name
        place, steps, n_links = "", name.split("/")[::-1], 0
        while steps:
            step = steps.pop()
            if step == "..":
                if not place:
                    return ".."
                place = posixpath.dirname(place)
            elif step not in ("", "."):
                at = posixpath.join(place, step)
                if at not in self.links:
                    place = at
                    if place not in self.inner:
                        return "/".join([place, *steps[::-1]])  # a file, where no step follows, or nothing
                    continue
                is_hard, target = self.links[at]
                n_links += 1
                if n_links > MOST_LINKS:
                    return None
                if target.startswith("/") and not is_hard:
                    return ".."
                place = "" if is_hard else place
                steps += target.split("/")[::-1]
        return place


def members(path: Path) -> Iterator[Member]:
    """Go through the members of a tar (plain or compressed) or zip, told apart by what is in the file.

    Raises
    ------
    DataError
        If it is neither, or damaged.
    """
    with open(path, "rb") as file:
        is_zip = file.read(2) == b"PK" or (not _is_tar(path) and zipfile.is_zipfile(path))
    try:
        yield from _zip_members(path) if is_zip else _tar_members(path)
    except DataError:
        raise
    except ERRORS as error:
        what = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")  # tarfile lists all that it tried
        raise DataError(f"expected a folder, tar or zip at {path}, found what cannot be read as one: {what}") from None


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except ERRORS:
        return True  # a damaged one, which is told when it is read


class _Header(tarfile.TarInfo):
    """A header; where it is damaged, tarfile would take it for the end."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        start = tar.offset
        try:
            return super().fromtarfile(tar)  # type: ignore[return-value]
        except tarfile.HeaderError as error:
            kind = type(error).__name__  # which tarfile has, but does not document
            if start and kind in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise tarfile.ReadError(f"{error} after {start:,} bytes") from None
            if start and kind == "EmptyHeaderError" and isinstance(tar, _Tar):
                tar.has_end = False
            raise


class _Tar(tarfile.TarFile):
    has_end = True


def _tar_members(path: Path) -> Iterator[Member]:
    with _Tar.open(path, errors="surrogateescape", tarinfo=_Header) as tar:
        for member in tar:
            if member.size < 0:  # which some versions of tarfile follow backwards, for ever
                raise DataError(
                    f"{path} is damaged: its member {shown(member.name)} is said to be of {member.size} bytes"
                )
            if member.isfile():
                file = tar.extractfile(member)
                assert file is not None  # a regular file
                yield Member(member.name, "file", member.size, read=_told(file.read, f"{shown(member.name)} in {path}"))
            elif member.isdir():
                yield Member(member.name, "folder")
            elif member.issym() or member.islnk():
                yield Member(member.name, "link" if member.issym() else "hard link", target=member.linkname)
            else:
                yield Member(member.name, "special file")
        if not tar.has_end:
            yield Member(path.name, "missing end")


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = _zip_name(member)
            if member.is_dir() or name.endswith("/"):
                yield Member(name, "folder")
                continue
            opened = _Opened(archive, member)
            read = _told(opened.read, f"{shown(name)} in {path}")
            if stat.S_ISLNK(member.external_attr >> 16):
                yield Member(name, "link", target=read(LONGEST_PATH).decode("utf-8", "surrogateescape"))
            else:
                yield Member(name, "file", member.file_size, read=read)
            opened.close()


def _zip_name(member: zipfile.ZipInfo) -> str:
    """The name as it was meant: some programs mark no UTF-8 as such, or write the backslashes of Windows."""
    name = member.filename
    if not member.flag_bits & 0x800:  # zipfile has taken its bytes for code page 437
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


class _Opened:
    """A member of a zip that is opened when it is read: one that nobody wants need not be sound."""

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        self.archive, self.member = archive, member
        self.file: IO[bytes] | None = None

    def read(self, size: int) -> bytes:
        if self.member.flag_bits & 1:
            raise DataError("it is encrypted")
        self.file = self.file or self.archive.open(self.member)
        return self.file.read(size)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def _told(read: Read, name: str) -> Read:
    """Read what may be damaged."""

    def read_or_tell(size: int) -> bytes:
        try:
            return read(size)
        except ERRORS as error:
            raise DataError(f"{name} cannot be read: {error}") from None

    return read_or_tell
