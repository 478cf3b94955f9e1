"""The parts of a data set: disjoint, stratified, repeatable."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdml_fast.data.dataset import hide_labels, stratified_split
from ssdml_fast.data.digits import load_digits


@given(st.integers(0, 1000), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_split_and_hidden_labels_are_stratified(seed, per_class):
    labels = np.random.default_rng(seed).permutation(np.repeat([2, 5, 7], [20, 40, 10]))
    first, second = stratified_split(labels, 0.3, np.random.default_rng(seed))
    assert sorted([*first, *second]) == list(range(70))
    assert [int((labels[second] == c).sum()) for c in (2, 5, 7)] == [6, 12, 3]
    hidden = hide_labels(labels, per_class, np.random.default_rng(seed))
    assert [int((hidden == c).sum()) for c in (2, 5, 7)] == [per_class] * 3
    assert ((hidden == labels) | (hidden == -1)).all()


def test_digits_parts_are_disjoint_and_repeatable():
    data, again, other = load_digits(0), load_digits(0), load_digits(1)
    parts = [data.images, data.val_images, data.test_images]
    assert sum(map(len, parts)) == 1797
    assert len({image.tobytes() for part in parts for image in part}) == 1797  # digits has no duplicate images
    assert data.account.layout == "the 8x8 digits of scikit-learn"
    np.testing.assert_allclose(data.images.mean(0), 0, atol=1e-6)
    for field in dataclasses.fields(data):
        if field.name != "decoded":
            for one, other in ((data, again), (data.decoded, again.decoded)):
                np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    assert not np.array_equal(data.test_images, other.test_images)
    everything = load_digits(0, labels_per_class=200)
    np.testing.assert_array_equal(everything.labels, everything.truth)
    assert "fewer than 200 training examples, all labelled" in everything.decoded.account.notes[0]
