"""Data sets by name, and the settings that find them again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from encoded import Image, encoded
from hypothesis import given
from hypothesis import strategies as st

from ssdml_fast.data import DataError, load
from ssdml_fast.data.dataset import as_labels_per_class
from ssdml_fast.data.load import LOADERS, absolute, find, read
from ssdml_fast.data.settings import DataSettings, from_stored

paths = st.lists(st.sampled_from(["a", "b c", "é", "x:y"]), min_size=1, max_size=3).map("/".join)
settings = st.builds(
    DataSettings,
    data=st.one_of(st.just("digits"), st.builds("{}:{}".format, st.sampled_from(sorted(LOADERS)), paths)),
    unlabelled=st.one_of(st.just(""), paths),
    labels=st.one_of(st.just(""), paths),
    labels_per_class=st.one_of(st.sampled_from(["", "all"]), st.integers(1, 10**6).map(str)),
    background=st.sampled_from(["white", "#102030"]),
    skip_damaged=st.booleans(),
)


@given(settings, st.booleans())
def test_settings_that_were_stored_find_the_same_from_anywhere(asked, has_unlabelled):
    stored = asked.stored(has_unlabelled)
    again = from_stored(stored)
    assert again.stored(not has_unlabelled) == stored  # nothing is left to a default that depends on the data
    assert (again.background, again.skip_damaged) == (asked.background, asked.skip_damaged)
    assert as_labels_per_class(again.per_class, has_unlabelled) == as_labels_per_class(asked.per_class, has_unlabelled)
    for place in ("unlabelled", "labels"):
        before, after = getattr(asked, place), getattr(again, place)
        assert bool(before) == bool(after) and (not after or after == os.path.abspath(before))
    assert from_stored(stored, {"data": "images:moved"}).data == f"images:{Path('moved').resolve()}"


@pytest.mark.parametrize(
    "stored", [{}, {"name": "digits"}, {"name": 5, "labels_per_class": 3}, {"name": "digits", "labels_per_class": 0},
               {"name": "digits", "labels_per_class": 3, "colour": "red"},
               {"name": "digits", "labels_per_class": 3, "skip_damaged": "yes"}],
)  # fmt: skip
def test_what_was_not_stored_by_settings_is_refused(stored):
    with pytest.raises(DataError, match="unknown data set"):
        from_stored(stored)


@pytest.mark.parametrize(
    ("unlabelled", "labels", "given_by_user", "kept"),
    [("", "", "", 10), ("more", "", "", 10), ("", "my.csv", "", "all"), ("", "my.csv", "3", 3), ("", "", "all", "all")],
)
def test_labels_of_ones_own_are_all_kept_unless_told_otherwise(unlabelled, labels, given_by_user, kept):
    asked = DataSettings(unlabelled=unlabelled, labels=labels, labels_per_class=given_by_user)
    assert asked.stored(has_unlabelled=False)["labels_per_class"] == kept


@pytest.mark.parametrize("name", ["", "digit", "digits:here", "images", "images:", ":here", "Images:here"])
def test_names_of_no_kind_list_the_kinds(name):
    with pytest.raises(DataError, match=r"KIND one of mnist, .*, images, table, features"):
        find(name)


def test_a_home_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savez(tmp_path / "f.npz", x=np.ones((4, 2)), y=[0, 0, 1, 1])
    assert absolute("features:~/f.npz") == f"features:{tmp_path.resolve() / 'f.npz'}"
    assert len(read("features:~/f.npz").images) == 4
    with pytest.raises(DataError, match="no home"):
        read("features:~no-such-user/f.npz")


@pytest.fixture
def photographs(tmp_path):
    """Images of two classes and two sizes, and one that is damaged."""
    for c, name in enumerate(("ant", "bee")):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(9):
            image = Image.new("RGB", (9 + c, 9), (80 * c, 20 * i, 0))
            (tmp_path / "d" / name / f"{i}.png").write_bytes(encoded(image))
    (tmp_path / "d" / "bee" / "8.png").write_bytes(b"no picture")
    return f"images:{tmp_path / 'd'}"


def test_images_are_brought_to_one_size_without_those_that_are_damaged(photographs):
    with pytest.raises(DataError, match=r"bee/8\.png"):
        load(photographs, image_size=8)
    with pytest.raises(DataError, match="size"):
        load(photographs, skip_damaged=True)
    data = load(photographs, image_size=8, skip_damaged=True, labels_per_class=2)
    assert data.images.shape[1:] == (3, 8, 8) and (data.labels >= 0).sum() == 4
    assert [left.name for left in data.account.left_out] == ["bee/8.png"]
    with pytest.raises(DataError, match=r"found 1 that is not:\n  bee/8\.png"):
        load(photographs, image_size=8, skip_damaged=True, strict=True)


def test_strict_refuses_before_anything_is_decoded(photographs, tmp_path, monkeypatch):
    (tmp_path / "d" / "bee" / "notes.txt").write_text("read me")
    monkeypatch.setattr("ssdml_fast.data.images.decode_parts", None)
    with pytest.raises(DataError, match=r"bee/notes\.txt: no image"):
        load(photographs, image_size=8, strict=True)


def test_labels_and_unlabelled_examples_join_by_keyword(photographs, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.png").write_bytes(encoded(Image.new("RGB", (9, 9), (1, 2, 3))))
    (tmp_path / "my.csv").write_text("path,label\nunlabelled/x.png,cow\n")
    how = {"image_size": 8, "skip_damaged": True}
    data = load(photographs, unlabelled=str(tmp_path / "more"), **how)
    assert (data.truth < 0).sum() == 1 and (data.labels >= 0).sum() == len(data.labels) - 1
    data = load(photographs, unlabelled=str(tmp_path / "more"), labels=str(tmp_path / "my.csv"), **how)
    assert data.classes == ("ant", "bee", "cow") and (data.labels >= 0).all()
