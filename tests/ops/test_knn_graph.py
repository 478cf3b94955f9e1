import concurrent.futures
import itertools
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from strategies import DTYPES, LAYOUTS, LIBRARIES, METRICS, make_points, point_sets, relayout, to_torch

import ssdml_fast as sf
from ssdml_fast import _core, _torch, reference
from ssdml_fast._run import knn_graph as run
from ssdml_fast.reference.knn_graph import pairwise_distances

metrics = st.sampled_from(METRICS)


def rounding(x, metric, distances):
    """How far float64 rounding in any order of summation, then one rounding to the dtype, may move `distances`."""
    wide = x.astype(np.float64)
    last_place = np.spacing(np.abs(distances)) * (x.dtype == np.float32)
    if metric == "cosine":  # |u - v|^2 / 2 of unit vectors that are themselves rounded
        return last_place + 1e-14 * np.sqrt(np.abs(distances)) + 1e-30
    if metric == "inner_product":  # terms of both signs cancel
        return last_place + 1e-14 * (wide**2).sum(1).max(initial=0)
    return last_place + 1e-14 * np.abs(distances)


def assert_same_graph(graph, twin, x, metric, bounds=None):
    """Equal distances up to rounding, and neighbours that are equal wherever rounding cannot have swapped them."""
    assert graph.indices.dtype == np.int64 and graph.distances.dtype == x.dtype
    assert graph.indices.shape == graph.distances.shape == twin.indices.shape
    np.testing.assert_array_less(np.abs(graph.distances - twin.distances), rounding(x, metric, twin.distances) + 1e-300)
    exact = np.take_along_axis(pairwise_distances(x, x, metric), graph.indices, axis=1)
    np.testing.assert_array_less(np.abs(graph.distances - exact), rounding(x, metric, exact) + 1e-300)
    assert_ordered(graph, bounds)


def assert_identical(graph, other):
    np.testing.assert_array_equal(graph.indices, other.indices)
    np.testing.assert_array_equal(graph.distances, other.distances)


def assert_ordered(graph, ptr=None):
    """Sorted by (distance, index), nothing repeated, never the point itself, never of another segment."""
    d, i = graph.distances, graph.indices
    assert ((d[:, 1:] > d[:, :-1]) | ((d[:, 1:] == d[:, :-1]) & (i[:, 1:] > i[:, :-1]))).all()
    sf.KnnGraph(i, d, ptr)  # validates the rest


# --- agrees with reference --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cosine"])
@given(point_sets(kinds=("gaussian", "grid", "duplicates", "clusters", "sphere"), with_ptr=False))
def test_twin_agrees_with_sklearn(metric, case):
    x, k, _ = case
    if len(x) == 0:
        return
    x = x.astype(np.float64)
    distances, indices = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric).fit(x).kneighbors()
    assert_nearest(reference.knn_graph(x, k, metric), indices, distances, atol=1e-5)


@pytest.mark.parametrize(("find", "n", "d"), [(reference.knn_graph, 300, 20), (sf.knn_graph, 4000, 96)])
@pytest.mark.parametrize("metric", ["sqeuclidean", "inner_product"])
def test_agrees_with_faiss(metric, find, n, d):
    faiss = pytest.importorskip("faiss")
    x, k = make_points("gaussian", n, d, np.random.default_rng(0)).astype(np.float32), 7
    faiss_metric, sign = {
        "sqeuclidean": (faiss.METRIC_L2, 1),
        "inner_product": (faiss.METRIC_INNER_PRODUCT, -1),
    }[metric]
    distances, indices = faiss.knn(x, x, k + 1, metric=faiss_metric)
    found = sf.KnnGraph.from_search(indices, sign * distances)
    assert_nearest(find(x, k, metric), found.indices, found.distances, atol=1e-4)


def assert_nearest(graph, indices, distances, atol):
    """Same distances, and the same sets of neighbours but for ties with the last of them."""
    np.testing.assert_allclose(graph.distances, distances, rtol=1e-5, atol=atol)
    for ours, theirs, d in zip(graph.indices, indices, graph.distances, strict=True):
        inside = ours[d < d[-1] - 2 * atol]
        assert np.isin(inside, theirs).all()


@given(point_sets(), metrics)
def test_agrees_with_twin(isa, case, metric):
    x, k, ptr = case
    graph = sf.knn_graph(x, k, metric, ptr)
    assert_same_graph(graph, reference.knn_graph(x, k, metric, ptr), x, metric, ptr)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "inner_product"])
@given(point_sets(kinds=("grid",)))
def test_ties_fall_to_the_smaller_index(isa, metric, case):
    x, k, ptr = case  # on an integer grid every float64 sum is exact: nothing may differ
    assert_identical(sf.knn_graph(x, k, metric, ptr), reference.knn_graph(x, k, metric, ptr))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n, d, k", [(301, 17, 10), (130, 300, 50), (259, 2, 258), (257, 1, 3)])
def test_agrees_with_twin_beyond_one_tile(isa, n, d, k, metric, dtype):
    x = make_points("gaussian", n, d, np.random.default_rng(n)).astype(dtype)
    graph, twin = sf.knn_graph(x, k, metric), reference.knn_graph(x, k, metric)
    assert_same_graph(graph, twin, x, metric)
    if dtype == np.float32 and d > 1 and metric != "inner_product":  # rounded once from float64
        assert_identical(graph, twin)


@pytest.fixture(scope="module")
def many_segments():
    """Segments of no, few, hundreds and over a thousand points with many exact ties, and their twins' graphs."""
    ptr = np.array([0, 1200, 1200, 1220, 1700, 1700, 2700])
    x = make_points("grid", 2700, 4, np.random.default_rng(0)).astype(np.float32)
    return x, ptr, {metric: reference.knn_graph(x, 11, metric, ptr) for metric in ("sqeuclidean", "inner_product")}


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_agrees_with_twin_on_many_segments(isa, many_segments, num_threads):
    x, ptr, twins = many_segments
    for metric, twin in twins.items():
        assert_identical(sf.knn_graph(x, 11, metric, ptr, num_threads=num_threads), twin)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spread", [1e-4, 1e-5, 1e-6, 1e-7])
def test_near_duplicates_on_the_sphere(isa, spread, metric, dtype):
    rng = np.random.default_rng(0)
    centres = make_points("sphere", 12, 24, rng)
    x = np.repeat(centres, 10, axis=0) + spread * rng.standard_normal((120, 24))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)
    assert_same_graph(sf.knn_graph(x, 12, metric), reference.knn_graph(x, 12, metric), x, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["noise", "nothing else", "outliers", "pairs"])
def test_points_near_a_space_of_few_dimensions(isa, kind, metric):
    """Enough points for bounds from their principal coordinates; their parts are too few, and read all coordinates."""
    rng = np.random.default_rng(6)
    n, d, k = 2100, 1050, 9
    rank = 3 if kind == "nothing else" else 12
    x = rng.integers(-3, 4, (n, rank)) @ rng.integers(-3, 4, (rank, d)).astype(float)  # has ties, and is of low rank
    if kind != "nothing else":
        x += 0.02 * rng.standard_normal((n, d))
    if kind == "outliers":  # far from that space, where only one other point is near: along the axes, many are
        x[::97] += 30 * rng.standard_normal((n, d))[::97]
        x[1::97] = x[::97] + 1e-3 * rng.standard_normal((n, d))[::97]
    if kind == "pairs":  # differ by what lies outside that space
        x[1::2] = x[::2] + 1e-3 * rng.standard_normal((n // 2, d))
    x = x.astype(np.float32)
    graph = sf.knn_graph(x, k, metric)
    for part in np.split(np.arange(n), 5):
        found = sf.knn_search(x[part], x, k + 1, metric)
        others = found.indices != part[:, None]
        others[others.all(1), -1] = False
        np.testing.assert_array_equal(graph.indices[part], found.indices[others].reshape(-1, k))
        np.testing.assert_array_equal(graph.distances[part], found.distances[others].reshape(-1, k))
    rows = np.array([0, 1, 2, 500, 1001])  # the first two are near each other, outliers or a pair
    distances = pairwise_distances(x[rows], x, metric)
    distances[np.arange(len(rows)), rows] = np.inf
    nearest = np.sort(distances, axis=1)[:, :k]
    np.testing.assert_array_less(np.abs(graph.distances[rows] - nearest), rounding(x, metric, nearest) + 1e-300)


@pytest.mark.parametrize("dtype", DTYPES)
@given(point_sets(kinds=("grid",), with_ptr=False))
def test_a_common_offset_changes_nothing(isa, dtype, case):
    x, k, _ = case
    x = x.astype(dtype)
    assert_identical(sf.knn_graph(x + dtype(2**21), k), sf.knn_graph(x, k))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mixed_scales(isa, dtype, metric):
    rng = np.random.default_rng(1)
    x = make_points("gaussian", 150, 9, rng) * 10.0 ** rng.integers(-15, 15, (150, 1))
    x = x.astype(dtype)
    graph = sf.knn_graph(x, 20, metric)
    twin = reference.knn_graph(x, 20, metric)
    np.testing.assert_allclose(graph.distances, twin.distances, rtol=1e-6 if dtype == np.float32 else 1e-12, atol=1e-30)
    assert_ordered(graph)
    if metric != "cosine":
        np.testing.assert_array_equal(graph.indices, twin.indices)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("kind", ["grid", "gaussian"])
@pytest.mark.parametrize(
    "dtype, scale",
    [(np.float32, 1e-40), (np.float32, 1e-22), (np.float64, 1e-160), (np.float64, 1e-162), (np.float64, 1e-310)],
)
def test_subnormals(isa, dtype, scale, kind, metric):
    x = (scale * make_points(kind, 90, 40, np.random.default_rng(2))).astype(dtype)
    graph, twin = sf.knn_graph(x, 8, metric), reference.knn_graph(x, 8, metric)
    if dtype == np.float64 and metric == "euclidean":
        assert_same_graph(graph, twin, x, metric)
    else:  # sums of subnormal float64 squares are exact, float32 ones are rounded once
        assert_identical(graph, twin)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("exponent", [-400, -520, -900])
def test_tiny_float64_points_are_told_apart_like_larger_ones(isa, exponent, metric):
    x = make_points("gaussian", 120, 30, np.random.default_rng(5))
    graph, tiny = sf.knn_graph(x, 8, metric), sf.knn_graph(np.ldexp(x, exponent), 8, metric)
    np.testing.assert_array_equal(tiny.indices, graph.indices)
    expected = graph.distances if metric == "cosine" else np.ldexp(graph.distances, exponent)
    np.testing.assert_array_equal(tiny.distances, expected)


def two_sets(n_queries, n_base, d, dtype, seed=0):
    """Queries and base, each with duplicates of the other and of itself."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((n_base, d)).astype(dtype)
    queries = np.concatenate([base[: n_queries // 3], rng.standard_normal((n_queries, d)).astype(dtype)])[:n_queries]
    base[n_base // 2 :: 7] = base[0]
    return queries, base


@pytest.mark.parametrize(
    ("n_queries", "n_base", "d", "k"), [(0, 5, 2, 2), (1, 1, 1, 1), (7, 700, 5, 10), (500, 30, 300, 30)]
)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_search_agrees_with_twin(isa, n_queries, n_base, d, k, metric, dtype):
    queries, base = two_sets(n_queries, n_base, d, dtype)
    found, twin = sf.knn_search(queries, base, k, metric), reference.knn_search(queries, base, k, metric)
    np.testing.assert_allclose(found.distances, twin.distances, rtol=1e-6 if dtype == np.float32 else 1e-12, atol=1e-12)
    exact = np.take_along_axis(pairwise_distances(queries, base, metric), found.indices, axis=1)
    np.testing.assert_allclose(found.distances, exact, rtol=1e-6 if dtype == np.float32 else 1e-12, atol=1e-12)
    d, i = found.distances, found.indices
    assert ((d[:, 1:] > d[:, :-1]) | ((d[:, 1:] == d[:, :-1]) & (i[:, 1:] > i[:, :-1]))).all()


# --- invariants -------------------------------------------------------------------------------------------------------


@given(point_sets(), metrics)
def test_rows_are_ordered(case, metric):
    x, k, ptr = case
    graph = sf.knn_graph(x, k, metric, ptr)
    assert (graph.n, graph.k) == (len(x), k)
    assert_ordered(graph, ptr)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_permutation_equivariance(dtype, metric):
    rng = np.random.default_rng(3)
    x = make_points("gaussian", 200, 12, rng)
    x = x.astype(dtype)
    order = rng.permutation(len(x))
    graph, permuted = sf.knn_graph(x, 9, metric), sf.knn_graph(x[order], 9, metric)
    np.testing.assert_array_equal(permuted.distances, graph.distances[order])
    np.testing.assert_array_equal(order[permuted.indices], graph.indices[order])


@given(point_sets(), metrics)
def test_segments_are_separate_calls(case, metric):
    x, k, ptr = case
    ptr = np.array([0, len(x), len(x)]) if ptr is None else ptr
    graph = sf.knn_graph(x, k, metric, ptr)
    np.testing.assert_array_equal(graph.ptr, ptr)
    for low, high in itertools.pairwise(ptr):
        alone = sf.knn_graph(x[low:high], k, metric)
        np.testing.assert_array_equal(graph.indices[low:high], alone.indices + low)
        np.testing.assert_array_equal(graph.distances[low:high], alone.distances)


@given(point_sets(with_ptr=False), metrics, st.sampled_from(LAYOUTS))
def test_any_layout(case, metric, layout):
    x, k, _ = case
    laid_out = relayout(x, layout)
    before = laid_out.tobytes()
    assert_identical(sf.knn_graph(laid_out, k, metric), sf.knn_graph(np.array(laid_out, order="C"), k, metric))
    assert laid_out.tobytes() == before


def test_defaults():
    x = make_points("gaussian", 20, 3, np.random.default_rng(0))
    graph = sf.knn_graph(x, 4)
    assert graph.ptr is None
    assert_identical(graph, sf.knn_graph(x, np.int32(4), metric="sqeuclidean", ptr=None, num_threads=None))


@pytest.mark.parametrize("metric", METRICS)
def test_search_of_a_set_in_itself_is_its_graph_with_self(metric):
    x = make_points("gaussian", 400, 6, np.random.default_rng(0)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)  # so that a point is nearest to itself by every metric
    graph, found = sf.knn_graph(x, 8, metric), sf.knn_search(x, x, 9, metric)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(400))
    np.testing.assert_array_equal(found.indices[:, 1:], graph.indices)
    np.testing.assert_array_equal(found.distances[:, 1:], graph.distances)


@pytest.mark.parametrize("d", [12, 300])
def test_reading_in_ranges_changes_nothing(isa, monkeypatch, d):
    queries, base = two_sets(500, 800, d, np.float32)
    graph, found = sf.knn_graph(base, 7), sf.knn_search(queries, base, 7)
    monkeypatch.setattr(run, "BLOCK_BYTES", 1)  # the least there is: one block of points at a time
    assert_identical(sf.knn_graph(base, 7), graph)
    assert_identical(sf.knn_search(queries, base, 7), found)


@pytest.mark.parametrize("d", [12, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_outlier_changes_nothing_for_the_others(isa, d, dtype):
    x = np.random.default_rng(0).standard_normal((400, d)).astype(dtype)
    x[5] *= 1e6
    assert_same_graph(sf.knn_graph(x, 6), reference.knn_graph(x, 6), x, "sqeuclidean")


def test_unaligned_points_are_copied():
    x = np.random.default_rng(0).standard_normal((50, 3))
    shifted = np.frombuffer(b"." + x.tobytes(), np.float64, offset=1).reshape(x.shape)
    assert not shifted.flags.aligned
    assert_identical(sf.knn_graph(shifted, 4), sf.knn_graph(x, 4))


def test_works_in_a_forked_child(holds_in_a_forked_child):
    x = make_points("gaussian", 1500, 5, np.random.default_rng(0))
    expected = sf.knn_graph(x, 5, num_threads=2)  # starts threads that the child will not have
    holds_in_a_forked_child(lambda: np.array_equal(sf.knn_graph(x, 5, num_threads=2).indices, expected.indices))


def test_more_points_than_can_be_numbered_are_refused():
    with pytest.raises(ValueError, match=r"base must have fewer than 2\*\*32 points"):
        run.check_countable(2**32, "base")


FROM_DISK = """
import resource, sys
import numpy as np, torch, ssdml_fast as sf
from ssdml_fast._run import knn_graph as run

path, library, dtype, n, d = *sys.argv[1:4], *map(int, sys.argv[4:])
if library == "numpy":
    x = np.memmap(path, dtype, "r", shape=(n, d))
else:
    x = torch.from_file(path, shared=True, size=n * d, dtype=getattr(torch, dtype)).view(n, d)
run.BLOCK_BYTES = 2 << 20
sf.knn_graph(np.zeros((2000, 4)), 3, num_threads=2)  # threads are started before the limit
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
limit = int(status["VmData"].split()[0]) * 1024 + (12 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # counts what is allocated, not what is mapped from a file
graph = sf.knn_graph(x, 4, num_threads=2)  # each thread has memory of its own
found = sf.knn_search(x[:50], x, 4, num_threads=2)
np.savez(path + ".npz", graph=graph.indices, found=found.indices)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
@pytest.mark.parametrize(
    ("library", "dtype"), [("numpy", "float32"), ("numpy", "float16"), ("torch", "float32"), ("torch", "bfloat16")]
)
def test_points_on_disk_are_not_brought_into_memory(tmp_path, library, dtype):
    n, d = 3000, 3000
    x = torch.from_numpy(make_points("gaussian", n, d, np.random.default_rng(0))).to(getattr(torch, dtype))
    x.view(torch.uint8).numpy().tofile(tmp_path / "points")  # 18 or 36 MB; 12 MB beyond what is in use are allowed
    arguments = [str(tmp_path / "points"), library, dtype, str(n), str(d)]
    subprocess.run([sys.executable, "-c", FROM_DISK, *arguments], check=True, timeout=300)
    found = np.load(tmp_path / "points.npz")
    x = x.float().numpy()
    np.testing.assert_array_equal(found["graph"], sf.knn_graph(x, 4).indices)
    np.testing.assert_array_equal(found["found"], sf.knn_search(x[:50], x, 4).indices)


@pytest.mark.skipif(sys.platform != "linux", reason="needs memory that is only reserved")
def test_sizes_beyond_32_bits(isa):
    """A segment so far along that its places in x and in the results pass 2³¹: only its own pages are ever touched."""
    x = make_points("gaussian", 60, 3, np.random.default_rng(0)).astype(np.float32)
    first, k = 2**30 + 3, 3
    mapped = [
        mmap.mmap(-1, (first + 60) * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
        for size in (12, 24, 12)
    ]
    points, indices, distances = (
        np.frombuffer(memory, dtype).reshape(-1, 3)
        for memory, dtype in zip(mapped, (np.float32, np.int64, np.float32), strict=True)
    )
    points[first:] = x
    ptr = np.array([first, first + 60])
    _core.lib.knn_graph(
        "float32", points.ctypes.data, first + 60, 3, k, "sqeuclidean", ptr.ctypes.data, 1, indices.ctypes.data,
        distances.ctypes.data, 1, 1 << 20, None,
    )  # fmt: skip
    expected = sf.knn_graph(x, k)
    np.testing.assert_array_equal(indices[first:], expected.indices + first)
    np.testing.assert_array_equal(distances[first:], expected.distances)


@pytest.mark.parametrize("bounds", [None, np.array([0, 300, 15_000, 15_100, 20_000])])
def test_progress_rises_to_one(bounds):
    """Reported ten times a second at most, so a graph must be large enough to be told of twice."""
    for scale in (1, 2, 4, 8, 16):
        x = make_points("gaussian", 20_000 * scale, 200, np.random.default_rng(0))
        shares = []
        ptr = None if bounds is None else bounds * scale
        sf.knn_graph(x, 10, ptr=ptr, num_threads=1, progress=shares.append)
        assert shares == sorted(shares) and shares[-1] == 1 and shares[0] >= 0
        if len(shares) > 1:
            return
    pytest.fail("progress was told at the end only")


# --- backends agree ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@given(point_sets(), metrics)
def test_same_bits_for_any_thread_count(isa, num_threads, case, metric):
    x, k, ptr = case
    graph = sf.knn_graph(x, k, metric, ptr, num_threads=num_threads)
    assert_identical(graph, sf.knn_graph(x, k, metric, ptr))


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_same_bits_for_any_thread_count_beyond_one_tile(isa, num_threads):
    x = make_points("duplicates", 1500, 20, np.random.default_rng(4)).astype(np.float32)
    graph = sf.knn_graph(x, 10, num_threads=num_threads)
    assert_identical(graph, sf.knn_graph(x, 10, num_threads=1))
    assert_ordered(graph)


def test_concurrent_calls(isa):
    sets = [make_points("gaussian", 50 + 40 * i, 8, np.random.default_rng(i)).astype(np.float32) for i in range(12)]
    alone = [sf.knn_graph(x, 6) for x in sets]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for graph, expected in zip(pool.map(lambda x: sf.knn_graph(x, 6, num_threads=2), sets), alone, strict=True):
                assert_identical(graph, expected)


@pytest.mark.parametrize("num_threads", [2, 3])
def test_search_gives_the_same_bits_for_any_thread_count(isa, num_threads):
    queries, base = two_sets(700, 900, 20, np.float64)
    few = sf.knn_search(queries[:9], base, 500, num_threads=num_threads)  # more than a thread's part of the base
    assert_identical(few, sf.knn_search(queries[:9], base, 500, num_threads=1))
    assert_identical(
        sf.knn_search(queries, base, 9, num_threads=num_threads), sf.knn_search(queries, base, 9, num_threads=1)
    )


# --- torch ------------------------------------------------------------------------------------------------------------


@given(point_sets(), metrics)
def test_torch_equals_numpy(case, metric):
    x, k, ptr = case
    graph = sf.knn_graph(to_torch(x), k, metric, to_torch(ptr))
    assert isinstance(graph.indices, torch.Tensor) and isinstance(graph.distances, torch.Tensor)
    expected = sf.knn_graph(x, k, metric, ptr)
    np.testing.assert_array_equal(graph.indices.numpy(), expected.indices)
    np.testing.assert_array_equal(graph.distances.numpy(), expected.distances)
    assert ptr is None or torch.equal(graph.ptr, to_torch(ptr))


def test_search_of_torch_tensors():
    queries, base = two_sets(20, 50, 3, np.float32)
    found = sf.knn_search(torch.from_numpy(queries), torch.from_numpy(base), 4)
    assert isinstance(found.indices, torch.Tensor)
    assert isinstance(found.distances, torch.Tensor)
    assert_identical(sf.Neighbors(*map(np.asarray, found)), sf.knn_search(queries, base, 4))


def test_torch_layouts():
    x = torch.randn(3, 2, 40, dtype=torch.float64)
    for view in (x[:, 0].T, x[0].T[::2], x[1, :1].expand(30, 40)):
        np.testing.assert_array_equal(sf.knn_graph(view, 4).indices, sf.knn_graph(view.numpy().copy(), 4).indices)


@pytest.mark.parametrize("scale", [1.0, 2.0**-20])  # float16 is subnormal below 2**-14
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_computed_in_float32(isa, dtype, scale):
    x = (scale * torch.randn(400, 5)).to(dtype)
    for metric in METRICS:
        graph, expected = sf.knn_graph(x, 4, metric), sf.knn_graph(x.float(), 4, metric)
        assert torch.equal(graph.indices, expected.indices) and torch.equal(graph.distances, expected.distances)
        assert graph.distances.dtype == torch.float32
    found, expected = sf.knn_search(x[:7], x, 3), sf.knn_search(x[:7].float(), x.float(), 3)
    assert torch.equal(found.indices, expected.indices) and torch.equal(found.distances, expected.distances)


def test_every_float16_is_read_right(isa):
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    x = x[np.isfinite(x)].reshape(-1, 1)
    origin = np.zeros((1, 1), np.float16)
    found = sf.knn_search(x, origin, 1, "euclidean")
    np.testing.assert_array_equal(found.distances[:, 0], np.abs(x[:, 0]).astype(np.float32))


def test_torch_input_may_require_grad():
    x = torch.randn(20, 3, requires_grad=True)
    graph = sf.knn_graph(x, 3)
    assert not graph.distances.requires_grad


def test_registered_operator():
    operator = _torch.ops.knn_graph.default
    x = torch.randn(30, 4)
    torch.library.opcheck(operator, (x, 3, "sqeuclidean", None, None))
    torch.library.opcheck(operator, (x.double(), 5, "cosine", torch.tensor([0, 10, 30]), 1))
    torch.library.opcheck(operator, (x.half(), 5, "euclidean", None, None))
    operator = _torch.ops.knn_search.default
    torch.library.opcheck(operator, (x[:7], x, 3, "sqeuclidean", None))
    torch.library.opcheck(operator, (x.double(), x[:9].double(), 5, "cosine", 2))
    torch.library.opcheck(operator, (x.half(), x.half(), 30, "euclidean", None))


@pytest.mark.parametrize("dynamic", [False, True])
def test_search_compiles_as_one_graph(dynamic):
    def mean_of_nearest(queries, base):
        indices, distances = sf.knn_search(2 * queries, base, 3)
        return base[indices].mean(1), distances

    compiled = torch.compile(mean_of_nearest, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for n_queries, n_base in ((7, 30), (9, 20)):
        queries, base = torch.randn(n_queries, 4), torch.randn(n_base, 4)
        for found, right in zip(compiled(queries, base), mean_of_nearest(queries, base), strict=True):
            assert torch.equal(found, right)
    with pytest.raises(ValueError, match="k must be in"):
        compiled(queries, base[:2])


def test_compiles_as_one_graph():
    compiled = torch.compile(lambda x: sf.knn_graph(x, 3).distances.sum(), fullgraph=True, backend="aot_eager")
    x = torch.randn(30, 4)
    assert compiled(x) == sf.knn_graph(x, 3).distances.sum()


# --- errors -----------------------------------------------------------------------------------------------------------

X = make_points("gaussian", 12, 3, np.random.default_rng(0))


def with_entry(x, value):
    x = x.copy()
    x[-1, -1] = value
    return x


@pytest.mark.parametrize(
    "error, name, changed",
    [
        (TypeError, "x", {"x": X.tolist()}),
        (TypeError, "x", {"x": None}),
        (TypeError, "x", {"x": X.astype(int)}),
        (TypeError, "x", {"x": X.astype(complex)}),
        (TypeError, "x", {"x": X > 0}),
        (ValueError, "x", {"x": X[0]}),
        (ValueError, "x", {"x": X[None]}),
        (ValueError, "x", {"x": with_entry(X, np.nan)}),
        (ValueError, "x", {"x": with_entry(X, np.inf)}),
        (ValueError, "x", {"x": with_entry(X.astype(np.float32), -np.inf)}),
        (ValueError, "x", {"x": X[:, :0]}),
        (ValueError, "x", {"x": with_entry(X.astype(np.float32), 3e19)}),  # its squared distances overflow
        (ValueError, "x", {"x": with_entry(X, -1e154)}),
        (ValueError, "k", {"k": 0}),
        (ValueError, "k", {"k": -1}),
        (ValueError, "k", {"k": 12}),
        (ValueError, "k", {"k": 2**70}),
        (TypeError, "k", {"k": 2.0}),
        (TypeError, "k", {"k": True}),
        (TypeError, "k", {"k": "3"}),
        (TypeError, "k", {"k": None}),
        (ValueError, "k", {"k": 4, "ptr": np.array([0, 4, 12])}),
        (ValueError, "x", {"x": X[:1], "k": 1}),
        (ValueError, "x", {"k": 1, "ptr": np.array([0, 1, 12])}),
        (ValueError, "metric", {"metric": "manhattan"}),
        (ValueError, "metric", {"metric": None}),
        (TypeError, "ptr", {"ptr": [0, 12]}),
        (TypeError, "ptr", {"ptr": np.array([0.0, 12.0])}),
        (ValueError, "ptr", {"ptr": np.array([[0, 12]])}),
        (ValueError, "ptr", {"ptr": np.array([], np.int64)}),
        (ValueError, "ptr", {"ptr": np.array([1, 12])}),
        (ValueError, "ptr", {"ptr": np.array([0, 11])}),
        (ValueError, "ptr", {"ptr": np.array([0, 8, 4, 12])}),
        (ValueError, "num_threads", {"num_threads": 0}),
        (ValueError, "num_threads", {"num_threads": -2}),
        (TypeError, "num_threads", {"num_threads": 1.5}),
        (TypeError, "num_threads", {"num_threads": True}),
        (TypeError, "progress", {"progress": 1}),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_refuses(refuses, library, error, name, changed):
    refuses(error, name, sf.knn_graph, **LIBRARIES[library]({"x": X, "k": 3, **changed}))


def test_refuses_mixed_libraries(refuses):
    refuses(TypeError, "ptr", sf.knn_graph, to_torch(X), 3, ptr=np.array([0, 12]))
    refuses(TypeError, "ptr", sf.knn_graph, X, 3, ptr=torch.tensor([0, 12]))


def test_refuses_torch_tensors_that_numpy_arrays_would_be_refused(refuses):
    refuses(TypeError, "x", sf.knn_graph, torch.ones(5, 2, dtype=torch.int64), 2)
    refuses(TypeError, "x", sf.knn_graph, torch.ones(5, 2, dtype=torch.complex64), 2)
    refuses(TypeError, "x", sf.knn_graph, torch.eye(5).to_sparse(), 2)
    refuses(TypeError, "x", sf.knn_graph, torch.ones(5, 2, device="meta"), 2)
    refuses(ValueError, "x", sf.knn_graph, torch.full((5, 2), torch.nan), 2)


@pytest.mark.parametrize(
    ("error", "name", "changed"),
    [
        (TypeError, "queries", {"queries": X.tolist()}),
        (ValueError, "queries", {"queries": X[0]}),
        (ValueError, "queries", {"queries": np.full_like(X, np.inf)}),
        (TypeError, "base", {"base": X.astype(np.float32)}),
        (TypeError, "base", {"base": torch.from_numpy(X)}),
        (ValueError, "base", {"base": X[:, :2]}),
        (ValueError, "base", {"base": np.full_like(X, np.nan)}),
        (ValueError, "k", {"k": 0}),
        (ValueError, "k", {"k": 13}),
        (ValueError, "base", {"base": X[:0]}),
        (ValueError, "metric", {"metric": "manhattan"}),
        (ValueError, "num_threads", {"num_threads": 0}),
    ],
)
def test_search_refuses(refuses, error, name, changed):
    refuses(error, name, sf.knn_search, **{"queries": X, "base": X, "k": 3, **changed})
