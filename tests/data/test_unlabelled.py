"""Unlabelled examples of one's own join the training part of any data set, each of them once."""

from __future__ import annotations

import os
import tarfile

import numpy as np
import pytest

from ssdml_fast.data import Account, DataError, Source, image_folder
from ssdml_fast.data.damage import DamagedPictures
from ssdml_fast.data.relabel import with_labels
from ssdml_fast.data.unlabelled import with_unlabelled

Image = pytest.importorskip("PIL.Image")


def save(path, shape=(8, 8), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path, "png")


def left_out(found):
    return {left.name: left.why for left in found.account.left_out}


@pytest.fixture
def more(tmp_path):
    for i, name in enumerate(("1.png", "cat/2.png", "test/cat/3")):
        save(tmp_path / "more" / name, (12, 10, 3), i + 50)
    (tmp_path / "more/notes.txt").write_text("text")
    (tmp_path / "more/.hidden").touch()
    return tmp_path / "more"


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_images_of_any_folders_join_the_training_part(tmp_path, more, container):
    for i, name in enumerate(("train/cat/1", "train/dog/2", "test/cat/3")):
        save(tmp_path / "d" / f"{name}.png", (12, 10), i)
    if container == "tar":
        with tarfile.open(tmp_path / "more.tar", "w") as tar:
            tar.add(more, arcname=".")
        more = tmp_path / "more.tar"
    found = image_folder(tmp_path / "d")
    both = with_unlabelled(found, more)
    names = ["unlabelled/1.png", "unlabelled/cat/2.png", "unlabelled/test/cat/3"]
    assert both.names == [*found.names, *names] and both.labels.tolist() == [0, 1, -1, -1, -1]
    assert both.test_names == found.test_names and both.classes == found.classes
    assert left_out(both) == {"unlabelled/notes.txt": "no image"}
    assert both.account.layout == found.account.layout and both.account.notes == (
        f"3 unlabelled images of {more} as unlabelled/",
        "1 hidden file was not looked at",
        f"folders in {more} are neither classes nor parts",
    )
    assert both.decode().images[:, 0, 0, 0].tolist() == [0, 1, 50, 51, 52]
    (tmp_path / "my.csv").write_text("path,label\nunlabelled/1.png,cow\n")
    assert with_labels(both, tmp_path / "my.csv").labels.tolist() == [0, 1, 2, -1, -1]


def test_names_of_two_sets_do_not_collide(tmp_path, more):
    for name in ("cat/1.png", "dog/2.png", "unlabelled/1.png"):
        save(tmp_path / "d" / name)
    save(tmp_path / "again/1.png")
    both = with_unlabelled(with_unlabelled(image_folder(tmp_path / "d"), more), tmp_path / "again")
    assert len(set(both.names)) == len(both.names) == 7
    begins = ["cat", "dog", "unlabelled", "unlabelled-2", "unlabelled-3"]
    assert sorted({name.split("/")[0] for name in both.names}) == begins
    with pytest.raises(DataError, match="found none that is not among the others"):
        with_unlabelled(both, tmp_path / "d/cat")


def test_images_that_are_there_already_are_left_out(tmp_path):
    for name in ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "train/dog/4.png"):
        save(tmp_path / "d" / name)
    (tmp_path / "link").symlink_to("d")
    save(tmp_path / "d/new.png")
    os.rename(tmp_path / "d/new.png", tmp_path / "d/train/unknown.png")
    found = image_folder(tmp_path / "d")
    (tmp_path / "all").mkdir()
    (tmp_path / "all/a").symlink_to(tmp_path / "d")
    save(tmp_path / "all/b.png")
    both = with_unlabelled(found, tmp_path / "all")
    assert both.names[len(found.names) :] == ["unlabelled/a/train/unknown.png", "unlabelled/b.png"]
    assert list(left_out(both).values()).count("among the other images already") == 4


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_images_are_decoded_to_the_form_of_arrays(more, channels, names):
    source = Source(("a", "b"), np.zeros((2, channels, 6, 6), np.uint8), np.array([0, 1]), names=names)
    both = with_unlabelled(source, more)
    assert both.images.shape == (5, channels, 6, 6) and both.images.dtype == np.uint8
    assert both.images[:, 0, 0, 0].tolist() == [0, 0, 50, 51, 52] and both.labels.tolist() == [0, 1, -1, -1, -1]
    assert both.names == (names and [*names, "unlabelled/1.png", "unlabelled/cat/2.png", "unlabelled/test/cat/3"])
    (more / "cat/2.png").write_bytes((more / "cat/2.png").read_bytes()[:40])
    with pytest.raises(DamagedPictures, match=r"unlabelled/cat/2\.png cannot be decoded"):
        with_unlabelled(source, more)
    both = with_unlabelled(source, more, skip_damaged=True)
    assert both.images[:, 0, 0, 0].tolist() == [0, 0, 50, 52] and both.labels.tolist() == [0, 1, -1, -1]
    assert left_out(both)["unlabelled/cat/2.png"].startswith("cannot be decoded: ")
    assert both.names == (names and [*names, "unlabelled/1.png", "unlabelled/test/cat/3"])


def test_images_that_do_not_fit_arrays_are_told(more):
    for shape, dtype, message in [
        ((2, 1, 6, 5), np.uint8, "all images must be of 5x6"),
        ((2, 4, 6, 6), np.uint8, "of 1 or 3 channels, found 4"),
        ((2, 3, 6, 6), np.float32, "found 3 channels of float32"),
    ]:
        with pytest.raises(DataError, match=message):
            with_unlabelled(Source(("a", "b"), np.zeros(shape, dtype), np.array([0, 1])), more)
    source = Source(("a", "b"), [1, 2], np.array([0, 1]))
    with pytest.raises(DataError, match="before images are decoded"):
        with_unlabelled(source, more)


def test_features_join_features(tmp_path):
    source = Source(("a",), np.zeros((2, 3), np.float32), np.array([0, 0]), account=Account("mine"))
    x = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "f.npz", x_train=x, y_train=[0, -1, 1, 1], x_test=x[:1], y_test=[0])
    for path in ("x.npy", "f.npz"):
        both = with_unlabelled(source, tmp_path / path)
        np.testing.assert_array_equal(both.images, np.concatenate([np.zeros((2, 3)), x]))
        assert both.labels.tolist() == [0, 0, -1, -1, -1, -1] and both.images.dtype == np.float32
        assert both.account.layout == "mine" and both.account.notes[0] == f"4 unlabelled examples of {tmp_path / path}"
    assert both.account.notes[1] == f"3 labels of {tmp_path / 'f.npz'} are not used"
    assert list(left_out(both).values()) == ["not of its training part"]
    with pytest.raises(DataError, match=r"of shape \(2,\) and float32 as the others, found \(3,\)"):
        with_unlabelled(Source(("a",), np.zeros((2, 2), np.float32), np.array([0, 0])), tmp_path / "x.npy")


def test_arrays_of_images_join_arrays_of_images(tmp_path):
    source = Source(("a",), np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 0]))
    np.save(tmp_path / "x.npy", np.ones((3, 4, 4), np.uint8))
    for path in (tmp_path, tmp_path / "x.npy"):
        assert with_unlabelled(source, path).images.sum(axis=(1, 2, 3)).tolist() == [0, 0, 16, 16, 16]
    np.save(tmp_path / "x.npy", np.ones((3, 16), np.float32))
    with pytest.raises(DataError, match=r"of shape \(1, 4, 4\) and uint8 as the others, found \(16,\) and float32"):
        with_unlabelled(source, tmp_path)


def test_a_folder_without_images_is_told(tmp_path):
    (tmp_path / "notes.txt").touch()
    for found in (
        Source(("a",), np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 0])),
        Source(("a",), np.zeros((2, 4), np.float32), np.array([0, 0])),
    ):
        with pytest.raises(DataError, match=r"expected .* in .*, found"):
            with_unlabelled(found, tmp_path)
