"""Labels of one's own reach the examples that they name, over any data set, or it is told which do not."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from ssdml_fast.data import Account, DataError, Source, image_folder
from ssdml_fast.data.relabel import with_labels


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "data"
    for name in ("train/cat/1", "train/cat/2", "train/dog/3", "train/unlabelled/4", "train/unlabelled/5",
                 "val/cat/6", "val/cow/7", "test/cat/8"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.png").touch()
    return image_folder(root)


def relabelled(found, tmp_path, text):
    (tmp_path / "my.csv").write_text(text, encoding="utf-8")
    return with_labels(found, tmp_path / "my.csv")


def by_name(found):
    names = [*found.names, *found.val_names, *found.test_names]
    labels = np.concatenate([found.labels, found.val_labels, found.test_labels]).tolist()
    return {
        name.rpartition("/")[2][0]: found.classes[c] if c >= 0 else "" for name, c in zip(names, labels, strict=True)
    }


def test_labels_are_set_by_name_and_by_path(images, tmp_path):
    before = by_name(images)
    found = relabelled(
        images,
        tmp_path,
        "path,label,who\n"
        "train/unlabelled/4.png,cow,me\n"
        f"{tmp_path}/data/train/unlabelled/5.png,Ant,me\n"
        "data/train/cat/1.png,,me\n"
        "train\\cat\\2.png,dog,me\n"
        "train\\cat\\2.png,dog,me\n"
        "val/cow/7.png,dog,me\n"
        "test/cat/8.png,cat,me\n",
    )
    assert by_name(found) == before | {"4": "cow", "5": "Ant", "1": "", "2": "dog", "7": "dog"}
    assert found.classes == ("cat", "cow", "dog", "Ant")
    assert found.files == images.files and by_name(images) == before
    assert found.account.notes == (
        "my.csv gives 5 labels, 2 of them to unlabelled examples, 2 in place of another, takes 1",
        "columns of my.csv that are not used: 'who'",
    )


def test_a_class_without_examples_goes(images, tmp_path):
    found = relabelled(images, tmp_path, "path,label\ntrain/dog/3.png,Cat\nval/cow/7.png,cat\n")
    assert found.classes == ("cat", "Cat")
    assert by_name(found) == by_name(images) | {"3": "Cat", "7": "cat"}
    assert "classes that differ in letter case only: Cat and cat" in found.account.notes


def test_images_without_classes_get_them(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").touch()
    found = relabelled(image_folder(tmp_path), tmp_path, "path,label\n1.png,dog\n3.png,cat\n")
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [-1, 1, -1, 0]


def test_without_names_a_path_is_a_row(tmp_path):
    source = Source(("3", "5", "7"), np.zeros((4, 2), np.float32), np.array([0, 1, -1, -1]), account=Account("mine"))
    found = relabelled(source, tmp_path, "row;label\n3;5.0\n0;3.0\n2;9\n1;\n")
    assert found.classes == ("3", "5", "7", "9") and found.labels.tolist() == [0, -1, 3, 1]
    assert found.account.layout == "mine" and found.val_labels is None
    for row in ("4", "-1", "1.5", "one", ""):
        with pytest.raises(DataError, match=rf"rows of training examples, from 0, found 1 .*\n  {row or 'nothing'} in"):
            relabelled(source, tmp_path, f"row;label\n{row};5\n")


def test_features_are_named_as_their_table_does(tmp_path):
    source = Source(("a",), np.zeros((3, 2), np.float32), np.array([0, -1, -1]), names=["x", "y", "y"])
    found = relabelled(source, tmp_path, "id,label\nx,b\n")
    assert found.classes == ("b",) and found.labels.tolist() == [0, -1, -1]
    with pytest.raises(DataError, match=r"y in line 2 \(the name of several\)"):
        relabelled(source, tmp_path, "id,label\ny,b\n")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("none.png,cat\n4.png,cat\ncat/1.png,dog\n",
         r"found 3 that are none:\n  none\.png in line 2\n  4\.png in line 3 \(is it train/unlabelled/4\.png\?\)"),
        (",cat\n", "nothing in line 2"),
        ("train/cat/1.png,dog\ntrain/cat/1.png,cat\n",
         r"one label, found 1 .*\n  train/cat/1\.png in line 2 and line 3$"),
        ("train/cat/1.png,dog\ntrain/cat/1.png,\n", r"one label, found 1 "),
        ("test/cat/8.png,dog\nval/cat/6.png,\nval/cow/7.png,cat\n",
         r"found 2 that it does not:\n  test/cat/8\.png in line 2\n  val/cat/6\.png in line 3$"),
    ],
)  # fmt: skip
def test_labels_that_reach_nothing_or_too_much_are_told(images, tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        relabelled(images, tmp_path, f"path,label\n{rows}")


def test_a_table_must_have_its_columns(images, tmp_path):
    with pytest.raises(DataError, match="must have a column label or "):
        relabelled(images, tmp_path, "path,x\na,1\n")
    with pytest.raises(DataError, match="must have a column path or "):
        relabelled(images, tmp_path, "x,label\na,1\n")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_found_in_either_form_of_unicode(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    (tmp_path / unicodedata.normalize(form, "café.png")).touch()
    text = f"path,label\n{unicodedata.normalize(other, 'café.png')},cup\n"
    assert relabelled(image_folder(tmp_path), tmp_path, text).labels.tolist() == [0]
