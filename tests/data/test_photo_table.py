"""Images that a table lists are found by their paths, with the labels and in the parts that it gives."""

from __future__ import annotations

import unicodedata

import pytest

from ssdml_fast.data import DataError
from ssdml_fast.data.photo_table import photo_table


@pytest.fixture
def folder(tmp_path):
    for name in ("a/1.jpg", "a/2.jpg", "3.jpg", "4.jpg", "5.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def table_of(folder, text, name="my.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return photo_table(folder / name)


def test_paths_labels_and_splits_are_read(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "a"))
    found = table_of(
        folder,
        "Split;Path;width;label\n"
        f";{folder}/3.jpg;7;dog\n"
        "Train;a/../4.jpg;7;\n"
        "VALIDATION;~/1.jpg;7;cat\n"
        "test;a\\2.jpg;7;cow\n"
        "valid;5.jpg;7;\n",
    )
    assert found.classes == ("cat", "cow", "dog")
    assert (found.names, found.labels.tolist()) == ([f"{folder}/3.jpg", "a/../4.jpg"], [2, -1])
    assert (found.val_names, found.val_labels.tolist()) == (["~/1.jpg"], [0])
    assert (found.test_names, found.test_labels.tolist()) == (["a\\2.jpg"], [1])
    files = [*found.files, *found.val_files, *found.test_files]
    assert files == [f"{folder}/{name}" for name in ("3.jpg", "a/../4.jpg", "a/1.jpg", "a/2.jpg")]
    assert found.account.layout == "a table with the columns 'Path', 'label', 'Split'"
    (left,) = found.account.left_out
    assert (left.name, left.why) == ("5.jpg (line 6)", "no label, which an image of the val part needs")
    assert found.account.notes == ("columns of my.csv that are not used: 'width'",)


def test_a_table_of_paths_alone_is_of_unlabelled_images(folder):
    found = table_of(folder, "path\n3.jpg\n4.jpg\n")
    assert found.classes == () and found.labels.tolist() == [-1, -1] and found.test_files == found.val_files == []


def test_a_parquet_table_is_read(folder):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"path": ["3.jpg", "4.jpg"], "label": [10, None]}).to_parquet(folder / "my.parquet")
    found = photo_table(folder / "my.parquet")
    assert found.classes == ("10",) and found.labels.tolist() == [0, -1]


def test_an_image_that_is_listed_again_is_told(folder):
    found = table_of(folder, "path,label\n3.jpg,cat\n./3.jpg,cat\n4.jpg,dog\n")
    assert found.names == ["3.jpg", "4.jpg"]
    (left,) = found.account.left_out
    assert (left.name, left.why) == ("./3.jpg (line 3)", "listed in line 2 too")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n3.jpg,cat\n6.jpg,cat\n\n7.jpg,\n,dog\n",
         r"found 3 that lead to no file:\n  6\.jpg in line 3\n  7\.jpg in line 5\n  no path in line 6$"),
        ("path,label\n3.jpg,cat\na,cat\n", r"found 1 that lead to no file:\n  a in line 3$"),
        ("path,label\n3.jpg,cat\na/../3.jpg,dog\n", r"another label or split:\n  a/\.\./3\.jpg in line 2 and line 3$"),
        ("path,label\n3.jpg,cat\n3.jpg,\n", r"another label or split:\n  3\.jpg in line 2 and line 3$"),
        ("path,label,split\n3.jpg,a,test\n3.jpg,a,train\n", r"found 1 listed again with another label or split"),
        ("path,label,split\n3.jpg,cat,train\n4.jpg,cat,dev\n", "must be train, val or test, found 'dev' in line 3"),
        ("path,label,split\n3.jpg,cat,test\n", "must list images of the training part, found none"),
        ("path,label\n", "must list images of the training part, found none"),
        ("name,label\n3.jpg,cat\n", "must have a column path or file or filename or image, found 'name', 'label'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_told(folder, text, message):
    with pytest.raises(DataError, match=message):
        table_of(folder, text)


def test_missing_files_are_listed_up_to_a_length(folder):
    rows = "".join(f"none{i}.jpg\n" for i in range(30))
    with pytest.raises(DataError, match=r"none19\.jpg in line 21\n  and 10 more$"):
        table_of(folder, f"path\n{rows}")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_paths_are_found_in_either_form_of_unicode(folder, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    (folder / unicodedata.normalize(form, "café.jpg")).touch()
    found = table_of(folder, f"path\n{unicodedata.normalize(other, 'café.jpg')}\n")
    assert found.files == [str(folder / unicodedata.normalize(form, "café.jpg"))]
