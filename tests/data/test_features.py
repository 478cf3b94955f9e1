"""Features are read from arrays and tables alike, with what is said of unlabelled examples and of parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdml_fast.data import feature_parts
from ssdml_fast.data.dataset import DataError, LeftOut
from ssdml_fast.data.features import load_features
from ssdml_fast.data.labels import number_labels

RNG = np.random.default_rng(0)
NAN = float("nan")


def save(path, container="npz", **arrays):
    if container == "npz":
        np.savez(path / "f.npz", **arrays)
        return path / "f.npz"
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


# ---- labels


@given(st.lists(st.sampled_from([0, 3, 11, 200, -1]), min_size=1), st.sampled_from(["i1", "i8", "f4", "U9", "S9"]))
def test_one_rule_of_labels_for_every_type(labels, dtype):
    """Small integers wrap where 200 is one of 8 bits, so that there it is left out."""
    labels = [label for label in labels if dtype != "i1" or label < 128] or [0]
    classes, numbers = number_labels(np.array(labels).astype(dtype), "y")
    assert classes == tuple(str(label) for label in sorted({*labels} - {-1}))
    assert [int(classes[c]) if c >= 0 else -1 for c in numbers] == labels


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (["b", "a", "", " b "], ("a", "b"), [1, 0, -1, 1]),
        (["b", "-1", "a"], ("a", "b"), [1, -1, 0]),
        (["10", "9", "-1.0", "007"], ("007", "9", "10"), [2, 1, -1, 0]),
        (np.array([2.0, NAN, -1.0, 0.0]), ("0", "2"), [1, -1, -1, 0]),
        (np.array([2.0, NAN, -1.0, 0.0], np.float16), ("0", "2"), [1, -1, -1, 0]),
        (np.array([True, False]), ("0", "1"), [1, 0]),
        (np.array([255, 254, 0], np.uint8), ("0", "254", "255"), [2, 1, 0]),
        (np.array([2**63, 5], np.uint64), ("5", str(2**63)), [1, 0]),
        (np.array(["é".encode(), b""]), ("é",), [0, -1]),
        (["", "-1"], (), [-1, -1]),
        ([], (), []),
        (["None", "none"], ("None", "none"), [0, 1]),
    ],
)
def test_classes_have_names_and_the_unlabelled_have_none(labels, classes, numbers):
    found = number_labels(labels, "y")
    assert found[0] == classes and found[1].tolist() == numbers and found[1].dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, -2, 1, -3]), r"y must be .* found '-2' in row 1 \(and 1 more like it\)"),
        (np.array([0.5, 1]), "found '0.5' in row 0"),
        (np.array([0, np.inf]), "found 'inf' in row 1"),
        (np.array([0, 2.0**60]), "in row 1"),
        (["1", "-2"], "found '-2' in row 1"),
        (["a", "nan"], "found 'nan' in row 1"),
        (np.array(["1", "NaN"]), "found 'NaN' in row 1"),
        (np.array([-1, 3]).astype(np.uint8), "found '255' in row 0"),
        (np.array([b"\xff"]), "must be texts in UTF-8"),
    ],
)
def test_what_may_or_may_not_be_a_class_is_refused(labels, message):
    with pytest.raises(DataError, match=message):
        number_labels(labels, "y")


# ---- arrays


@pytest.mark.parametrize("container", ["npz", "folder"])
@pytest.mark.parametrize("has_test", [True, False])
def test_features_are_read_from_either_container(tmp_path, container, has_test):
    arrays = {"x_train": RNG.normal(size=(6, 3)), "y_train": np.array([3, 3, 9, 9, 3, 9])}
    arrays |= {"x_test": RNG.normal(size=(2, 3)), "y_test": np.array([4, 9])}
    if not has_test:
        arrays = {"x": arrays["x_train"], "y": arrays["y_train"][:, None]}
    source = load_features(save(tmp_path, container, **arrays))
    np.testing.assert_array_equal(source.images, next(iter(arrays.values())).astype(np.float32))
    assert source.account.layout == "arrays " + ", ".join(arrays) and not source.account.left_out
    if has_test:
        assert source.classes == ("3", "4", "9") and source.test_labels.tolist() == [1, 2]
        assert source.labels.tolist() == [0, 0, 2, 2, 0, 2]
    else:
        assert source.classes == ("3", "9") and source.test_images is None


@pytest.mark.parametrize("container", ["npz", "folder"])
def test_all_parts_and_any_letter_case(tmp_path, container):
    arrays = {f"X{part}": RNG.normal(size=(4, 2)) for part in ("", "_valid", "_TEST")}
    arrays |= {f"y{part}": np.array(["a", "b", "", "b"]) for part in ("", "_valid", "_TEST")}
    source = load_features(save(tmp_path, container, **arrays, more=np.zeros(3)))
    assert source.classes == ("a", "b") and source.labels.tolist() == [0, 1, -1, 1]
    assert source.val_labels.tolist() == source.test_labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(source.val_images, arrays["X_valid"][[0, 1, 3]].astype(np.float32))
    np.testing.assert_array_equal(source.test_images, arrays["X_TEST"][[0, 1, 3]].astype(np.float32))
    assert source.account.layout == "arrays X, y, X_valid, y_valid, X_TEST, y_TEST"
    assert source.account.left_out == (
        LeftOut("more.npy" if container == "folder" else "more", "no array x or y of a part"),
        LeftOut("1 of 4 val examples, the first in row 2", "no label"),
        LeftOut("1 of 4 test examples, the first in row 2", "no label"),
    )


def test_without_labels_all_are_unlabelled(tmp_path):
    x = RNG.normal(size=(5, 2)).astype(np.float32)
    for path in (save(tmp_path, x=x), save(tmp_path, "folder", x=x) / "x.npy"):
        source = load_features(path)
        np.testing.assert_array_equal(source.images, x)
        assert source.classes == () and source.labels.tolist() == [-1] * 5 and source.names is None
    assert not source.account.notes
    np.save(tmp_path / "y.npy", np.arange(5))
    assert load_features(tmp_path / "x.npy").account.notes == ("y.npy is read where the folder is given",)


def test_files_of_a_folder_that_are_not_read_are_told(tmp_path):
    save(tmp_path, "folder", x=np.ones((2, 2)), names=np.array(["a", "b"]))
    (tmp_path / "README.txt").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "old").mkdir()
    left_out = {entry.name: entry.why for entry in load_features(tmp_path).account.left_out}
    other = "no array x or y of a part"
    assert left_out == {"README.txt": other, "names.npy": other, "old": "a folder"}


def test_numbers_of_any_kind_become_float32(tmp_path):
    for dtype in ("?", "u1", "<i8", ">i2", "f2", ">f4", "f8", "g"):
        images = load_features(save(tmp_path, x=np.eye(2).astype(dtype))).images
        assert images.dtype == np.float32 and images.dtype.isnative and images.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_mapped_array_stays_mapped(tmp_path, dtype):
    shape = (6, 5) if dtype == np.float32 else (6, 3, 4, 4)
    images = load_features(save(tmp_path, "folder", x=np.ones(shape, dtype))).images
    while images.base is not None and not isinstance(images, np.memmap):
        images = images.base
    assert isinstance(images, np.memmap)


def test_grey_images_as_an_array_get_their_channel(tmp_path):
    source = load_features(
        save(tmp_path, x=RNG.integers(256, size=(4, 7, 5), dtype=np.uint8), y=np.array([0, 1, 0, 1]))
    )
    assert source.images.shape == (4, 1, 7, 5) and source.images.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
@pytest.mark.parametrize(
    ("shape", "found", "wanted"),
    [
        ((2, 8, 8, 3), "whose channels are last", "x.transpose(0, 3, 1, 2)"),
        ((2, 8, 9, 1), "whose channels are last", "x.transpose(0, 3, 1, 2)"),
        ((2, 4, 4, 3), "whose channels are last", "x.transpose(0, 3, 1, 2)"),
        ((2, 8, 8, 4), "not four, which are last", "x[..., :3].transpose(0, 3, 1, 2)"),
        ((2, 4, 8, 8), "not four", "x[:, :3]"),
    ],
)
def test_images_whose_channels_are_not_first_are_told_what_to_save(tmp_path, shape, found, wanted, dtype):
    x = RNG.integers(256, size=shape).astype(dtype)
    path = save(tmp_path, x=x)
    if dtype == np.float64 and shape[1] == 4:
        assert load_features(path).images.shape == shape  # maps of features, say
        return
    with pytest.raises(DataError) as refusal:
        load_features(path)
    message = str(refusal.value)
    assert f"must be images of shape (N, channels, height, width), the channels first, found {shape}" in message
    assert f"{found}: save {wanted}" in message
    assert load_features(save(tmp_path, x=eval(wanted, {"x": x}))).images.shape[1] in (1, 3)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 40])
@pytest.mark.parametrize("block", [3, 8, 1 << 22])
def test_rows_that_are_not_finite_are_told(tmp_path, monkeypatch, n, block):
    monkeypatch.setattr(feature_parts, "BLOCK", block)
    x, rows = np.ones((60, 4)), np.sort(RNG.permutation(60)[:n])
    for i, row in enumerate(rows):
        x[row, [2, 3]] = [(NAN, np.inf), (-np.inf, 1), (1e300, 1)][i % 3]
    expected = f"x must be finite, found nan in row {rows[0]}, column 2"
    if n > 1:
        listed = ", ".join(f"row {row}" for row in rows[1:5]) + ", …" * (n > 5)
        expected += f"; and in {n - 1} more row{'s' * (n > 2)}: {listed}"
    with pytest.raises(DataError) as refusal:
        feature_parts.finite(x, "x")
    assert str(refusal.value) == expected
    x[rows] = 2
    assert feature_parts.finite(x, "x").dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.array([0, 1])}, "expected an array x_train or x in .* found y"),
        ({"y": np.array([0, 1]), "x_trian": np.ones((2, 2))}, "expected an array x_train or x in .* found y, x_trian"),
        ({"x": np.ones((2, 2)), "y_test": np.ones(2)}, "expected an array x_test in .* found x, y_test"),
        ({"x": np.ones((2, 2)), "x_val": np.ones((2, 2))}, "x_val in .* must come with its labels, found no y_val"),
        ({"x": np.ones((2, 2)), "x_train": np.ones((2, 2))}, "must hold one x of the train part, found x and x_train"),
        ({"x": np.ones((2, 2)), "X": np.ones((2, 2))}, "must hold one x of the train part, found [xX] and [xX]"),
        ({"x": np.ones((2, 2)), "y": np.array([0.5, 1])}, "labels in .* found '0.5' in row 0 of y"),
        ({"x": np.ones((2, 2)), "y": np.ones((2, 2))}, r"y in .* must be \(N,\) integers or texts"),
        ({"x": np.ones((2, 2)), "y": np.int64(1)}, r"y in .* must be \(N,\) .* found int64 of shape \(\)"),
        ({"x": np.ones((2, 2)), "y": np.array([0, -2])}, "found '-2' in row 1 of y"),
        ({"x": np.ones((3, 2)), "y": np.array([0, 1])}, "x in .* one row for each of 2 labels"),
        ({"x": np.array([[np.inf], [1]]), "y": np.array([0, 1])}, "x in .* must be finite, found inf in row 0, col"),
        ({"x": np.array([[1], [1e300]])}, r"found 1e\+300, which float32 cannot hold, in row 1, column 0"),
        ({"x": np.full((2, 1, 2, 2), NAN)}, r"found nan in row 0 at \(0, 0, 0\); and in 1 more row: row 1"),
        ({"x": np.ones((0, 2)), "y": np.zeros(0, int)}, "x in .* must hold at least one example"),
        ({"x": np.ones((2, 0))}, "at least one example and feature"),
        ({"x": np.array([["1"]])}, "x in .* must be numbers, a row of each example, found <U1"),
        ({"x": np.ones(3)}, r"a row of each example, found float64 of shape \(3,\)"),
        ({"x": np.array([[{}], [1]], object)}, "cannot be read: arrays of Python objects .* save texts by .astype"),
        ({"x": np.ones((1, 2)), "y": np.array(["a"], object)}, "cannot be read: arrays of Python objects"),
    ],
)
@pytest.mark.parametrize("container", ["npz", "folder"])
@pytest.mark.filterwarnings("error")
def test_bad_arrays_are_told(tmp_path, container, arrays, message):
    with pytest.raises(DataError, match=message):
        load_features(save(tmp_path, container, **arrays))


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({"x_test": np.ones((1, 3)), "y_test": np.zeros(1)}, r"x and x_test in .* found \(2, 2\) float64 and \(1, 3\)"),
        (
            {"x_test": np.ones((1, 2)), "y_test": np.array(["a"])},
            "all numbers or all texts, found y of int64, y_test of",
        ),
        ({"x_test": np.ones((1, 2)), "y_test": np.array([-1])}, "the test part of .* must have labels, found none"),
        ({"x_test": np.ones((1, 2)), "y_test": np.array([-5])}, "found '-5' in row 0 of y_test"),
    ],
)
def test_parts_must_go_together(tmp_path, test, message):
    with pytest.raises(DataError, match=message):
        load_features(save(tmp_path, x=np.ones((2, 2)), y=np.array([0, 1]), **test))


def test_files_of_another_form_than_their_name_are_told(tmp_path):
    save(tmp_path, x=np.ones((2, 2)))
    save(tmp_path, "folder", x=np.ones((2, 2)))
    (tmp_path / "f.npz").rename(tmp_path / "z.npy")
    (tmp_path / "x.npy").rename(tmp_path / "z.npz")
    for name, message in [("z.npy", "it is an .npz file"), ("z.npz", "it is an .npy file"), ("z.mat", "or a table")]:
        with pytest.raises(DataError, match=message):
            load_features(tmp_path / name)


# ---- tables


TABLE = """\
ID,Label,Split,x0,x1,,name
a,cat,Train,1,2,0,A
b,,,3,4e0,1,B
c,dog,VALID,5,6,2,C
d,cat,test,7,8,3,D
e,,test,-9,10,4,E
"""


def test_a_table_is_read(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    source = load_features(tmp_path / "t.csv")
    assert source.classes == ("cat", "dog")
    assert source.images.tolist() == [[1, 2], [3, 4]] and source.images.dtype == np.float32
    assert source.labels.tolist() == [0, -1] and source.names == ["A", "B"]
    assert source.val_images.tolist() == [[5, 6]] and source.val_labels.tolist() == [1] and source.val_names == ["C"]
    assert source.test_images.tolist() == [[7, 8]] and source.test_labels.tolist() == [0] and source.test_names == ["D"]
    assert source.account.layout == "a table of 2 features, with the columns 'Label', 'Split', 'name'"
    assert source.account.left_out == (
        LeftOut("column 'ID'", "the column 'name' tells examples apart"), LeftOut("column 6", "no name"),
        LeftOut("1 of 2 test examples, the first in line 6", "no label"),
    )  # fmt: skip


def test_a_table_of_numbers_alone_has_no_labels(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tA\n1\t2\n3\t4\n")
    source = load_features(tmp_path / "t.tsv")
    assert source.images.tolist() == [[1, 2], [3, 4]] and source.labels.tolist() == [-1, -1]
    assert source.names is None and source.account.layout == "a table of 2 features"


def test_classes_that_are_hardly_told_apart_are_noted(tmp_path):
    (tmp_path / "t.csv").write_text("label,x\ncat,1\nCat,2\ndog,3\n")
    source = load_features(tmp_path / "t.csv")
    assert source.classes == ("Cat", "cat", "dog")
    assert source.account.notes == ("classes that differ in letter case only: Cat and cat",)


@pytest.mark.parametrize("index", [False, True])
def test_a_frame_of_embeddings_is_read_from_parquet(tmp_path, index):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    embeddings = RNG.normal(size=(4, 3)).astype(np.float32)
    frame = pandas.DataFrame({"embedding": list(embeddings), "age": [1, 2, 3, 4], "label": [1.0, NAN, 0.0, 1.0]})
    frame["path"] = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    if index:
        frame.index = [5, 7, 6, 8]
    frame.to_parquet(tmp_path / "t.parquet")
    source = load_features(tmp_path / "t.parquet")
    np.testing.assert_array_equal(source.images, np.column_stack([embeddings, [1, 2, 3, 4]]))
    assert source.classes == ("0", "1") and source.labels.tolist() == [1, -1, 0, 1]
    assert source.names == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert [entry.name for entry in source.account.left_out] == ["column '__index_level_0__'"] * index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,x\na,1\nb,red\n", "column 'x' of .* must hold numbers, found 'red' in line 3"),
        ("label,x\na,1\n\nb,nan\nc,1e39\n", "column 'x' of .* found nan in line 4; and in 1 more row: line 5"),
        ("label,x\na,1e39\n", r"found 1e\+39, which float32 cannot hold, in line 2"),
        ("label,x\n0,1\n-3,1\n", "column 'label' of .* found '-3' in line 3"),
        ("label,x\ncat,1\nnan,1\n", "column 'label' of .* found 'nan' in line 3"),
        ("label,class,x\n0,1,1\n", "must have one column label or labels or class or target, found label, class"),
        ("split,x\ntrain,1\ndev,2\n", "column 'split' of .* must be train, val or test, found 'dev' in line 3"),
        ("split,x\ntest,1\n", "must have rows of the training part, found none"),
        ("split,x\ntrain,1\ntest,2\n", "the test part of .* must have labels, found none"),
        ("label,path\na,b\n", "must hold columns of numbers, the features, found label, path"),
        ("label,x\n", "found no rows"),
        ("label,x\na\n", "line 2 of .* must have 2 fields"),
    ],
)  # fmt: skip
def test_bad_tables_are_told_by_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_features(tmp_path / "t.csv")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_of_a_table_is_a_data_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "t.csv"
    content = bytearray(TABLE.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=4))
    path.write_bytes(content)
    try:
        source = load_features(path)
    except DataError:
        return
    assert np.isfinite(source.images).all() and len(source.images) == len(source.labels)
