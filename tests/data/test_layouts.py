"""Folders are taken for what they mean, and nothing in them is dropped without a word."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdml_fast.data import DataError, image_folder
from ssdml_fast.data.layouts import understand

CLASSES = "a folder for each class"


def of(part):
    """Names and classes of a part, - for none, in a line."""
    return " ".join(f"{name}={label or '-'}" for name, label in sorted(part.items()))


@pytest.mark.parametrize(
    ("names", "text", "train", "val", "test", "left_out"),
    [
        # classes
        ("cat/1 dog/2", CLASSES, "cat/1=cat dog/2=dog", "", "", ""),
        ("cat/1 cat/deep/er/2 dog/3", CLASSES, "cat/1=cat cat/deep/er/2=cat dog/3=dog", "", "", ""),
        ("cat/1 dog/2 stray", CLASSES, "cat/1=cat dog/2=dog", "", "", "stray"),
        ("cat/1 dog/", CLASSES, "cat/1=cat", "", "", "dog/"),
        ("cat/1 cow/notes.txt dog/2", CLASSES, "cat/1=cat dog/2=dog", "", "", "cow/"),
        ("cat/1 Cat/2", CLASSES, "Cat/2=Cat cat/1=cat", "", "", ""),
        ("cat/l/1 cat/r/2 dog/l/3 dog/r/4", CLASSES, "cat/l/1=cat cat/r/2=cat dog/l/3=dog dog/r/4=dog", "", "", ""),
        # no classes
        ("1 2", "images without classes", "1=- 2=-", "", "", ""),
        ("photos/1 photos/2", "in photos/: images without classes", "photos/1=- photos/2=-", "", "", ""),
        ("1 2 old/3", "images without classes", "1=- 2=- old/3=-", "", "", ""),
        ("Unlabeled/1 Unlabeled/a/2", "unlabelled images in Unlabeled/", "Unlabeled/1=- Unlabeled/a/2=-", "", "", ""),
        # wrapped
        ("data/cat/1 data/dog/2", f"in data/: {CLASSES}", "data/cat/1=cat data/dog/2=dog", "", "", ""),
        ("a/b/cat/1 a/b/dog/2 a/read.txt", f"in a/b/: {CLASSES}", "a/b/cat/1=cat a/b/dog/2=dog", "", "", ""),
        ("images/cat/1 images/dog/2 meta/x.txt", f"in images/: {CLASSES}", "images/cat/1=cat images/dog/2=dog", "", "",
         "meta/"),
        ("d/Train/a/1 d/Train/b/2 d/TESTING/a/3", "in d/: Train/ and TESTING/ with a folder for each class",
         "d/Train/a/1=a d/Train/b/2=b", "", "d/TESTING/a/3=a", ""),
        # parts
        ("train/a/1 train/b/2", f"in train/: {CLASSES}", "train/a/1=a train/b/2=b", "", "", ""),
        ("training/a/1 validation/a/2", "training/ and validation/ with a folder for each class", "training/a/1=a",
         "validation/a/2=a", "", ""),
        ("Train/a/1 Valid/a/2 Test/a/3", "Train/, Valid/ and Test/ with a folder for each class", "Train/a/1=a",
         "Valid/a/2=a", "Test/a/3=a", ""),
        ("train/a/1 test/b/2 stray", "train/ and test/ with a folder for each class", "train/a/1=a", "", "test/b/2=b",
         "stray"),
        ("train/a/1 train/stray test/a/2 test/stray", "train/ and test/ with a folder for each class", "train/a/1=a",
         "", "test/a/2=a", "test/stray train/stray"),
        ("train/a/1 train/b/ test/b/2", "train/ and test/ with a folder for each class", "train/a/1=a", "",
         "test/b/2=b", "train/b/"),
        ("train/a/1 test/2 test/3", "train/ with a folder for each class", "train/a/1=a", "", "", "test/2 test/3"),
        ("train/a/1 test/", "train/ with a folder for each class", "train/a/1=a", "", "", "test/"),
        ("train/a/1 test/a/2 extra/a/3", "train/ and test/ with a folder for each class", "train/a/1=a", "",
         "test/a/2=a", "extra/a/3"),
        ("train/train/a/1 train/train/b/2 test/test/a/3", "train/train/ and test/test/ with a folder for each class",
         "train/train/a/1=a train/train/b/2=b", "", "test/test/a/3=a", ""),
        ("train/images/a/1 train/images/b/2 test/images/b/3",
         "train/images/ and test/images/ with a folder for each class", "train/images/a/1=a train/images/b/2=b", "",
         "test/images/b/3=b", ""),
        ("train/a/1 train/b/2 test/a/x/3 test/a/y/4", "train/ and test/ with a folder for each class",
         "train/a/1=a train/b/2=b", "", "test/a/x/3=a test/a/y/4=a", ""),
        ("a/train/1 a/test/2 b/Train/3 b/val/4", "a folder for each class, the parts in each",
         "a/train/1=a b/Train/3=b", "b/val/4=b", "a/test/2=a", ""),
        # unlabelled images
        ("labelled/a/1 labelled/b/2 unlabelled/3 unlabelled/x/4",
         "labelled/ with a folder for each class, unlabelled images in unlabelled/",
         "labelled/a/1=a labelled/b/2=b unlabelled/3=- unlabelled/x/4=-", "", "", ""),
        ("LABELED/a/1 LABELED/2 Unsup/3", "LABELED/ with a folder for each class, unlabelled images in Unsup/",
         "LABELED/a/1=a Unsup/3=-", "", "", "LABELED/2"),
        ("labelled/a/1 unlabelled/2 test/a/3",
         "labelled/ and test/ with a folder for each class, unlabelled images in unlabelled/",
         "labelled/a/1=a unlabelled/2=-", "", "test/a/3=a", ""),
        ("train/labelled/a/1 train/unlabelled/2 test/a/3",
         "train/labelled/ and test/ with a folder for each class, unlabelled images in train/unlabelled/",
         "train/labelled/a/1=a train/unlabelled/2=-", "", "test/a/3=a", ""),
        ("train/a/1 train/unknown/2 test/a/3 test/unknown/4",
         "train/ and test/ with a folder for each class, unlabelled images in train/unknown/",
         "train/a/1=a train/unknown/2=-", "", "test/a/3=a", "test/unknown/4"),
        ("train/a/1 unlabelled/2 test/a/3",
         "train/ and test/ with a folder for each class, unlabelled images in unlabelled/",
         "train/a/1=a unlabelled/2=-", "", "test/a/3=a", ""),
        ("a/1 b/2 unlabelled/3", f"{CLASSES}, unlabelled images in unlabelled/", "a/1=a b/2=b unlabelled/3=-", "", "",
         ""),
        ("a/1 b/2 unlabelled/3 Unknown/4", f"{CLASSES}, unlabelled images in Unknown/ and unlabelled/",
         "Unknown/4=- a/1=a b/2=b unlabelled/3=-", "", "", ""),
        ("a/1 unlabelled/2", f"{CLASSES}, unlabelled images in unlabelled/", "a/1=a unlabelled/2=-", "", "", ""),
        ("train/1 test/a/2 test/b/3", "test/ with a folder for each class, unlabelled images in train/", "train/1=-",
         "", "test/a/2=a test/b/3=b", ""),
        ("unlabelled/1 test/a/2", "test/ with a folder for each class, unlabelled images in unlabelled/",
         "unlabelled/1=-", "", "test/a/2=a", ""),
        # classes that are called like parts
        ("bus/1 car/2 train/3", CLASSES, "bus/1=bus car/2=car train/3=train", "", "", ""),
        ("bus/1 car/2 test/3", CLASSES, "bus/1=bus car/2=car test/3=test", "", "", ""),
        ("bus/1 test/bus/2 train/3", f"{CLASSES}, test/ with a folder for each class", "bus/1=bus train/3=train", "",
         "test/bus/2=bus", ""),
        ("bus/1 car/2 test/tram/3", f"{CLASSES}, test/ with a folder for each class", "bus/1=bus car/2=car", "",
         "test/tram/3=tram", ""),
        ("bus/old/1 car/2 test/car/3", f"{CLASSES}, test/ with a folder for each class", "bus/old/1=bus car/2=car", "",
         "test/car/3=car", ""),
        ("train/bus/1 train/train/2 test/train/3", "train/ and test/ with a folder for each class",
         "train/bus/1=bus train/train/2=train", "", "test/train/3=train", ""),
    ],
)  # fmt: skip
def test_a_layout_is_understood(names, text, train, val, test, left_out):
    names = names.split()
    others = [name for name in names if name.endswith((".txt", "/"))]
    layout = understand([name for name in names if name not in others], others)
    assert layout.text == text
    assert (of(layout.train), of(layout.val), of(layout.test)) == (train, val, test)
    assert " ".join(sorted(left.name for left in layout.left_out)) == left_out


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("test/a/1 test/b/2", "expected images for training beside test/.* found test/"),
        ("val/a/1 test/b/2", "expected images for training in .*found val/, test/"),
        ("train/a/1 Training/b/2", "expected one folder of the train part .* found Training/, train/"),
        ("train/a/1 test/a/1 testing/a/1", "expected one folder of the test part .* found test/, testing/"),
        ("train/a/1 labelled/a/2", "expected labelled images in one folder .* found train/, labelled/"),
        ("labelled/1 unlabelled/2", "expected a folder for each class in labelled/"),
        ("train/a/1 train/b/2 car/3", "expected only val/, test/ and unlabelled/ beside .* found car/"),
        ("labelled/a/1 car/3", "expected labelled images in one folder .* found labelled/, car/"),
        ("train/train/a/1 train/val/a/2 test/a/3", "expected no parts in train/.* found train/train/, train/val/"),
        ("train/a/1 train/b/2 train/val/a/3 test/a/4", "expected no parts in train/.* found train/val/"),
        (
            "labelled/train/a/1 labelled/val/a/2 unlabelled/3",
            "no parts in labelled/.* found labelled/train/, labelled/val/",
        ),
        ("training_set/a/1 training_set/b/2 test_set/a/3", "to be called train/.* found test_set/, training_set/"),
        ("seg-train/a/1 seg-pred/a/2", "to be called train/, val/ and test/ .* found seg-pred/, seg-train/"),
        ("a/cat/1 a/dog/2 preview", "expected all images in folders, or none but in a/ .* found a/"),
        ("bus/old/1 car/2 test/old/3", "expected classes of the training part in train/ .* found test/, bus/, car/"),
        ("labelled/1 labelled/2", "expected a folder for each class in labelled/"),
        ("a/test/1 b/test/2", "expected train/ in the folders of classes"),
    ],
)
def test_what_can_mean_two_things_is_told(names, message):
    with pytest.raises(DataError, match=message):
        understand(names.split())


@pytest.mark.parametrize(
    ("names", "note"),
    [
        ("Cat/1 cat/2 dog/3", "classes that differ in letter case only: Cat and cat"),
        (f"{unicodedata.normalize('NFC', 'é')}/1 {unicodedata.normalize('NFD', 'é')}/2", "differ in Unicode form only"),
        ("bus/1 train/2", "train/ is taken for a class, as those beside it"),
        ("1 old/2", "old/, which lies beside images, is not taken for a class"),
    ],
)
def test_what_looks_odd_is_noted(names, note):
    (found,) = understand(names.split()).notes
    assert note in found


def test_a_folder_beside_others_that_cannot_be_read_is_a_class(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.png").touch()
    (tmp_path / "notes.txt").symlink_to("nowhere")
    assert image_folder(tmp_path).account.layout == "in cat/: images without classes"
    (tmp_path / "dog").symlink_to("nowhere")
    found = image_folder(tmp_path)
    assert found.classes == ("cat",) and found.account.layout == CLASSES
    assert [left.name for left in found.account.left_out] == ["dog", "notes.txt"]
    (tmp_path / "dog").unlink()
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/2.png").symlink_to("nowhere")
    found = image_folder(tmp_path)
    assert found.classes == ("cat",) and found.account.layout == CLASSES
    assert [left.name for left in found.account.left_out] == ["dog/", "dog/2.png", "notes.txt"]
    (tmp_path / "dog/2.png").unlink()
    (tmp_path / "dog/2.nef").touch()
    found = image_folder(tmp_path)
    assert found.classes == ("cat",) and found.account.layout == CLASSES
    assert [left.name for left in found.account.left_out] == ["dog/", "dog/2.nef", "notes.txt"]


def test_where_no_image_can_be_read_it_is_told_what_was_found(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "1.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"expected images in .* found notes\.txt, 1\.png \(a dangling link\)$"):
        image_folder(tmp_path)


FOLDERS = st.sampled_from(
    ["cat", "dog", "train", "Training", "val", "test", "labelled", "labeled", "unlabelled", "Unknown", "data"]
)
PATHS = st.tuples(
    st.lists(FOLDERS, max_size=4), st.sampled_from(["1.png", "2.JPG", "3.txt", ".hidden.png", "blob", ""])
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PATHS, min_size=1, max_size=12))
def test_every_file_is_an_example_of_one_part_or_accounted_for(tmp_path_factory, paths):
    folder = tmp_path_factory.mktemp("any")
    for parents, name in paths:
        (where := folder.joinpath(*parents)).mkdir(parents=True, exist_ok=True)
        if name == "blob":
            (where / name).write_bytes(b"\x89PNG\r\n\x1a\n")  # a picture, as its first bytes say
        elif name:
            (where / name).write_bytes(b"text")
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    empty = {f"{path.relative_to(folder).as_posix()}/" for path in folder.rglob("*") if path.is_dir()}
    empty = {name for name in empty if all(path.name.startswith(".") for path in (folder / name).iterdir())}
    try:
        found = image_folder(folder)
    except DataError as error:
        assert "\n" not in str(error) and "expected" in str(error)
        return
    examples = [*found.names, *found.val_names, *found.test_names]
    left_out = {left.name: left.why for left in found.account.left_out}
    hidden = {name for name in written if name.endswith(".hidden.png")}
    assert len(examples) == len(set(examples)) and len(left_out) == len(found.account.left_out)
    assert {*examples, *hidden, *(name for name in left_out if not name.endswith("/"))} == written
    assert not set(examples) & set(left_out)
    assert all(any(name.startswith(left) for left in left_out) for name in empty)
    assert any("hidden" in note for note in found.account.notes) == bool(hidden)
    assert all(name.endswith(".txt") or left_out[name] != "no image" for name in written - {*examples, *hidden})
    assert found.account.layout
    assert (found.test_labels >= 0).all() and (found.val_labels >= 0).all()
    for name, label in zip([*found.names, *found.val_names, *found.test_names],
                           [*found.labels, *found.val_labels, *found.test_labels], strict=True):  # fmt: skip
        assert label == -1 or found.classes[label] in name.split("/")[:-1]
