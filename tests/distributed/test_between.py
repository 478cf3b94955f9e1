"""Two sets that look for their nearest in each other, each pair of points visited once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, METRICS, dtypes, make_points, seeds

import ssdml_fast as sf
from ssdml_fast import reference
from ssdml_fast._run import knn_graph as run

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@st.composite
def two_sets(draw, kinds=KINDS, dtype=dtypes):
    """(a, b, k, how): with points of one in the other; how says which limits there are."""
    sizes = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    d, k, kind = draw(st.integers(1, 40)), draw(st.integers(1, 70)), draw(st.sampled_from(kinds))
    rng = np.random.default_rng(draw(seeds))
    x = make_points(kind, sum(sizes), d, rng).astype(draw(dtype))
    both = x[: sizes[0]], x[sizes[0] :].copy()
    both[1][:: draw(st.integers(1, 9))] = both[0][0]
    return *both, k, draw(st.sampled_from(("graph", "infinite", "some")))


def limits_of(x, k, metric, how):
    """How far the k-th nearest is of each point of a set within it, or infinity."""
    far = np.full(len(x), np.inf, run.distance_type(str(x.dtype)))
    if how != "infinite" and k < len(x):
        far = sf.knn_graph(x, k, metric).distances[:, -1].copy()
    if how == "some":
        far[::3] = np.inf
    return far


def nearest_within(search, x, others, k, metric, limits):
    """By a search one way, the k nearest that are no farther than the limits."""
    within = min(k, len(others))
    found = search(x, others, within, metric)
    indices = np.full((len(x), k), -1)
    distances = np.full((len(x), k), np.inf, found.distances.dtype)
    indices[:, :within], distances[:, :within] = found
    is_beyond = distances > limits[:, None]
    indices[is_beyond], distances[is_beyond] = -1, np.inf
    return indices, distances


def assert_both_ways(a, b, k, metric, how, search=sf.knn_search, **options):
    limits = [limits_of(x, k, metric, how) for x in (a, b)]
    found = run.knn_between(a, b, k, metric, *limits, options.get("num_threads", 1))
    for x, others, most, result in ((a, b, limits[0], found[0]), (b, a, limits[1], found[1])):
        for ours, expected in zip(result, nearest_within(search, x, others, k, metric, most), strict=True):
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "inner_product"])
@given(two_sets(kinds=("grid", "duplicates", "constant", "collinear"), dtype=st.just(np.float32)))
def test_agrees_with_twin(isa, metric, case):
    a, b, k, how = case
    a, b = np.rint(a), np.rint(b)  # every float64 sum is exact: nothing may differ
    assert_both_ways(a, b, k, metric, how, reference.knn_search)


@given(two_sets(), st.sampled_from(METRICS), st.integers(1, 3))
def test_agrees_with_two_searches(isa, case, metric, num_threads):
    a, b, k, how = case
    assert_both_ways(a, b, k, metric, how, num_threads=num_threads)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["gaussian", "clusters", "duplicates", "grid"])
@pytest.mark.parametrize(("n_a", "n_b", "d", "k"), [(700, 300, 40, 10), (300, 1100, 300, 7), (3, 900, 10, 50)])
def test_agrees_with_two_searches_beyond_one_block(isa, n_a, n_b, d, k, kind, metric):
    x = make_points(kind, n_a + n_b, d, np.random.default_rng(0)).astype(np.float32)
    for how in ("graph", "infinite"):
        assert_both_ways(x[:n_a], x[n_a:], k, metric, how, num_threads=2)


@pytest.mark.parametrize("d", [12, 300])
def test_reading_in_ranges_changes_nothing(isa, monkeypatch, d):
    x = make_points("clusters", 1400, d, np.random.default_rng(1)).astype(np.float32)
    monkeypatch.setattr(run, "BLOCK_BYTES", 1)  # the least there is: one block of points at a time
    for num_threads in (1, 2):
        assert_both_ways(x[:600], x[600:], 7, "sqeuclidean", "graph", num_threads=num_threads)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type(isa, dtype, metric):
    x = torch.from_numpy(make_points("gaussian", 900, 30, np.random.default_rng(2))).to(dtype)
    a, b, k = x[:400], x[400:], 9
    limits = [sf.knn_graph(each, k, metric).distances[:, -1].contiguous() for each in (a, b)]
    found = run.knn_between(a, b, k, metric, *limits, 2)
    for x, others, most, (indices, distances) in ((a, b, limits[0], found[0]), (b, a, limits[1], found[1])):
        expected = sf.knn_search(x, others, k, metric)
        beyond = expected.distances > most[:, None]
        assert torch.equal(indices, expected.indices.masked_fill(beyond, -1))
        assert torch.equal(distances, expected.distances.masked_fill(beyond, torch.inf))
        assert beyond.any() and not beyond.all()


def test_it_stops_when_its_progress_does():
    x = make_points("gaussian", 60_000, 60, np.random.default_rng(0)).astype(np.float32)
    far = np.full(30_000, np.inf, np.float32)

    def stop(share):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        run.knn_between(x[:30_000], x[30_000:], 5, "sqeuclidean", far, far, 2, stop)


def test_a_graph_is_those_of_its_parts_and_what_is_between_them(isa):
    x = make_points("grid", 800, 3, np.random.default_rng(3)).astype(np.float32)
    a, b, k = x[:300], x[300:], 12
    whole, parts = sf.knn_graph(x, k), [sf.knn_graph(each, k) for each in (a, b)]
    between = run.knn_between(a, b, k, "sqeuclidean", *(p.distances[:, -1].copy() for p in parts), 1)
    for rows, part, found, first, of_others in (
        (slice(0, 300), parts[0], between[0], 0, 300),
        (slice(300, 800), parts[1], between[1], 300, 0),
    ):
        indices = np.concatenate((part.indices + first, found[0] + of_others), 1)
        distances = np.concatenate((part.distances, found[1]), 1)
        order = np.lexsort((indices, distances))[:, :k]
        np.testing.assert_array_equal(np.take_along_axis(indices, order, 1), whole.indices[rows])
        np.testing.assert_array_equal(np.take_along_axis(distances, order, 1), whole.distances[rows])


@given(st.integers(0, 20), st.integers(1, 12), st.integers(0, 12), dtypes, seeds)
def test_neighbours_are_merged_by_distance_and_index(isa, n, k, m, dtype, seed):
    rng = np.random.default_rng(seed)

    def lists(count, numbers):
        """Rows of neighbours in order, with many equal distances, some of them infinite."""
        indices = np.sort(rng.permuted(np.tile(numbers, (n, 1)), axis=1)[:, :count], axis=1)
        distances = rng.integers(0, 4, (n, count)).astype(dtype)
        distances[distances == 3] = np.inf
        order = np.argsort(distances, axis=1, kind="stable")
        return np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)

    (indices, distances), (further, further_distances) = lists(k, np.arange(0, 50, 2)), lists(m, np.arange(1, 50, 2))
    both = np.concatenate((indices, further + 2), 1), np.concatenate((distances, further_distances), 1)
    order = np.lexsort(both)[:, :k]
    run.merge_neighbors(indices, distances, further, further_distances, 2, 1)
    for ours, expected in zip((indices, distances), both, strict=True):
        np.testing.assert_array_equal(ours, np.take_along_axis(expected, order, 1))
