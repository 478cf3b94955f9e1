"""Examples of arrays and of Datasets: the rows that are asked for, from anywhere, and errors that name them."""

import numpy as np
import pytest
import torch
from datasets import Items, floats, octets
from PIL import Image
from torch.utils.data import Subset, TensorDataset

from ssdml_fast.data import DataError
from ssdml_fast.data.examples import as_examples, labels_of


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield octets(1)[0]


def dataset(array):
    return TensorDataset(torch.from_numpy(array), torch.arange(len(array)))


ROWS = torch.tensor([5, 0, 22, 5, 7, 3, 3])
BATCHES = [ROWS, torch.arange(23), torch.tensor([], dtype=torch.int64), torch.tensor([22])]


# --- twins ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda array: array, dataset], ids=["array", "dataset"])
@pytest.mark.parametrize("array", [floats(), octets()], ids=["floats", "bytes"])
def test_rows_are_those_of_the_array(array, make):
    examples = as_examples(make(array), "images")
    assert (len(examples), examples.shape, examples.dtype) == (23, array.shape[1:], torch.from_numpy(array).dtype)
    for rows in BATCHES:
        assert torch.equal(examples.take(rows), torch.from_numpy(array[rows.numpy()]))
    streamed = list(examples.stream(BATCHES))
    assert len(streamed) == len(BATCHES)
    assert all(torch.equal(batch, examples.take(rows)) for batch, rows in zip(streamed, BATCHES, strict=True))


def test_an_array_is_not_copied_and_what_is_taken_is():
    array = floats()
    examples = as_examples(array, "images")
    taken = examples.take(torch.tensor([1]))
    before = taken.clone()
    array[1] += 1
    assert torch.equal(taken, before)
    assert torch.equal(examples.take(torch.tensor([1])), before + 1)


def test_an_array_that_is_read_only_is_taken_without_a_warning(recwarn):
    array = floats()
    array.flags.writeable = False
    assert len(as_examples(array, "images").take(ROWS)) == len(ROWS)
    assert not recwarn


def test_an_array_that_runs_backwards():
    examples = as_examples(floats()[::-1, :, ::-1], "images")
    assert torch.equal(examples.take(ROWS), torch.from_numpy(floats()[22 - ROWS.numpy(), :, ::-1].copy()))


PLANES = octets(2, (3, 4, 5))


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (PLANES[0], PLANES[0]),
        (torch.from_numpy(PLANES[0]), PLANES[0]),
        (Image.fromarray(PLANES[0].transpose(1, 2, 0)), PLANES[0]),
        (Image.fromarray(PLANES[0, 0]), PLANES[0, :1]),
        (Image.fromarray(PLANES[0, 0]).convert("LA"), PLANES[0, :1]),
        (Image.fromarray(PLANES[0].transpose(1, 2, 0)).convert("RGBA"), PLANES[0]),
        (PLANES[0].astype(np.float64), PLANES[0].astype(np.float32)),
        (PLANES[0].astype(">f4"), PLANES[0].astype(np.float32)),
        (torch.from_numpy(PLANES[0]).double().requires_grad_(), PLANES[0].astype(np.float32)),
        (PLANES[0, ::-1, :, ::-1], PLANES[0, ::-1, :, ::-1]),
    ],
)
def test_an_example_may_be_a_tensor_an_array_or_an_image(example, expected):
    for item in (example, (example, 3), [example, "cat", 0]):
        taken = as_examples(Items([item]), "images").take(torch.tensor([0]))
        assert torch.equal(taken, torch.from_numpy(expected.copy())[None])


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (floats().astype(np.float64), "images must be a NumPy array of type float32 in native byte order, found f"),
        (floats().astype(np.dtype(np.float32).newbyteorder()), "in native byte order, found [<>]f4"),
        (torch.from_numpy(floats()), "images must be a NumPy array"),
        (floats().tolist(), "images must be a NumPy array of type float32 in native byte order, found list"),
        (octets().astype(np.int64), "images must be a NumPy array"),
        (np.ma.masked_array(floats()), "^images must have no mask, found a NumPy masked array"),
        (np.where(floats() > 2, np.nan, floats()), "images must be finite, found nan"),
        (np.float32(3), "images must be"),
        (np.array(3, np.float32), "images must have an example per row"),
        (Endless(), "images must be a NumPy array .* found Endless"),
        (torch.utils.data.Dataset(), "images must be a NumPy array .* found Dataset"),
        (Items([]), "images must hold at least one example"),
    ],
)  # fmt: skip
def test_what_is_neither_is_refused(images, message):
    with pytest.raises((TypeError, ValueError), match=message):
        as_examples(images, "images")


@pytest.mark.parametrize("setting", [{"workers": -1}, {"workers": 1.5}, {"cache_gb": -0.1}, {"cache_gb": "1"}])
def test_settings_out_of_range_are_named(setting):
    (name,) = setting
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        as_examples(floats(), "images", **setting)


GOOD = octets(1)[0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (OSError("no such file"), r"images\[2\] cannot be read: OSError: no such file"),
        (GOOD[:, :2], r"images\[2\] must be uint8 of shape \(1, 4, 5\), as images\[0\] is, found .* \(1, 2, 5\)"),
        (GOOD.astype(np.float32), r"images\[2\] must be uint8 .* found float32 of shape \(1, 4, 5\)"),
        (GOOD.astype(np.int64), r"images\[2\] must be a tensor, .* found ndarray of int64"),
        (np.ma.masked_array(GOOD), r"images\[2\] must be a tensor"),
        ({"image": GOOD}, r"images\[2\] must be a tensor, .* found dict"),
        ((), r"images\[2\] must be a tensor, .* found a tuple of nothing"),
        (("a", GOOD), r"images\[2\] must be a tensor, .* found a tuple of str, ndarray of uint8"),
        (Image.fromarray(np.full((4, 5), 1e6, np.float32)), r"images\[2\] cannot be read: ValueError: its pixels"),
    ],
)
def test_an_example_that_cannot_be_used_is_named(bad, message):
    examples = as_examples(Items([GOOD, GOOD, bad]), "images")
    with pytest.raises(DataError, match=message):
        examples.take(torch.tensor([1, 2]))
    assert torch.equal(examples.take(torch.tensor([1])), torch.from_numpy(GOOD)[None])


@pytest.mark.parametrize("number", [np.nan, -np.inf, 1e300])
def test_numbers_that_are_not_finite_are_named(number):
    examples = as_examples(Items([np.zeros(3), np.array([0, number, 0])]), "val_images")
    with pytest.raises(DataError, match=r"val_images\[1\] must be finite"):
        examples.take(torch.tensor([1]))


# --- labels and fingerprints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["labels", "targets"])
@pytest.mark.parametrize("kind", [torch.tensor, np.array, list, lambda labels: np.array(labels, np.uint8)])
def test_labels_by_the_names_that_torchvision_uses(name, kind):
    data = Items([GOOD] * 4)
    setattr(data, name, kind([3, 1, 4, 1]))
    assert labels_of(data).dtype == np.int64
    assert labels_of(data).tolist() == [3, 1, 4, 1]
    assert labels_of(Subset(Subset(data, [3, 2, 0]), torch.tensor([1, 2]))).tolist() == [4, 3]


def test_labels_that_there_are_not_and_that_are_none():
    assert labels_of(Items([GOOD])) is None
    assert labels_of(Subset(Items([GOOD]), [0])) is None
    data = Items([GOOD])
    data.targets = ["cat"]
    with pytest.raises(TypeError, match="targets must"):
        labels_of(data)


@pytest.mark.parametrize("make", [lambda array: array, dataset], ids=["array", "dataset"])
def test_a_fingerprint_is_of_number_shape_type_and_bytes(make):
    def print_of(array):
        return as_examples(make(array), "images").fingerprint()

    array = floats(600, (4,))
    changed, swapped = array.copy(), array.copy()
    changed[599, 3] += 1
    swapped[[0, 1]] = swapped[[1, 0]]
    others = [array, array[:-1], array.reshape(600, 2, 2), array.view(np.uint8), changed, swapped]
    assert len({print_of(other) for other in others}) == len(others)
    assert print_of(array) == print_of(array.copy())


def test_a_fingerprint_of_today_is_one_of_tomorrow():
    assert as_examples(octets(), "images").fingerprint() == as_examples(dataset(octets()), "images").fingerprint()
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert as_examples(array, "images").fingerprint() == "84ea7315a79172b83ef7cd9176146ee5"


def test_any_change_to_a_small_array_changes_its_fingerprint():
    array = octets(1000, (3,))
    prints = {as_examples(array, "images").fingerprint()}
    for row in range(0, 1000, 100):
        array[row] += 1
        prints.add(as_examples(array, "images").fingerprint())
    assert len(prints) == 11
