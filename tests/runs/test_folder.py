"""Files of a run folder are whole or as they were before, and nothing outside the folder is written."""

from __future__ import annotations

import os
import secrets

import pytest

from ssdml_fast.runs.folder import RunError, write_atomically


def write(file):
    file.write(b"new")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_rights_that_others_get(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file.txt", write)
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o640


@pytest.fixture
def precious(tmp_path):
    """A file outside the folder, and the folder."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    yield tmp_path / "precious", tmp_path / "run"
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_link_in_the_place_of_a_file_is_replaced(precious):
    outside, folder = precious
    (folder / "report.html").symlink_to(outside)
    write_atomically(folder / "report.html", write)
    assert not (folder / "report.html").is_symlink() and (folder / "report.html").read_bytes() == b"new"


def test_names_of_temporary_files_cannot_be_foreseen(tmp_path):
    names = set()
    for _ in range(20):
        write_atomically(tmp_path / "file.txt", lambda file: names.add(file.name))
    assert len(names) == 20 and all(len(os.path.basename(name)) > len("file.txt") + 16 for name in names)


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(precious, monkeypatch):
    outside, folder = precious
    monkeypatch.setattr(secrets, "token_hex", lambda n: "guessed")
    (folder / ".report.html.guessed").symlink_to(outside)
    with pytest.raises(RunError, match=r"report\.html cannot be written: File exists"):
        write_atomically(folder / "report.html", write)
    assert not (folder / "report.html").exists()
