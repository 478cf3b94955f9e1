"""Partitions hold every labelled example, and each of the others once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ssdml_fast.methods.partition import count, partitions


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=80), st.integers(1, 30), st.integers(0, 99))
def test_partitions_hold_all_labelled_and_each_unlabelled_once(labels, size, seed):
    labels = np.array(labels)
    parts = partitions(labels, size, np.random.default_rng(seed))
    labelled, unlabelled = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    assert len(parts) == count(labels, size) == max(1, -(-len(unlabelled) // size))
    for part in parts:
        np.testing.assert_array_equal(part[labels[part] >= 0], labelled)
    rest = np.concatenate([part[labels[part] < 0] for part in parts])
    np.testing.assert_array_equal(np.sort(rest), unlabelled)
    sizes = [len(part) - len(labelled) for part in parts]
    assert max(sizes) <= size and max(sizes) - min(sizes) <= 1
