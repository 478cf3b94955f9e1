"""Files are found in folders, tars and zips alike; links are followed; what cannot be read is accounted for."""

from __future__ import annotations

import gzip
import io
import os
import socket
import stat
import tarfile
import zipfile

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssdml_fast.data import DataError
from ssdml_fast.data import tree as trees
from ssdml_fast.data.archives import LARGEST, LONGEST_PATH
from ssdml_fast.data.files import existing, open_files, read


def write(folder, *names):
    """Files that hold their names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name.rpartition("/")[2])


def contents(tree):
    return {name: read(file).decode() for name, file in tree.files.items()}


def whys(tree):
    return {left.name: left.why for left in tree.left_out}


def packed(folder, container):
    """The folder as it is, or in an archive."""
    if container == "folder":
        return folder
    path = folder.with_name(f"packed.{container}.of.no.suffix")
    if container == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in sorted(folder.rglob("*")):
                entry = zipfile.ZipInfo(str(name.relative_to(folder)) + "/" * (name.is_dir() and not name.is_symlink()))
                entry.external_attr = name.lstat().st_mode << 16
                link = os.readlink(name) if name.is_symlink() else ""
                archive.writestr(entry, link or (name.read_bytes() if name.is_file() else b""))
        return path
    with tarfile.open(path, {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz"}[container]) as tar:
        tar.add(folder, arcname=".")
    return path


CONTAINERS = pytest.mark.parametrize("container", ["folder", "tar", "tar.gz", "tar.xz", "zip"])


@CONTAINERS
def test_files_and_empty_folders_are_found_in_any_container(tmp_path, container):
    folder = tmp_path / "d"
    write(folder, "b/2", "b/c/3", "a", "B/2", "b/.DS_Store", "._a", "__MACOSX/x", "c/Thumbs.db", "c/desktop.INI")
    (folder / "e/f").mkdir(parents=True)
    tree = open_files(packed(folder, container))
    assert contents(tree) == {"B/2": "2", "a": "a", "b/2": "2", "b/c/3": "3"}
    assert list(tree.files) == sorted(tree.files)
    assert tree.empty == ["c", "e/f"] and tree.left_out == []
    assert tree.notes() == ("5 hidden files were not looked at",)


@CONTAINERS
def test_links_are_followed_and_those_that_lead_nowhere_told(tmp_path, container):
    folder = tmp_path / "d"
    write(folder, "pool/1", "pool/deep/2")
    for name, target in {
        "cat": "pool", "dog/3": "../pool/1", "dog/.hidden": "x", "lost": "nowhere", "itself": "itself",
        "pool/deep/up": "..", "again": "cat", "by": "cat/deep/2",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(target)
    os.link(folder / "pool/1", folder / "hard")
    tree = open_files(packed(folder, container))
    assert contents(tree) == {
        "again/1": "1", "again/deep/2": "2", "by": "2", "cat/1": "1", "cat/deep/2": "2", "dog/3": "1", "hard": "1",
        "pool/1": "1", "pool/deep/2": "2",
    }  # fmt: skip
    round_it = "a link to a folder that it lies in"
    loops = dict.fromkeys(("again/deep/up", "cat/deep/up", "pool/deep/up"), round_it)
    assert whys(tree) == {"lost": "a dangling link", "itself": "a link to itself", **loops}


@pytest.mark.parametrize("container", ["tar", "zip"])
def test_links_out_of_an_archive_are_not_followed(tmp_path, container):
    folder = tmp_path / "d"
    write(tmp_path, "secret", "d/a")
    (folder / "up").symlink_to("../secret")
    (folder / "root").symlink_to(tmp_path / "secret")
    tree = open_files(packed(folder, container))
    assert contents(tree) == {"a": "a"}
    assert whys(tree) == dict.fromkeys(("up", "root"), "a link out of the archive")


def test_special_files_are_never_opened(tmp_path, monkeypatch):
    folder = tmp_path / "d"
    write(folder, "a")
    os.mkfifo(folder / "pipe")
    with tarfile.open(tmp_path / "t", "w") as tar:
        tar.add(folder, arcname=".")
    tree = open_files(tmp_path / "t")
    assert (contents(tree), whys(tree)) == ({"a": "a"}, {"pipe": "a special file"})
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder)  # the path of a socket must be short
        server.bind("socket")
    tree = open_files(folder)
    assert (contents(tree), whys(tree)) == ({"a": "a"}, dict.fromkeys(("pipe", "socket"), "a special file"))
    with pytest.raises(DataError, match="found a special file"):
        open_files(folder / "pipe")


def test_what_may_not_be_read_is_told(tmp_path, monkeypatch):
    write(tmp_path, "a", "b", "cat/1", "dog/2")
    denied = PermissionError(13, "Permission denied")

    def scandir(path, scandir=os.scandir):
        if str(path).endswith("dog"):
            raise denied
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)  # who is root may read all
    monkeypatch.setattr(os, "access", lambda path, _: not path.endswith("b"))
    tree = open_files(tmp_path)
    assert list(tree.files) == ["a", "cat/1"]
    assert whys(tree) == {"b": "a file that may not be read", "dog": "a folder that cannot be read: Permission denied"}
    with pytest.raises(DataError, match=r"which cannot be read: Permission denied$"):
        open_files(tmp_path / "dog")


@pytest.mark.parametrize("name", ["none", "x" * 300, "a/under a file"])
def test_a_path_that_leads_nowhere_is_one_line(tmp_path, name):
    write(tmp_path, "a")
    for look in (open_files, lambda path: existing(path, "a list")):
        with pytest.raises(DataError, match=r"^expected .*$") as error:
            look(tmp_path / name)
        assert "\n" not in str(error.value)


def test_names_that_are_no_utf_8_can_be_written_anywhere(tmp_path):
    folder = os.fsencode(tmp_path / "d") + b"/caf\xe9"
    os.makedirs(folder)
    for name in (b"1", b"\xff", b"\\xff", "é".encode()):
        with open(folder + b"/" + name, "wb") as file:
            file.write(b"x")
    with tarfile.open(tmp_path / "t", "w") as tar:
        tar.add(tmp_path / "d", arcname=".")
    for path in (tmp_path / "d", tmp_path / "t"):
        tree = open_files(path)
        assert contents(tree) == dict.fromkeys(("caf\\xe9/1", "caf\\xe9/\\xff", "caf\\xe9/é"), "x")
        assert whys(tree) == {"caf\\xe9/\\xff": "a name that cannot be told from another's"}


@pytest.mark.parametrize("container", ["folder", "tar", "zip"])
def test_names_cannot_steer_a_terminal(tmp_path, container):
    write(tmp_path / "d", "\x1b[31mred/a\nb", "x/\u202egnp.a", "x/\u65e5\u672c \U0001f600")
    tree = open_files(packed(tmp_path / "d", container))
    assert list(tree.files) == ["\\x1b[31mred/a\\nb", "x/\\u202egnp.a", "x/\u65e5\u672c \U0001f600"]


def test_links_folded_into_each_other_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "MOST_LINKED", 100)
    for i in range(8):
        (tmp_path / f"{i}").mkdir()
        for name in "ab":
            (tmp_path / f"{i}/{name}").symlink_to(f"../{i + 1}")
    with tarfile.open(tmp_path.with_suffix(".tar"), "w") as tar:
        tar.add(tmp_path, arcname=".")
    for path in (tmp_path, tmp_path.with_suffix(".tar")):
        with pytest.raises(DataError, match="must lead to at most 100 files"):
            open_files(path)


PLACES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=4).map("/".join)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(PLACES, st.none() | TARGETS, max_size=8), st.lists(PLACES, max_size=2))
def test_an_archive_is_read_as_the_folder_that_it_is_of(tmp_path_factory, entries, empty):
    folder = tmp_path_factory.mktemp("any") / "d"
    folder.mkdir()
    for name, target in entries.items():
        path = folder / name
        if os.path.lexists(path) or any(os.path.lexists(p) and not p.is_dir() for p in path.parents):
            continue
        if folder.resolve() not in (*path.parent.resolve().parents, path.parent.resolve()):
            continue  # by way of a link out of it
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name) if target is None else path.symlink_to(target)
    for name in empty:
        if not any(os.path.lexists(p) for p in (folder / name, *(folder / name).parents) if p not in folder.parents):
            (folder / name).mkdir(parents=True)
    tree = open_files(folder)
    assume(not any(os.path.relpath(os.path.realpath(p), folder).startswith("..") for p in folder.rglob("*")))
    for container in ("tar", "zip"):
        other = open_files(packed(folder, container))
        assert contents(other) == contents(tree) and whys(other) == whys(tree) and other.empty == tree.empty


# ---- tars


def tar_of(path, *members):
    """A tar of members, their content or what else they are."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                for key, value in content.items():
                    setattr(member, key, value)
                tar.addfile(member)
    return path


def test_of_members_of_one_name_the_last_is_read_and_it_is_told(tmp_path):
    path = tar_of(tmp_path / "t", ("a", b"1"), ("./a", b"2"), ("b", b"3"), ("b/c", b"4"), ("b", b"5"))
    tree = open_files(path)
    assert contents(tree) == {"a": "2", "b/c": "4"}
    assert [(left.name, left.why) for left in tree.left_out] == [
        ("a", "an earlier member of the same name"),
        ("b", "an earlier member of the same name"),
        ("b", "a file in the place of a folder"),
    ]


def test_names_of_members_stay_within(tmp_path):
    long = "x/" * LONGEST_PATH + "y"
    tree = open_files(tar_of(tmp_path / "t", ("../a", b"1"), ("/b", b"2"), ("c//d/../e", b"3"), (long, b"4")))
    assert contents(tree) == {"b": "2", "c/e": "3"}
    assert set(whys(tree)) == {"../a", long[:LONGEST_PATH]}


def test_a_hard_link_may_be_hidden_from_or_come_before_what_it_is(tmp_path):
    link = {"type": tarfile.LNKTYPE, "linkname": ".pool/x"}
    tree = open_files(tar_of(tmp_path / "t", ("a", link), (".pool/x", b"1"), ("b", link | {"linkname": "none"})))
    assert contents(tree) == {"a": "1"} and whys(tree) == {"b": "a dangling link"} and tree.n_hidden == 1


def test_a_member_that_claims_to_be_large_is_not_read(tmp_path):
    sparse = b"1\n0\n0\n".ljust(512, b"\0")
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a"}
    with tarfile.open(tmp_path / "t", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("GNUSparseFile.0/a")
        member.size, member.pax_headers = len(sparse), headers | {"GNU.sparse.realsize": str(LARGEST + 1)}
        tar.addfile(member, io.BytesIO(sparse))
    assert whys(open_files(tmp_path / "t")) == {"a": "a file of 1,073,741,825 bytes; at most 1,073,741,824 are read"}


def test_a_tar_that_leads_back_is_told(tmp_path):
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" + (-512 & ((1 << 88) - 1)).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32)
    (tmp_path / "t").write_bytes(tarfile.TarInfo("b.png").tobuf() + bytes(header) + bytes(1024))
    with pytest.raises(DataError, match=r"a\.png"):
        open_files(tmp_path / "t")


@pytest.mark.parametrize("compression", ["", ":gz"])
def test_a_tar_that_is_damaged_or_cut_off_is_not_taken_for_a_shorter_one(tmp_path, compression):
    def written(content):
        (tmp_path / "t").write_bytes(gzip.compress(content) if compression else content)
        return open_files(tmp_path / "t")

    content = tar_of(tmp_path / "t", ("a", b"1"), ("b", b"2"), ("c", b"3")).read_bytes()
    assert len(written(content).files) == 3
    for damaged in (content[:1024] + b"x" + content[1025:], content[: 1024 + 100], content[: 1024 + 512]):
        with pytest.raises(DataError, match=r"found what cannot be read as one: |b in .* cannot be read: "):
            written(damaged)
    tree = written(content[:2048])
    assert contents(tree) == {"a": "1", "b": "2"}
    assert whys(tree) == {"t": "the mark of its end is missing: more of it may be"}


def test_a_file_that_is_no_archive_is_told_in_a_line(tmp_path):
    (tmp_path / "t").write_text("text")
    with pytest.raises(DataError, match=r"found what cannot be read as one: file could not be opened successfully$"):
        open_files(tmp_path / "t")


@pytest.mark.parametrize("container", ["tar", "zip"])
def test_what_is_not_wanted_is_listed_but_not_read(tmp_path, container):
    write(tmp_path / "d", "a", "b", "c")
    heads = {}

    def wanted(name, head):
        heads[name] = head
        return name == "b"

    tree = open_files(packed(tmp_path / "d", container), wanted)
    assert contents(tree) == {"a": "", "b": "b", "c": ""} and heads == {"a": b"a", "b": b"b", "c": b"c"}


# ---- zips


def zip_of(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_names_in_a_zip_are_read_as_they_were_meant(tmp_path):
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        for name in ("windows\\a", "é/utf-8"):
            archive.writestr(name, "x")
        for name in ("dos/caf@", "unix/caf@@"):
            archive.writestr(name, "x")
    content = (tmp_path / "z").read_bytes().replace(b"dos/caf@", b"dos/caf\x82").replace(b"caf@@", "café".encode())
    (tmp_path / "z").write_bytes(content)
    assert list(open_files(tmp_path / "z").files) == ["dos/café", "unix/café", "windows/a", "é/utf-8"]


def test_all_damaged_members_of_a_zip_are_named(tmp_path):
    path = zip_of(tmp_path / "z", a="first" * 50, b="second" * 50, c="third" * 50)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist()[:2]:
            content[member.header_offset + 31 + 4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a in .*z cannot be read: .*; b in .*z cannot be read: ") as error:
        open_files(path)
    assert "c in" not in str(error.value)


def test_an_encrypted_member_is_told(tmp_path):
    path = zip_of(tmp_path / "z", a="1", b="2")
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")  # its entry in the directory
    content[at + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a in .*z cannot be read: it is encrypted$"):
        open_files(path)


def test_a_zip_of_a_kind_that_is_not_read_is_told(tmp_path):
    path = zip_of(tmp_path / "z", a="1")
    content = bytearray(path.read_bytes())
    for at, mark in ((8, b"PK\x03\x04"), (10, b"PK\x01\x02")):
        content[content.index(mark) + at] = 9  # deflate64, as Windows writes large files
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a in .*z cannot be read: .*compression"):
        open_files(path)


@pytest.mark.parametrize("cut", [10, 40, 90, -30, -1])
def test_a_damaged_zip_is_told(tmp_path, cut):
    path = zip_of(tmp_path / "z", a="1", b="2")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="found what cannot be read as one"):
        open_files(path)


def test_a_tar_that_ends_in_a_zip_is_a_tar(tmp_path):
    inner = zip_of(tmp_path / "z", a="1").read_bytes()
    assert list(open_files(tar_of(tmp_path / "t", ("inner.zip", inner))).files) == ["inner.zip"]


def test_a_zip_with_a_program_before_it_is_a_zip(tmp_path):
    path = zip_of(tmp_path / "z", a="1")
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert contents(open_files(path)) == {"a": "1"}


def test_too_little_memory_is_told(tmp_path, monkeypatch):
    def refuse(self, size):
        raise MemoryError

    monkeypatch.setattr(zipfile.ZipExtFile, "read", refuse)
    with pytest.raises(DataError, match="takes more memory than there is; unpack it"):
        open_files(zip_of(tmp_path / "z", a="1"))


def test_modes_of_a_zip_from_elsewhere_are_no_links(tmp_path):
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        entry = zipfile.ZipInfo("a")
        entry.create_system, entry.external_attr = 0, stat.S_IFREG << 16
        archive.writestr(entry, "1")
    assert contents(open_files(tmp_path / "z")) == {"a": "1"}
