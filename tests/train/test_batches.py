"""Mini-batches hold all examples, and no one alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ssdml_fast.train import batch_sizes


@given(st.integers(0, 500), st.integers(1, 60))
def test_examples_are_cut_into_full_mini_batches_and_what_is_left_unless_it_is_one(n, size):
    sizes = batch_sizes(n, size)
    assert sum(sizes) == n
    plain = [len(range(first, min(first + size, n))) for first in range(0, n, size)]
    if len(plain) > 1 and size > 1 and plain[-1] == 1:
        assert sizes == [*plain[:-2], size + 1]
    else:
        assert sizes == plain
