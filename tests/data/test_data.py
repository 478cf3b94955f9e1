"""Loaders read what is in the files, whatever their container, and say what is wrong where they cannot."""

from __future__ import annotations

import gzip
import pickle
import struct
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from ssdml_fast.data import DataError, Source, load
from ssdml_fast.data.cifar10 import load_cifar10
from ssdml_fast.data.features import load_features
from ssdml_fast.data.files import open_files
from ssdml_fast.data.idx import load_mnist
from ssdml_fast.data.images import image_folder
from ssdml_fast.data.pickled import load_pickled
from ssdml_fast.data.pictures import decode_images
from ssdml_fast.data.zero_shot import cars196, cub200, stanford_online_products

RNG = np.random.default_rng(0)


def tar_of(folder, path):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname=".")
    return path


def write_image(path, pixels):
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(pixels).save(path)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def pixels(*shape):
    return RNG.integers(256, size=shape, dtype=np.uint8)


# ---- splits


def test_map_prepares_every_part():
    data = Source(("a", "b"), np.ones((30, 2), np.float32), np.arange(30) % 2).split(labels_per_class=1)
    doubled = data.map(lambda part: 2 * part)
    assert {float(part.mean()) for part in (doubled.images, doubled.val_images, doubled.test_images)} == {2.0}
    assert doubled.labels is data.labels


# ---- MNIST


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    parts = {"train": (pixels(40, 6, 5), np.arange(40, dtype=np.uint8) % 4), "t10k": (pixels(8, 6, 5), pixels(8) % 4)}
    for name, (images, labels) in parts.items():
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{name}-labels.idx1-ubyte").write_bytes(idx(labels))
    return tmp_path, parts


def test_mnist_is_read_as_written(mnist):
    path, parts = mnist
    source = load_mnist(path)
    np.testing.assert_array_equal(source.images[:, 0], parts["train"][0])
    np.testing.assert_array_equal(source.labels, parts["train"][1])
    np.testing.assert_array_equal(source.test_images[:, 0], parts["t10k"][0])
    np.testing.assert_array_equal(source.test_labels, parts["t10k"][1])
    assert source.classes == ("0", "1", "2", "3") and source.images.dtype == np.uint8
    assert source.account.layout.startswith("the four IDX files of MNIST")
    data = load(f"fashion-mnist:{path}", seed=3, labels_per_class=2)
    assert len(data.images) + len(data.val_images) == 40 and (data.labels >= 0).sum() == 8


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte.gz", None, "expected train-images-idx3-ubyte or .* found t10k-images"),
        ("train-images-idx3-ubyte.gz", b"no gzip", "train-images-idx3-ubyte.gz cannot be read"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(pixels(40, 6, 5)))[:-20], "cannot be read"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(pixels(40, 6, 5))[:-1]), "must hold 1200 bytes .* found 1199"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(pixels(40, 6))), "in 3 dimensions, found one .* 00000802"),
        ("t10k-labels.idx1-ubyte", b"", "t10k-labels.idx1-ubyte must be an IDX file"),
        ("t10k-labels.idx1-ubyte", idx(pixels(7)), "one label per image, found 7 for 8 t10k images"),
    ],
)
def test_a_damaged_mnist_is_told(mnist, name, content, message):
    path, _ = mnist
    (path / name).unlink() if content is None else (path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_mnist(path)


# ---- CIFAR-10


def write_cifar(folder):
    folder.mkdir(parents=True)
    batches = {}
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        batches[name] = pixels(6, 3072), [int(c) for c in RNG.integers(10, size=6)]
        content = {b"data": batches[name][0], b"labels": batches[name][1]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"c%d" % i for i in range(10)]}, protocol=2))
    return batches


@pytest.mark.parametrize("container", ["folder", "parent", "tar"])
def test_cifar_pickles_are_read_as_written(tmp_path, container):
    folder = tmp_path / "cifar-10-batches-py"
    batches = write_cifar(folder)
    path = {"folder": folder, "parent": tmp_path, "tar": tmp_path / "c.tar.gz"}[container]
    source = load_cifar10(tar_of(folder, path) if container == "tar" else path)
    expected = np.concatenate([batches[f"data_batch_{i}"][0] for i in range(1, 6)])
    np.testing.assert_array_equal(source.images.reshape(30, -1), expected)
    np.testing.assert_array_equal(source.test_images[2, 1, 0], batches["test_batch"][0][2, 1024 : 1024 + 32])
    assert source.test_labels.tolist() == batches["test_batch"][1] and source.classes[3] == "c3"
    assert source.account.layout.startswith("the six pickles of CIFAR-10")


def published_cifar(images, labels):
    """A batch byte for byte as Python 2 wrote those that are published: protocol 2, its texts as bytes, old NumPy."""

    def text(value):
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<I", len(value)) + value

    rows, columns = images.shape
    return b"".join([
        b"\x80\x02}q\x01(", text(b"batch_label"), b"q\x02", text(b"testing batch 1 of 1"), b"q\x03",
        text(b"labels"), b"q\x04]q\x05(", *(b"K" + bytes([c]) for c in labels), b"e",
        text(b"data"), b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85",
        text(b"b"), b"\x87Rq\x09(K\x01M", struct.pack("<H", rows), b"M", struct.pack("<H", columns),
        b"\x86cnumpy\ndtype\nq\x0a", text(b"u1"), b"K\x00K\x01\x87Rq\x0b(K\x03", text(b"|"),
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89", text(images.tobytes()), b"tb",
        text(b"filenames"), b"q\x0c]q\x0d(", *(text(b"domestic_cat_s_000907.png") for _ in labels), b"eu.",
    ])  # fmt: skip


def test_a_batch_as_published_is_read(tmp_path):
    write_cifar(tmp_path / "c")
    images, labels = pixels(4, 3072), [3, 8, 8, 0]
    published = published_cifar(images, labels)
    assert pickle.loads(published, encoding="bytes")[b"labels"] == labels
    (tmp_path / "c/test_batch").write_bytes(published)
    source = load_cifar10(tmp_path)
    np.testing.assert_array_equal(source.test_images.reshape(4, 3072), images)
    assert source.test_labels.tolist() == labels and source.test_images.flags.writeable


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_data_are_unpickled_as_pickle_does(protocol):
    array = pixels(3, 2, 5)
    content = {
        b"data": array, b"more": [array.T, np.asfortranarray(array), array[:0], pixels(70_000)], b"none": None,
        b"texts": ["", "é", b"", b"\x00\xff" * 200], b"tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, True)],
        b"integers": [0, 255, 256, 65_536, -1, -(2**31), 2**31 - 1], b"one": [0],
        b"nothing": {}, b"many": list(range(2000)),
    }  # fmt: skip
    data = pickle.dumps(content, protocol)
    expected, found = pickle.loads(data), load_pickled(data, "it")
    np.testing.assert_equal(found, expected)
    assert all(a.dtype == np.uint8 for a in found[b"more"])


def doubled(times):
    """A pickle's tuple of two tuples, each of the same two, and so on."""
    return b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(times))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"}" + doubled(100) + b"K\x01s", "only dictionaries may have items, by texts or integers"),
        (b"})" + b"\x85" * 300_000 + b"K\x01s", "only dictionaries may have items"),
        (b"}(" + doubled(100) + b"K\x01u", "only dictionaries may have items"),
        (b"]K\x00" + doubled(100) + b"s", "only dictionaries may have items"),
        (b"}(K\x00K\x01K\x02u", "zip"),
        (doubled(100) + b"\x8c\x01a\x93", "must be named by texts, found tuple, str"),
        (
            b"c_codecs\nencode\n" + b"X" + (9999).to_bytes(4, "little") + b"a" * 9999 + b"R",
            "must be a tuple, found str",
        ),
        (b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R}b", "must be a tuple, found dict"),
        (b"B" + (2**31 - 1).to_bytes(4, "little") + b"few", "expected 2147483647 bytes"),
    ],
)
def test_small_pickles_take_neither_forever_nor_all_memory(content, message):
    with pytest.raises(DataError, match=message) as refusal:
        load_pickled(b"\x80\x04" + content + b".", "it")
    assert len(str(refusal.value)) < 300


def test_a_pickle_makes_no_more_of_its_bytes_than_it_holds():
    text = b"X" + (9999).to_bytes(4, "little") + b"a" * 9999
    again = b"h\x00h\x01h\x02\x86R"  # encode(text, "latin1")
    data = b"\x80\x02](c_codecs\nencode\nq\x00" + text + b"q\x01X\x06\x00\x00\x00latin1q\x02%be."
    assert load_pickled(data % again, "it")[-1] == b"a" * 9999
    with pytest.raises(DataError, match="more is made of its bytes than it holds"):
        load_pickled(data % (again * 10_000), "it")


class Malicious:
    def __reduce__(self):
        return print, ("executed",)


class Addresses:
    """An array whose bytes a dtype with a state of its own would have taken for the addresses of objects."""

    def __reduce__(self):
        return np.array([]).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (9,), Dtype(), False, b"AAAAAAAA" * 9)


class Dtype:
    def __reduce__(self):
        return np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)


class ByteDtype(Dtype):
    def __reduce__(self):
        return np.dtype, ("u1", False, True), (3, "|", None, ("a",), {"a": (np.dtype("u1"), 0)}, 8, 1, 0)


class Sized:
    """An array of another size than its bytes."""

    def __init__(self, shape):
        self.shape = shape

    def __reduce__(self):
        first, arguments, state = np.zeros(12, np.uint8).__reduce__()
        return first, arguments, (1, self.shape, *state[2:])


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Malicious(), "must not need (builtins|__builtin__).print; it may be malicious"),
        (Addresses(), "arrays must be of type uint8, found a call with str, bool, bool"),
        (ByteDtype(), "arrays must be of type uint8, found a state of int, str, "),
        (np.zeros(3), "arrays must be of type uint8"),
        (np.dtype(object), "arrays must be of type uint8"),
        (Sized((13,)), "cannot reshape"),
        (Sized((-1,)), "arrays must be of type uint8"),
        (Sized((True,)), "arrays must be of type uint8"),
        (Sized(5), "it"),
        (0.5, "it needs BINFLOAT, which plain data do not"),
        (2**80, "it needs LONG1, which plain data do not"),
        ({1, 2}, "which plain data do not|must not need"),
        (object(), "must not need (builtins|__builtin__).object"),
    ],
)
def test_other_pickles_are_refused(content, message, protocol):
    with pytest.raises(DataError, match=rf"^it cannot be read as a pickle of plain data and uint8 arrays: .*{message}"):
        load_pickled(pickle.dumps(content, protocol), "it")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Malicious()), "must not need builtins.print; it may be malicious"),
        (b"no pickle", "test_batch cannot be read as a pickle"),
        (pickle.dumps([1, 2]), "test_batch must be a CIFAR-10 batch"),
        (pickle.dumps({b"data": pixels(2, 3072), b"labels": [1]}), r"2 images, labels of shape \(1,\)"),
        (pickle.dumps({b"data": pixels(2, 3072), b"labels": [1, 10]}), "labels from 1 to 10 for 10 classes"),
        (pickle.dumps({b"data": pixels(2, 3072), b"labels": [-1, 1]}), "labels from -1 to 1 for 10 classes"),
        (None, "expected test_batch in"),
    ],
)
def test_a_damaged_or_malicious_pickle_is_refused(tmp_path, capsys, content, message):
    write_cifar(tmp_path / "c")
    path = tmp_path / "c" / "test_batch"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_cifar10(tmp_path)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [{}, [1], {b"label_names": 3}, {b"label_names": [1]}, {b"label_names": [b"\xff"]}])
def test_damaged_names_of_cifars_classes_are_told(tmp_path, content):
    write_cifar(tmp_path / "c")
    (tmp_path / "c" / "batches.meta").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"batches\.meta must hold 'label_names'"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_cifar_images_are_decoded_by_class(tmp_path, container):
    folder = tmp_path / "images"
    train, test = pixels(2, 2, 32, 32, 3), pixels(2, 1, 32, 32, 3)
    for c, name in enumerate(("cat", "dog")):
        for part, images in (("train", train), ("test", test)):
            for i, image in enumerate(images[c]):
                write_image(folder / part / name / f"{i:04}.png", image)
    source = load_cifar10(tar_of(folder, tmp_path / "c.tar.gz") if container == "tar" else folder)
    np.testing.assert_array_equal(source.images, train.reshape(4, 32, 32, 3).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(source.test_images, test.reshape(2, 32, 32, 3).transpose(0, 3, 1, 2))
    assert source.labels.tolist() == [0, 0, 1, 1] and source.test_labels.tolist() == [0, 1]
    assert source.classes == ("cat", "dog")


# ---- image folders


def test_an_image_folder_without_a_test_part_takes_its_classes_from_the_folders(tmp_path):
    for name in ("b/1.png", "a/deep/2.png", "a/3.png", ".hidden/4.png"):
        write_image(tmp_path / name, pixels(4, 6))
    (tmp_path / "a/notes.txt").write_text("no image")
    found = image_folder(tmp_path)
    assert found.names == ["a/3.png", "a/deep/2.png", "b/1.png"] and found.labels.tolist() == [0, 0, 1]
    source = found.decode()
    assert source.images.shape == (3, 1, 4, 6) and source.test_images is None
    assert found.decode(size=2).images.shape == (3, 1, 2, 2)


def test_resizing_takes_the_largest_central_square(tmp_path):
    image = np.zeros((4, 10, 3), np.uint8)
    image[:, 3:7] = 200
    write_image(tmp_path / "a.png", image)
    assert (decode_images([tmp_path / "a.png"], ["a"], 2) == 200).all()
    square = pixels(5, 5, 3)
    write_image(tmp_path / "b.png", square)
    np.testing.assert_array_equal(decode_images([tmp_path / "b.png"], ["b"], 5)[0], square.transpose(2, 0, 1))


def test_images_that_do_not_fit_are_told(tmp_path):
    write_image(tmp_path / "x/a/1.png", pixels(4, 6))
    write_image(tmp_path / "x/a/2.png", pixels(6, 4))
    with pytest.raises(DataError, match=r"all images must be of 6x4 .* found 4x6 in a/2.png"):
        image_folder(tmp_path / "x").decode()
    (tmp_path / "x/a/2.png").write_bytes((tmp_path / "x/a/1.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"image a/2.png cannot be decoded"):
        image_folder(tmp_path / "x").decode()
    for path, message in [("none", "found nothing"), ("file", "cannot be read as one")]:
        (tmp_path / "file").write_bytes(b"no tar")
        with pytest.raises(DataError, match=message):
            image_folder(tmp_path / path)


def test_a_cut_off_tar_is_told(tmp_path):
    write_cifar(tmp_path / "c")
    path = tar_of(tmp_path / "c", tmp_path / "c.tar.gz")
    assert list(open_files(path).files) == list(open_files(tmp_path / "c").files)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="found what cannot be read as one"):
        open_files(path)


# ---- zero-shot data sets


def test_cub200_splits_by_species(tmp_path):
    root = tmp_path / "CUB_200_2011"
    names = [f"{c:03}.Bird/{i}.jpg" for c in (1, 2, 3, 4) for i in range(2)]
    root.mkdir()
    (root / "images.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    (root / "image_class_labels.txt").write_text("".join(f"{i} {int(n[:3])}\n" for i, n in enumerate(names, 1)))
    (root / "classes.txt").write_text("".join(f"{c} {c:03}.Bird\n" for c in (1, 2, 3, 4)))
    for name in names:
        write_image(root / "images" / name, pixels(20, 30, 3))
    found = cub200(tmp_path)
    assert found.labels.tolist() == [0, 0, 1, 1] and found.test_labels.tolist() == [2, 2, 3, 3]
    assert found.classes[2] == "003.Bird" and found.decode(8).test_images.shape == (4, 3, 8, 8)
    assert cub200(root).names == found.names
    (root / "images" / names[0]).unlink()
    with pytest.raises(DataError, match=r"001.Bird/0.jpg cannot be decoded: there is no such file"):
        found.decode(8)
    with pytest.raises(DataError, match=r"8 images that it lists, found 1 missing:\n  images/001\.Bird/0\.jpg$"):
        cub200(root)
    (root / "image_class_labels.txt").write_text("1 9\n")
    with pytest.raises(DataError, match=r"image_class_labels.txt"):
        cub200(root)
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes.txt, found image_class_labels.txt"):
        cub200(root)


def annotations(field, names, classes):
    entries = np.empty((1, len(names)), dtype=[(field, object), ("class", object)])
    for i, entry in enumerate(zip(names, classes, strict=True)):
        entries[0, i] = entry
    return entries


def test_cars196_reads_both_published_layouts(tmp_path):
    models = np.array([["A 2000", "B 2001"]], dtype=object)
    one, kit = tmp_path / "one", tmp_path / "kit"
    one.mkdir()
    (kit / "devkit").mkdir(parents=True)
    files = ["car_ims/1.jpg", "car_ims/2.jpg", "car_ims/3.jpg"]
    savemat(
        one / "cars_annos.mat",
        {"annotations": annotations("relative_im_path", files, [1, 2, 1]), "class_names": models},
    )
    with pytest.raises(
        DataError, match=r"3 images that it lists, found 3 missing:\n  car_ims/1\.jpg\n  car_ims/2\.jpg\n"
    ):
        cars196(one)
    touch(one, *files)
    found = cars196(one)
    assert found.names == [files[0], files[2]] and found.labels.tolist() == [0, 0]
    assert found.test_names == [files[1]] and found.classes == ("A 2000", "B 2001")

    savemat(kit / "devkit/cars_meta.mat", {"class_names": models})
    savemat(kit / "devkit/cars_train_annos.mat", {"annotations": annotations("fname", ["1.jpg"], [1])})
    with pytest.raises(DataError, match=r"cars_test_annos_withlabels.mat, found"):
        cars196(kit)
    savemat(kit / "cars_test_annos_withlabels.mat", {"annotations": annotations("fname", ["1.jpg"], [2])})
    touch(kit, "cars_train/1.jpg", "cars_test/1.jpg")
    found = cars196(kit)
    assert (found.names, found.test_names) == (["cars_train/1.jpg"], ["cars_test/1.jpg"])
    (kit / "devkit/cars_meta.mat").write_bytes(b"no mat")
    with pytest.raises(DataError, match=r"cars_meta.mat must be a MATLAB file"):
        cars196(kit)


def test_stanford_online_products_keeps_the_published_split(tmp_path):
    head = "image_id class_id super_class_id path\n"
    (tmp_path / "Ebay_train.txt").write_text(head + "1 1 1 b/1_0.JPG\n2 1 1 b/1_1.JPG\n3 2 1 b/2_0.JPG\n")
    with pytest.raises(DataError, match=r"Ebay_test.txt, found Ebay_train.txt"):
        stanford_online_products(tmp_path)
    (tmp_path / "Ebay_test.txt").write_text(head + "4 3 2 c/3_0.JPG\n")
    touch(tmp_path, "b/1_0.JPG", "b/1_1.JPG", "b/2_0.JPG")
    with pytest.raises(DataError, match=r"4 images that it lists, found 1 missing:\n  c/3_0\.JPG$"):
        stanford_online_products(tmp_path)
    touch(tmp_path, "c/3_0.JPG")
    found = stanford_online_products(tmp_path)
    assert found.account.layout == "the published lists: 2 classes for training, others for testing"
    assert found.labels.tolist() == [0, 0, 1] and found.test_labels.tolist() == [2]
    assert found.test_files == [tmp_path / "c/3_0.JPG"]
    (tmp_path / "Ebay_test.txt").write_text(head + "4 3\n")
    with pytest.raises(DataError, match=r"Ebay_test.txt must list"):
        stanford_online_products(tmp_path)


# ---- damage


def damaged(content, n, rng):
    """`n` copies of a file: cut off, with some bytes changed, or with some put in."""
    for i in range(n):
        copy, at = bytearray(content), int(rng.integers(len(content)))
        if i % 3 == 0:
            del copy[at:]
        elif i % 3 == 1:
            copy[at] ^= int(rng.integers(1, 256))
        else:
            copy[at:at] = rng.bytes(3)
        yield bytes(copy)


def prepare_features(folder, save):
    save(folder / "f.npz", x=np.ones((4, 3)), y=np.array([0, 1, 0, 1]))
    return folder / "f.npz", lambda: load_features(folder / "f.npz")


def prepare_arrays(folder):
    np.save(folder / "x.npy", np.ones((4, 3)))
    np.save(folder / "y.npy", np.array([0, 1, 0, 1]))
    return folder / "x.npy", lambda: load_features(folder)


def prepare_pickles(folder, name):
    write_cifar(folder / "c")
    return folder / "c" / name, lambda: load_cifar10(folder)


def prepare_tar(folder):
    write_cifar(folder / "c")
    path = tar_of(folder / "c", folder / "c.tar.gz")
    return path, lambda: load_cifar10(path)


def prepare_annotations(folder):
    files, models = ["1.jpg", "2.jpg"], np.array([["A 2000", "B 2001"]], dtype=object)
    content = {"annotations": annotations("relative_im_path", files, [1, 2]), "class_names": models}
    savemat(folder / "cars_annos.mat", content)
    touch(folder, *files)
    return folder / "cars_annos.mat", lambda: cars196(folder)


def prepare_image(folder, suffix):
    path = folder / f"class/1.{suffix}"
    write_image(path, pixels(12, 12, 3))
    return path, lambda: image_folder(folder).decode()


@pytest.mark.filterwarnings("ignore")  # what readers warn of before they fail
@pytest.mark.parametrize(
    "prepare",
    [
        lambda folder: prepare_features(folder, np.savez),
        lambda folder: prepare_features(folder, np.savez_compressed),
        prepare_arrays,
        lambda folder: prepare_pickles(folder, "test_batch"),
        lambda folder: prepare_pickles(folder, "batches.meta"),
        prepare_tar,
        prepare_annotations,
        lambda folder: prepare_image(folder, "png"),
        lambda folder: prepare_image(folder, "jpg"),
    ],
    ids=["npz", "compressed npz", "npy", "pickle", "meta", "tar", "mat", "png", "jpg"],
)
def test_whatever_is_damaged_is_told_as_such(tmp_path, prepare):
    path, read = prepare(tmp_path)
    read()
    refused = 0
    for content in damaged(path.read_bytes(), 60, np.random.default_rng(0)):
        path.write_bytes(content)
        try:
            read()  # a changed pixel is nothing to be seen
        except DataError:
            refused += 1
    assert refused > 20


def test_names_and_paths_that_lead_nowhere_are_told(tmp_path):
    (tmp_path / "f.npz").write_bytes(b"no zip")
    for name, message in [
        ("mnist", "data must be digits or KIND:PATH"),
        ("nothing:x", "found 'nothing:x'"),
        (f"features:{tmp_path}/none.npz", "found f.npz"),
        (f"features:{tmp_path}/f.npz", "cannot be read"),
        (f"mnist:{tmp_path}/none", "found no such folder"),
        (f"images:{tmp_path}", "expected images in"),
    ]:
        with pytest.raises(DataError, match=message):
            load(name)
