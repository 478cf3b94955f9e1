"""How a source is divided: parts of every class, few labels, small classes, and labels that nobody knows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdml_fast.data import DataError, Source, load


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 5), st.booleans())
def test_a_source_is_split_into_disjoint_parts_of_every_class(seed, per_class, has_test):
    labels = np.random.default_rng(seed).permutation(np.repeat([0, 1, 2], [20, 40, 20]))
    examples = np.arange(80, dtype=np.float32)[:, None]
    test = (examples[:10] + 100, labels[:10]) if has_test else (None, None)
    source = Source(("a", "b", "c"), examples, labels, *test)
    data = source.split(seed, per_class)
    again = source.split(seed, per_class)
    parts = [data.images, data.val_images, *([] if has_test else [data.test_images])]
    assert sorted(np.concatenate(parts).ravel().tolist()) == list(range(80))
    known = data.labels >= 0
    np.testing.assert_array_equal(labels[data.images[known, 0].astype(int)], data.labels[known])
    np.testing.assert_array_equal(labels[data.val_images[:, 0].astype(int)], data.val_labels)
    assert np.bincount(data.labels[known]).tolist() == [per_class] * 3
    rest = [20, 40, 20] if has_test else [13, 27, 13]
    assert np.bincount(data.val_labels).tolist() == [round(0.15 * n) for n in rest]
    if has_test:
        np.testing.assert_array_equal(data.test_images, test[0])
    np.testing.assert_array_equal(data.images, again.images)
    np.testing.assert_array_equal(data.labels, again.labels)


def test_a_class_smaller_than_the_label_budget_keeps_all_of_its_labels_and_is_named():
    source = Source(("a", "b", "c"), np.zeros((41, 2), np.float32), np.repeat([0, 1, 2], [20, 20, 1]))
    assert source.split(labels_per_class=1).account.notes == ()
    data = source.split(labels_per_class=2)
    assert data.labels[data.truth == 2].tolist() == [2] and (data.labels >= 0).sum() == 5
    assert data.account.notes == ("fewer than 2 training examples, all labelled: c",)


def one_of_each(labels):
    return np.arange(len(labels), dtype=np.float32)[:, None]


def test_where_nobody_knows_some_labels_all_others_are_kept_and_none_is_tested_on():
    labels = np.where(np.arange(200) % 10, -1, np.arange(200) // 10 % 2)
    source = Source(("a", "b"), one_of_each(labels), labels)
    data = source.split()
    assert data.test_images is None and data.test_labels is None
    assert np.bincount(data.val_labels).tolist() == [2, 2] and np.bincount(data.labels[data.labels >= 0]).tolist() == [
        8,
        8,
    ]
    np.testing.assert_array_equal(data.truth, data.labels)
    np.testing.assert_array_equal(labels[data.images[:, 0].astype(int)], data.labels)
    kept = source.split(labels_per_class=3)
    assert (kept.labels >= 0).sum() == 6 and (kept.truth >= 0).sum() == 16


@pytest.mark.parametrize("per_class, sizes", [(7, None), (8, [2, 2]), (13, [2, 2]), (17, [3, 3])])
def test_a_class_has_at_least_two_validation_examples_or_none(per_class, sizes):
    labels = np.r_[np.repeat([0, 1], per_class), -1]
    data = Source(("a", "b"), one_of_each(labels), labels).split()
    if sizes is None:
        assert data.val_images is None and "too few labelled examples" in data.account.notes[0]
    else:
        assert np.bincount(data.val_labels).tolist() == sizes and data.account.notes == ()


def test_one_class_alone_is_no_validation_part():
    labels = np.repeat([0, 1, -1], [20, 3, 5])
    data = Source(("a", "b"), one_of_each(labels), labels).split()
    assert data.val_images is None and (data.labels >= 0).sum() == 23


def test_a_validation_part_that_there_is_stays_as_it_is():
    labels = np.arange(60) % 2
    val = np.full((5, 1), 7, np.float32), np.array([0, 0, 1, 1, 1])
    names = [f"{i}.png" for i in range(60)]
    source = Source(("a", "b"), one_of_each(labels), labels, None, None, *val, names, None, list("abcde"))
    data = source.split(labels_per_class=1)
    np.testing.assert_array_equal(data.val_images, val[0])
    assert len(data.images) == 40 and data.val_names == list("abcde")
    assert data.names == [f"{int(row)}.png" for row in data.images[:, 0]]
    assert data.test_names == [f"{int(row)}.png" for row in data.test_images[:, 0]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed must be at least 0, found -1"),
        ({"labels_per_class": 0}, "labels_per_class must be at least 1, found 0"),
        ({"image_size": 0}, "image_size must be at least 1, found 0"),
    ],
)
def test_what_no_data_make_right_is_refused_before_they_are_looked_for(wrong, message):
    with pytest.raises(ValueError, match=message):
        load("images:nowhere", **wrong)


def test_arrays_are_not_resized_and_say_so():
    with pytest.raises(DataError, match="image_size must be None for digits, whose examples are arrays, found 64"):
        load("digits", image_size=64)


def test_a_map_style_dataset_is_divided_undecoded():
    labels = np.arange(60) % 2
    lazy = torch.utils.data.TensorDataset(torch.arange(60.0)[:, None])
    of_array, of_lazy = (Source(("a", "b"), x, labels).split(labels_per_class=2) for x in (one_of_each(labels), lazy))
    for part in ("images", "val_images", "test_images"):
        assert [float(x) for (x,) in getattr(of_lazy, part)] == getattr(of_array, part)[:, 0].tolist()


@pytest.mark.parametrize("value", [0, 1.5, "some", True])
def test_labels_per_class_is_a_number_or_all(value):
    labels = np.arange(60) % 2
    with pytest.raises((TypeError, ValueError), match="labels_per_class must be"):
        Source(("a", "b"), one_of_each(labels), labels).split(labels_per_class=value)
