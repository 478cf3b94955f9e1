"""Images of all parts are told from other files by what is in them, and decoded together."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest

from ssdml_fast.data import DataError, images, load
from ssdml_fast.data.damage import DamagedPictures
from ssdml_fast.data.images import image_folder

Image = pytest.importorskip("PIL.Image")

NAMES = ("train/cat/1", "train/cat/2", "train/dog/3", "train/unlabelled/4", "val/cat/5", "test/dog/6", "test/dog/7")


def save(path, shape=(8, 6), value=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(NAMES):
        save(tmp_path / f"{name}.png", value=i)
    return tmp_path


def damage(folder, *names):
    for name in names:
        (folder / f"{name}.png").write_bytes((folder / f"{name}.png").read_bytes()[:40])


def told(account):
    return {left.name: left.why for left in account.left_out}


def test_all_parts_are_decoded_with_their_names_and_labels(folder):
    found = image_folder(folder)
    shares = []
    source = found.decode(progress=shares.append)
    assert [part.shape for part in (source.images, source.val_images, source.test_images)] == [
        (4, 1, 8, 6), (1, 1, 8, 6), (2, 1, 8, 6),
    ]  # fmt: skip
    assert [part[:, 0, 0, 0].tolist() for part in (source.images, source.val_images, source.test_images)] == [
        [0, 1, 2, 3], [4], [5, 6],
    ]  # fmt: skip
    assert source.labels.tolist() == [0, 0, 1, -1] and source.test_labels.tolist() == [1, 1]
    assert source.names[3] == "train/unlabelled/4.png" and source.val_names == ["val/cat/5.png"]
    assert source.account == found.account and shares[-1] == 1
    assert found.decode(size=4, crop=0.5, grey=False).images.shape == (4, 3, 4, 4)


def test_a_part_that_there_is_none_of_is_none(tmp_path):
    save(tmp_path / "cat/1.png")
    save(tmp_path / "dog/2.png")
    source = image_folder(tmp_path).decode()
    assert source.val_images is source.val_labels is source.test_images is source.test_labels is None


@pytest.mark.parametrize("bound", [images.IN_MEMORY, 0], ids=["arrays", "datasets"])
def test_damaged_images_of_all_parts_are_told_together_or_left_out(folder, monkeypatch, bound):
    monkeypatch.setattr(images, "IN_MEMORY", bound)
    damage(folder, "train/cat/2", "test/dog/6", "val/cat/5")
    found = image_folder(folder)
    with pytest.raises(DamagedPictures) as error:
        found.decode()
    assert [name for name, _ in error.value.damaged] == ["train/cat/2.png", "test/dog/6.png", "val/cat/5.png"]
    source = found.decode(skip_damaged=True)
    assert source.labels.tolist() == [0, 1, -1] and source.names[1] == "train/dog/3.png"
    assert len(source.images) == 3 and len(source.test_images) == 1
    assert source.test_labels.tolist() == [1] and source.test_names == ["test/dog/7.png"]
    assert source.val_images is None and source.val_names is None
    found = told(source.account)
    assert sorted(found) == ["test/dog/6.png", "train/cat/2.png", "val/cat/5.png"]
    assert all(why.startswith("cannot be decoded: ") for why in found.values())


def test_nothing_to_train_from_is_told(folder):
    damage(folder, *NAMES[:4])
    with pytest.raises(DataError, match="at least one image for training must be sound, found 4 that are damaged"):
        image_folder(folder).decode(skip_damaged=True)


@pytest.mark.parametrize("container", ["folder", "tar"])
@pytest.mark.parametrize("size", [None, 4])
def test_what_is_too_large_for_memory_is_decoded_when_it_is_asked_for(folder, monkeypatch, container, size):
    path = folder
    if container == "tar":
        path = folder.with_suffix(".tar")
        with tarfile.open(path, "w") as tar:
            tar.add(folder, arcname=".")
    found = image_folder(path)
    arrays = found.decode(size)
    monkeypatch.setattr(images, "IN_MEMORY", 7 * (16 if size else 48) - 1)  # the seven in grey
    source = found.decode(size)
    for array, part in ((arrays.images, source.images), (arrays.val_images, source.val_images)):
        assert not isinstance(part, np.ndarray) and len(part) == len(array)
        np.testing.assert_array_equal(np.stack([part[i][0].numpy() for i in range(len(part))]), array)
    assert source.labels.tolist() == arrays.labels.tolist() and source.names == arrays.names
    monkeypatch.setattr(images, "IN_MEMORY", 7 * (16 if size else 48))  # which they would not fit in as colours
    assert isinstance(found.decode(size).images, np.ndarray)
    assert not isinstance(found.decode(size, grey=False).images, np.ndarray)


def test_looking_tells_the_common_size_and_whether_all_are_grey(folder):
    assert image_folder(folder).look() == ((8, 6), True)
    damage(folder, "val/cat/5")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned
    save(folder / "train/dog/3.png", (6, 8), exif=exif)
    assert image_folder(folder).look() == ((8, 6), True)
    save(folder / "test/dog/6.png", (8, 6, 3), 200)
    assert image_folder(folder).look() == ((8, 6), False)
    save(folder / "test/dog/7.png", (8, 7))
    assert image_folder(folder).look()[0] is None


def test_images_are_told_by_what_is_in_them_where_their_name_does_not(tmp_path):
    save(tmp_path / "cat/1.jfif", format="jpeg")
    save(tmp_path / "dog/photo", format="png")
    save(tmp_path / "dog/2.dat", format="gif")
    save(tmp_path / "dog/raw.NEF", format="tiff")
    (tmp_path / "dog/empty.png").touch()
    for name in ("cat/notes.txt", "dog/vector.svg", "dog/nothing"):
        (tmp_path / name).write_text("text" * (name != "dog/nothing"))
    with tarfile.open(tmp_path.with_suffix(".tar"), "w") as tar:
        tar.add(tmp_path, arcname=".")
    for path in (tmp_path, tmp_path.with_suffix(".tar")):
        found = image_folder(path)
        assert found.names == ["cat/1.jfif", "dog/2.dat", "dog/empty.png", "dog/photo"]
        assert told(found.account) == {
            "cat/notes.txt": "no image", "dog/nothing": "no image",
            "dog/raw.NEF": "an image of a format that is not read",
            "dog/vector.svg": "an image of a format that is not read",
        }  # fmt: skip
        assert len(found.decode(4, skip_damaged=True).images) == 3


def test_strictly_all_that_is_found_is_of_use(folder):
    damage(folder, "train/cat/2")
    with pytest.raises(DataError, match=r"found 1 that is not:\n  train/cat/2\.png: cannot be decoded: "):
        load(f"images:{folder}", strict=True, skip_damaged=True)
    (folder / "notes.txt").touch()
    with pytest.raises(DataError, match=r"found 1 that is not:\n  notes\.txt: no image$"):  # before any is decoded
        load(f"images:{folder}", strict=True)
