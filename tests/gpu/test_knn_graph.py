"""kNN graphs and searches on CUDA: the CPU's to the last bit, within the memory that is promised."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from on_device import FEW, MB, gaussian, gpu, on, peak
from stand_in import installed
from strategies import METRICS, point_sets

import ssdml_fast as sf
from ssdml_fast import _arrays as arrays
from ssdml_fast._run import knn_graph as run
from ssdml_fast.reference.knn_graph import pairwise_distances

# --- agrees with the CPU ----------------------------------------------------------------------------------------------


@FEW
@given(point_sets(), st.sampled_from(METRICS))
def test_knn_graph(device_library, case, metric):
    x, k, ptr = case
    right, found = sf.knn_graph(x, k, metric, ptr), sf.knn_graph(*on(device_library, (x, k, metric, ptr)))
    np.testing.assert_array_equal(arrays.to_numpy(found.indices), right.indices)
    np.testing.assert_array_equal(arrays.to_numpy(found.distances), right.distances)
    assert arrays.device(found.indices) == arrays.device(found.distances) == arrays.device(on(device_library, x))


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "d", "k"), [(3000, 128, 10), (1001, 33, 200), (130, 1030, 129)])
def test_knn_of_every_type(dtype, metric, n, d, k):
    x = gaussian(n, d, dtype=dtype)
    right, found = sf.knn_graph(x.cpu(), k, metric), sf.knn_graph(x, k, metric)
    assert torch.equal(found.indices.cpu(), right.indices) and torch.equal(found.distances.cpu(), right.distances)
    right, found = sf.knn_search(x[:99].cpu(), x.cpu(), k, metric), sf.knn_search(x[:99], x, k, metric)
    assert torch.equal(found.indices.cpu(), right.indices) and torch.equal(found.distances.cpu(), right.distances)


def test_knn_of_distances_that_underflow(device_library):
    x = 1e-170 * np.random.default_rng(0).standard_normal((60, 9))
    for metric in ("euclidean", "cosine"):
        right, found = sf.knn_graph(x, 5, metric), sf.knn_graph(on(device_library, x), 5, metric)
        np.testing.assert_array_equal(arrays.to_numpy(found.indices), right.indices)
        np.testing.assert_array_equal(arrays.to_numpy(found.distances), right.distances)


@FEW
@given(point_sets(max_n=40, with_ptr=False), st.integers(0, 20), st.sampled_from(METRICS))
def test_knn_search(device_library, case, n_queries, metric):
    base, k, _ = case
    assume(len(base))
    queries = np.concatenate([base[::3], -base])[:n_queries]
    right, found = (sf.knn_search(*sets, k, metric) for sets in ((queries, base), on(device_library, (queries, base))))
    np.testing.assert_array_equal(arrays.to_numpy(found.indices), right.indices)
    np.testing.assert_array_equal(arrays.to_numpy(found.distances), right.distances)


def same_neighbours(library, search, *case):
    """The CPU's to the last bit."""
    right, found = search(*case), search(*on(library, case))
    np.testing.assert_array_equal(arrays.to_numpy(found.indices), right.indices)
    np.testing.assert_array_equal(arrays.to_numpy(found.distances), right.distances)


# The device bounds distances on tensor cores from 512 points on, in blocks of 128 at most.
@pytest.mark.parametrize("n", [511, 512, 513, 640, 641, 769])
def test_knn_graph_of_whole_and_partial_blocks(device_library, n):
    rng = np.random.default_rng(n)
    same_neighbours(device_library, sf.knn_graph, rng.standard_normal((n, 5)).astype(np.float32), 7)


@pytest.mark.parametrize(("n", "k"), [(520, 1), (520, 33), (520, 65), (520, 66), (800, 100)])
def test_knn_graph_of_few_and_many_neighbours(device_library, n, k):
    same_neighbours(device_library, sf.knn_graph, np.random.default_rng(k).standard_normal((n, 9)), k, "euclidean")


@pytest.mark.parametrize("metric", METRICS)
def test_knn_graph_in_segments_of_many_blocks(device_library, metric):
    """Segments of one block and of several, the points of each in an order that tells of their distances."""
    ptr = np.array([0, 0, 15, 640, 651, 1170])
    x = np.random.default_rng(0).standard_normal((1170, 70)).astype(np.float32)
    same_neighbours(device_library, sf.knn_graph, x[np.argsort(x[:, 0])], 10, metric, ptr)


UNDECIDED = {  # points of which bounds leave so many pairs undecided that there is no room for them
    "all equal": lambda x: np.full_like(x, 0.1),
    "zeros": lambda x: np.where(np.arange(len(x))[:, None] % 3 == 0, 0, x),
    "duplicates": lambda x: x[: len(x) // 200].repeat(200, axis=0),
    "clusters far apart": lambda x: x + 1e5 * (np.arange(len(x)) % 3)[:, None].astype(x.dtype),
    "underflow": lambda x: x * np.finfo(x.dtype).tiny,
    "an outlier": lambda x: np.where(np.arange(len(x))[:, None] == 7, 1e15, x).astype(x.dtype),
}


@pytest.mark.parametrize(
    ("dtype", "metric"),
    [
        (np.float32, "sqeuclidean"),
        (np.float32, "inner_product"),
        (np.float64, "euclidean"),
        (np.float64, "cosine"),
    ],
)
@pytest.mark.parametrize("kind", UNDECIDED)
def test_knn_of_points_that_bounds_do_not_tell_apart(device_library, kind, dtype, metric):
    x = UNDECIDED[kind](np.random.default_rng(1).standard_normal((600, 3)).astype(dtype))
    same_neighbours(device_library, sf.knn_graph, x, 5, metric)


@pytest.mark.parametrize(("n_queries", "n_base", "k"), [(1, 700, 3), (130, 513, 40), (700, 530, 5)])
@pytest.mark.parametrize("metric", METRICS)
def test_knn_search_in_many_blocks(device_library, n_queries, n_base, k, metric):
    rng = np.random.default_rng(0)
    queries, base = rng.standard_normal((n_queries, 6)), rng.standard_normal((n_base, 6))
    base[3], queries[0] = 0, base[5]
    same_neighbours(device_library, sf.knn_search, queries, base, k, metric)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metric", METRICS)
def test_knn_of_halves(stand_in, dtype, metric):
    x = torch.randn(530, 11, dtype=torch.float32, generator=torch.Generator().manual_seed(0)).to(dtype)
    for search in (lambda: sf.knn_graph(x, 6, metric), lambda: sf.knn_search(x[:20], x, 6, metric)):
        right = search()
        with installed(stand_in):
            found = search()
        assert torch.equal(found.indices, right.indices) and torch.equal(found.distances, right.distances)


@pytest.mark.parametrize("kind", [*UNDECIDED, "gaussian"])
def test_bounds_decide_most_pairs(stand_in, kind):
    """What is left to the exact kernels is marked in the last bytes of the workspace."""
    x = np.random.default_rng(1).standard_normal((600, 3))
    x = np.ascontiguousarray(UNDECIDED[kind](x)) if kind in UNDECIDED else x
    (n, d), k = x.shape, 5
    size = stand_in.knn_graph_workspace(n, d, k, "sqeuclidean", n)
    memory = np.zeros(size + 256, np.uint8)
    work = memory[-memory.ctypes.data % 256 :][:size]
    indices, distances, ptr = np.empty((n, k), np.int64), np.empty((n, k)), np.array([0, n])
    addresses = [array.ctypes.data for array in (indices, distances, work)]
    stand_in.knn_graph("float64", x.ctypes.data, n, d, k, "sqeuclidean", ptr.ctypes.data, 1, n, *addresses, 0, None)
    left = work[size - 256 * math.ceil(n / 256) :][:n].astype(bool)
    assert left.all() if kind == "all equal" else left.any() == (kind != "gaussian")
    np.testing.assert_array_equal(indices, sf.knn_graph(x, k).indices)


@pytest.mark.parametrize("metric", METRICS)
def test_knn_search_in_the_first_of_its_queries(device_library, metric):
    x = np.random.default_rng(0).standard_normal((40, 7))
    right, there = sf.knn_search(x, x[:9], 3, metric), on(device_library, x)
    found = sf.knn_search(there, there[:9], 3, metric)
    np.testing.assert_array_equal(arrays.to_numpy(found.indices), right.indices)
    np.testing.assert_array_equal(arrays.to_numpy(found.distances), right.distances)


# --- progress ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_knn_reports_progress_and_stops(stand_in, search, dtype):
    """Reported ten times a second at most, so there must be points enough to be told of twice."""

    def interrupt(share):
        raise KeyboardInterrupt

    with installed(stand_in):
        for n in (2000, 4000, 8000, 16_000, 32_000):
            x = torch.from_numpy(np.random.default_rng(0).standard_normal((n, 64)).astype(dtype))
            arguments = (x[:999], x, 5) if search else (x, 5)
            function = sf.knn_search if search else sf.knn_graph
            shares = []
            function(*arguments, progress=shares.append)
            assert shares == sorted(shares) and shares[-1] == 1 and shares[0] >= 0
            if len(shares) > 1:
                break
        assert len(shares) > 1
        with pytest.raises(KeyboardInterrupt):
            function(*arguments, progress=interrupt)


# --- memory -----------------------------------------------------------------------------------------------------------


@gpu
@pytest.mark.parametrize(("metric", "per_point"), [("sqeuclidean", 0), ("cosine", 8 * 64)])
def test_memory_of_knn_graph(metric, per_point):
    x = gaussian(20_000, 64)
    per_point += 12 * 10 + 2 * 64 + 8 * (3 * 10 + 128) + 17
    assert peak(lambda: sf.knn_graph(x, 10, metric)) < 20_000 * per_point + MB


@FEW
@given(point_sets(max_n=40, with_ptr=False), st.integers(1, 20), st.sampled_from(METRICS))
def test_both_ways_between_two_sets(device_library, case, n_a, metric):
    x, k, _ = case
    assume(len(x) > 1)
    a, b = x[: min(n_a, len(x) - 1)], x[min(n_a, len(x) - 1) :]
    limits = [np.sort(pairwise_distances(each, x, metric), axis=1)[:, k].copy() for each in (a, b)]
    right = run.knn_between(a, b, k, metric, *limits, None)
    found = run.knn_between(*on(device_library, (a, b, k, metric, *limits)), None)
    for ours, theirs in zip((*right[0], *right[1]), (*found[0], *found[1]), strict=True):
        np.testing.assert_array_equal(arrays.to_numpy(theirs), ours)


@FEW
@given(point_sets(max_n=40, with_ptr=False), st.sampled_from(METRICS))
def test_shards(device_library, case, metric):
    """Of one process, which is all that one device needs."""
    x, k, _ = case
    right, shard = sf.knn_graph(x, k, metric), sf.distributed.knn_graph(on(device_library, x), k, metric)
    np.testing.assert_array_equal(arrays.to_numpy(shard.indices), right.indices)
    np.testing.assert_array_equal(arrays.to_numpy(shard.distances), right.distances)
    assert arrays.device(shard.indices) == arrays.device(shard.distances) == arrays.device(on(device_library, x))
