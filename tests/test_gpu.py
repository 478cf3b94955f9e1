"""CUDA: the CPU's results and errors, on the caller's stream, within the memory that is promised, under CUDA graphs.

What needs no device runs on a stand-in for one too (stand_in.py); sanitize_cuda.cpp runs its kernels under sanitizers.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from foreign import Foreign, OnDevice
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stand_in import build, installed, shared_memory
from strategies import METRICS, dtypes, graphs, labels, losses, point_sets, seeds, stiefel_points

import ssdml_fast as sf
from ssdml_fast import EdgeAffinity, KnnGraph
from ssdml_fast import _arrays as arrays

gpu = pytest.mark.gpu
DEVICE = "cuda"
FEW = settings(max_examples=25)
MB = 2**20


@functools.cache
def working_cupy():
    """CuPy, where it finds the libraries of CUDA that it loads when they are first needed."""
    cupy = pytest.importorskip("cupy")
    try:
        (cupy.ones((2, 2)) @ cupy.ones((2, 2))).max().get()
    except Exception as error:
        pytest.skip(f"CuPy does not work here: {error}")
    return cupy


CONVERT = {
    "stand-in": lambda x: torch.from_numpy(x.copy()),
    "torch": lambda x: torch.from_numpy(x.copy()).to(DEVICE),
    "cupy": lambda x: working_cupy().asarray(x),
}


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory):
    return build(tmp_path_factory.mktemp("stand_in"))


@pytest.fixture(params=["stand-in", pytest.param("torch", marks=gpu), pytest.param("cupy", marks=gpu)])
def library(request):
    """Run the test once with the arrays of each library that has a device, or a stand-in for one."""
    if request.param == "stand-in":
        with installed(request.getfixturevalue("stand_in")):
            yield request.param
    else:
        yield request.param


def on(library, value):
    """The same arrays in `library`, also within a tuple, a KnnGraph or an EdgeAffinity; other values as they are."""
    if isinstance(value, np.ndarray):
        return CONVERT[library](value)
    if isinstance(value, tuple):
        return tuple(on(library, entry) for entry in value)
    if isinstance(value, (KnnGraph, EdgeAffinity)):
        fields = {f.name: on(library, getattr(value, f.name)) for f in dataclasses.fields(value)}
        return KnnGraph(**fields, _validated=True) if isinstance(value, KnnGraph) else EdgeAffinity(**fields)
    return value


def close(found, right, rtol):
    """Equal up to `rtol` of the largest entry."""
    found, right = arrays.to_numpy(found), arrays.to_numpy(right)
    assert found.dtype == right.dtype
    np.testing.assert_allclose(found, right, rtol=0, atol=rtol * max(1.0, np.abs(right).max(initial=0)))


def precision(dtype):
    return 1e-5 if dtype in (np.float32, torch.float32) else 1e-12


def gaussian(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def orthonormal(*shape, dtype=torch.float32, seed=0):
    return torch.linalg.qr(gaussian(*shape, dtype=torch.float64, seed=seed))[0].to(dtype)


def partition(n, d, k):
    """Points, their graph, labels, affinities and triplets, on the device."""
    x = gaussian(n, d)
    graph = sf.knn_graph(x, k)
    y = torch.full((n,), -1, device=DEVICE)
    y[:100] = torch.arange(100, device=DEVICE) % 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.ConvergenceWarning)
        affinity = sf.propagate_affinity(graph, y, gamma=0.5, tol=1e-4)
    return x, graph, y, affinity, sf.mine_triplets(graph, affinity)


def calls():
    """One call of every operation that has a kernel for CUDA; each returns tensors."""
    x, graph, y, affinity, triplets = partition(3000, 32, 10)
    L, grad = orthonormal(32, 16), gaussian(32, 16)
    posteriors = torch.softmax(gaussian(3000, 5), 1)

    def loss_and_gradients():
        z, metric = x.clone().requires_grad_(), L.clone().requires_grad_()
        value = sf.angular_loss(z, triplets, metric)
        return value.detach(), *torch.autograd.grad(value, (z, metric))

    def neighbours():
        graph = sf.knn_graph(x, 10)
        return graph.indices, graph.distances

    def affinities():
        result = sf.propagate_affinity(graph, y, gamma=0.5, tol=1e-4)
        return result.values, result.class_mass

    return {
        "knn_graph": neighbours,
        "knn_search": lambda: tuple(sf.knn_search(x[:500], x, 10)),
        "propagate_affinity": affinities,
        "propagate_labels": lambda: (sf.propagate_labels(graph, y, gamma=0.5, tol=1e-4).posteriors,),
        "mine_triplets": lambda: (sf.mine_triplets(graph, affinity),),
        "mine_class_triplets": lambda: (sf.mine_class_triplets(posteriors, 1000),),
        "angular_loss": loss_and_gradients,
        "cayley_update": lambda: (sf.cayley_update(L, grad, 0.1),),
        "riemannian_cg": lambda: (sf.riemannian_cg(L, x, triplets[:500]).L,),
    }


OPERATIONS = (
    "knn_graph",
    "knn_search",
    "propagate_affinity",
    "propagate_labels",
    "mine_triplets",
    "mine_class_triplets",
    "angular_loss",
    "cayley_update",
    "riemannian_cg",
)


@pytest.fixture(scope="module")
def operations():
    made = calls()
    assert tuple(made) == OPERATIONS
    return made


# --- agrees with the CPU ----------------------------------------------------------------------------------------------


@FEW
@given(point_sets(), st.sampled_from(METRICS))
def test_knn_graph(library, case, metric):
    x, k, ptr = case
    right, found = sf.knn_graph(x, k, metric, ptr), sf.knn_graph(*on(library, (x, k, metric, ptr)))
    np.testing.assert_array_equal(arrays.to_numpy(found.indices), right.indices)
    np.testing.assert_array_equal(arrays.to_numpy(found.distances), right.distances)
    assert arrays.device(found.indices) == arrays.device(found.distances) == arrays.device(on(library, x))


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


def test_knn_of_distances_that_underflow(library):
    x = 1e-170 * np.random.default_rng(0).standard_normal((60, 9))
    for metric in ("euclidean", "cosine"):
        right, found = sf.knn_graph(x, 5, metric), sf.knn_graph(on(library, x), 5, metric)
        np.testing.assert_array_equal(arrays.to_numpy(found.indices), right.indices)
        np.testing.assert_array_equal(arrays.to_numpy(found.distances), right.distances)


@FEW
@given(point_sets(max_n=40, with_ptr=False), st.integers(0, 20), st.sampled_from(METRICS))
def test_knn_search(library, case, n_queries, metric):
    base, k, _ = case
    assume(len(base))
    queries = np.concatenate([base[::3], -base])[:n_queries]
    right, found = (sf.knn_search(*sets, k, metric) for sets in ((queries, base), on(library, (queries, base))))
    np.testing.assert_array_equal(arrays.to_numpy(found.indices), right.indices)
    np.testing.assert_array_equal(arrays.to_numpy(found.distances), right.distances)


def same_neighbours(library, search, *case):
    """The CPU's to the last bit."""
    right, found = search(*case), search(*on(library, case))
    np.testing.assert_array_equal(arrays.to_numpy(found.indices), right.indices)
    np.testing.assert_array_equal(arrays.to_numpy(found.distances), right.distances)


# The device bounds distances on tensor cores from 512 points on, in blocks of 128 at most.
@pytest.mark.parametrize("n", [511, 512, 513, 640, 641, 769])
def test_knn_graph_of_whole_and_partial_blocks(library, n):
    rng = np.random.default_rng(n)
    same_neighbours(library, sf.knn_graph, rng.standard_normal((n, 5)).astype(np.float32), 7)


@pytest.mark.parametrize(("n", "k"), [(520, 1), (520, 33), (520, 65), (520, 66), (800, 100)])
def test_knn_graph_of_few_and_many_neighbours(library, n, k):
    same_neighbours(library, sf.knn_graph, np.random.default_rng(k).standard_normal((n, 9)), k, "euclidean")


@pytest.mark.parametrize("metric", METRICS)
def test_knn_graph_in_segments_of_many_blocks(library, metric):
    """Segments of one block and of several, the points of each in an order that tells of their distances."""
    ptr = np.array([0, 0, 15, 640, 651, 1170])
    x = np.random.default_rng(0).standard_normal((1170, 70)).astype(np.float32)
    same_neighbours(library, sf.knn_graph, x[np.argsort(x[:, 0])], 10, metric, ptr)


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
def test_knn_of_points_that_bounds_do_not_tell_apart(library, kind, dtype, metric):
    x = UNDECIDED[kind](np.random.default_rng(1).standard_normal((600, 3)).astype(dtype))
    same_neighbours(library, sf.knn_graph, x, 5, metric)


@pytest.mark.parametrize(("n_queries", "n_base", "k"), [(1, 700, 3), (130, 513, 40), (700, 530, 5)])
@pytest.mark.parametrize("metric", METRICS)
def test_knn_search_in_many_blocks(library, n_queries, n_base, k, metric):
    rng = np.random.default_rng(0)
    queries, base = rng.standard_normal((n_queries, 6)), rng.standard_normal((n_base, 6))
    base[3], queries[0] = 0, base[5]
    same_neighbours(library, sf.knn_search, queries, base, k, metric)


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
    stand_in.knn_graph("float64", x.ctypes.data, n, d, k, "sqeuclidean", ptr.ctypes.data, 1, n, *addresses, 0)
    left = work[size - 256 * math.ceil(n / 256) :][:n].astype(bool)
    assert left.all() if kind == "all equal" else left.any() == (kind != "gaussian")
    np.testing.assert_array_equal(indices, sf.knn_graph(x, k).indices)


@pytest.mark.parametrize("metric", METRICS)
def test_knn_search_in_the_first_of_its_queries(library, metric):
    x = np.random.default_rng(0).standard_normal((40, 7))
    right, there = sf.knn_search(x, x[:9], 3, metric), on(library, x)
    found = sf.knn_search(there, there[:9], 3, metric)
    np.testing.assert_array_equal(arrays.to_numpy(found.indices), right.indices)
    np.testing.assert_array_equal(arrays.to_numpy(found.distances), right.distances)


def assert_affinities_agree(library, graph, y, gamma=0.9, tol=1e-6):
    """Within both bounds, which are as good as was asked for; returns what was found."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.ConvergenceWarning)
        right = sf.propagate_affinity(graph, y, gamma, tol)
        found = sf.propagate_affinity(on(library, graph), on(library, y), gamma, tol)
    bound = right.error_bound + found.error_bound
    assert arrays.dtype_name(found.values) == arrays.dtype_name(right.values)
    assert found.error_bound < 2 * tol
    np.testing.assert_allclose(arrays.to_numpy(found.values), right.values, rtol=0, atol=bound)
    np.testing.assert_allclose(arrays.to_numpy(found.class_mass), right.class_mass, rtol=0, atol=bound)
    np.testing.assert_array_equal(arrays.to_numpy(found.classes), right.classes)
    assert arrays.device(found.classes) == arrays.device(on(library, y))
    return found


@FEW
@given(st.data())
def test_propagate_affinity(library, data):
    """Of every type, with weights, in segments and components, popular points and points that no edge leads to."""
    graph = data.draw(graphs(with_weights=True))
    assert_affinities_agree(library, graph, data.draw(labels(graph.n)))


LARGE = {
    "float32": (np.float32, 1300, 10, 0.99, 1e-6),
    "float32 that needs float64": (np.float32, 1300, 10, 0.999, 3e-7),
    "float64": (np.float64, 1100, 10, 0.99, 1e-9),
}


def large_component(case, weighted):
    """A component that is large enough to have its slow modes taken out, beside a small one."""
    dtype, n, k, gamma, tol = LARGE[case]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 3)).astype(dtype)
    graph = sf.knn_graph(x, k, ptr=np.array([0, 30, n]))
    if weighted:
        graph = dataclasses.replace(graph, weights=rng.random((n, k)).astype(dtype))
    y = rng.integers(0, 3, n)
    y[:60] = -1
    return graph, y, gamma, tol


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", LARGE)
def test_propagate_affinity_without_slow_modes(library, case, weighted):
    *operands, gamma, tol = large_component(case, weighted)
    found = assert_affinities_agree(library, *operands, gamma, tol)
    assert found.error_bound <= tol
    assert found.iterations < 0.2 * math.log(tol) / math.log(gamma)  # what it takes without modes


@pytest.mark.parametrize("has_modes", [True, False])
@pytest.mark.parametrize("case", LARGE)
def test_propagate_affinity_in_global_memory(stand_in, case, has_modes):
    """Panels do not fit into shared memory; the coefficients of modes do or do not."""
    *operands, gamma, tol = large_component(case, weighted=False)
    with installed(stand_in), shared_memory(stand_in, 10_500 if has_modes else 9_000):
        found = assert_affinities_agree("stand-in", *operands, gamma, tol)
    assert found.error_bound <= tol
    assert not has_modes or found.iterations < 0.2 * math.log(tol) / math.log(gamma)


@FEW
@given(st.data())
def test_propagate_labels(library, data):
    graph = data.draw(graphs(with_weights=True))
    y = data.draw(labels(graph.n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.ConvergenceWarning)
        right = sf.propagate_labels(graph, y, 0.9, 1e-6)
        found = sf.propagate_labels(on(library, graph), on(library, y), 0.9, 1e-6)
    assert arrays.dtype_name(found.posteriors) == arrays.dtype_name(right.posteriors)
    np.testing.assert_allclose(
        arrays.to_numpy(found.posteriors), right.posteriors, rtol=0, atol=right.error_bound + found.error_bound
    )
    assert (found.error_bound <= 1e-6) == (right.error_bound <= 1e-6)
    np.testing.assert_array_equal(arrays.to_numpy(found.classes), right.classes)
    assert arrays.device(found.posteriors) == arrays.device(on(library, y))


def test_propagation_warns_where_rounding_allows_no_better(library):
    graph = KnnGraph(np.array([[1, 2], [0, 2], [0, 1], [2, 1]]), np.zeros((4, 2), np.float32))
    for propagate in (sf.propagate_affinity, sf.propagate_labels):
        with pytest.warns(sf.ConvergenceWarning, match="not to tol = 1e-12"):
            propagate(*on(library, (graph, np.array([0, 1, -1, -1]))), tol=1e-12)


def test_propagation_reports_progress_and_stops(library):
    x = np.random.default_rng(0).standard_normal((1100, 3)).astype(np.float32)
    graph, y = sf.knn_graph(x, 4), np.zeros(1100, np.int64)
    shares = []
    sf.propagate_affinity(*on(library, (graph, y)), progress=shares.append)
    assert shares and shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1

    def interrupt(share):
        raise KeyboardInterrupt

    for propagate in (sf.propagate_affinity, sf.propagate_labels):
        with pytest.raises(KeyboardInterrupt):
            propagate(*on(library, (graph, y)), progress=interrupt)


@FEW
@given(st.data())
def test_mine_triplets(library, data):
    graph = data.draw(graphs())
    rng = np.random.default_rng(data.draw(seeds))
    values = rng.integers(0, 3, (graph.n, graph.k)).astype(
        np.float64 if graph.distances is None else graph.distances.dtype
    )
    affinity = EdgeAffinity(values, None, None, 0, 0.0)
    anchors = rng.integers(0, graph.n, 7) if graph.n and data.draw(st.booleans()) else None
    right = sf.mine_triplets(graph, affinity, anchors)
    found = sf.mine_triplets(*on(library, (graph, affinity, anchors)))
    np.testing.assert_array_equal(arrays.to_numpy(found), right)


@FEW
@given(dtypes, st.booleans(), st.booleans(), seeds)
def test_mine_class_triplets(library, dtype, balanced, hard, seed):
    rng = np.random.default_rng(seed)
    posteriors = rng.dirichlet(np.full(4, 0.3), rng.integers(0, 60)).astype(dtype)
    z = rng.standard_normal((len(posteriors), 3)).astype(dtype) if hard else None
    case = (posteriors, 50, 0.4, seed, balanced, z)
    np.testing.assert_array_equal(
        arrays.to_numpy(sf.mine_class_triplets(*on(library, case))), sf.mine_class_triplets(*case)
    )


@FEW
@given(losses(scales=(1.0, 1e-3, 30.0)), st.sampled_from(("sum", "mean")), st.booleans())
def test_angular_loss(library, case, reduction, weighted):
    z, triplets, L = case
    weight = np.linspace(0.5, 2, len(triplets)).astype(z.dtype) if weighted else None
    case = (z, triplets, L, 40.0, reduction, weight)
    right, found = sf.angular_loss_and_grad(*case), sf.angular_loss_and_grad(*on(library, case))
    for ours, cpus in zip(found, right, strict=True):
        close(ours, np.asarray(cpus), 10 * precision(z.dtype))
    each = sf.angular_loss(*on(library, (z, triplets, L, 40.0, "none", weight)))
    close(each, sf.angular_loss(z, triplets, L, 40.0, "none", weight), 10 * precision(z.dtype))


@settings(max_examples=8)
@given(losses(max_n=40, max_d=40, max_t=400, scales=(1.0, 1e-3)), st.booleans())
def test_angular_loss_of_many_triplets(library, case, weighted):
    """So many that the device sorts them."""
    z, triplets, L = case
    triplets = np.concatenate([triplets] * (1 + 1024 // max(len(triplets), 1)))
    weight = np.linspace(0.5, 2, len(triplets)).astype(z.dtype) if weighted else None
    case = (z, triplets, L, 45.0, "mean", weight)
    for ours, cpus in zip(sf.angular_loss_and_grad(*on(library, case)), sf.angular_loss_and_grad(*case), strict=True):
        close(ours, np.asarray(cpus), 10 * precision(z.dtype))


@FEW
@given(stiefel_points(), st.sampled_from((0.0, -0.3, 2.0)))
def test_cayley_update(library, case, step):
    L, grad = case
    close(sf.cayley_update(*on(library, (L, grad, step))), sf.cayley_update(L, grad, step), 20 * precision(L.dtype))


@FEW
@given(stiefel_points(batched=False), st.sampled_from((30.0, 1e3)))
def test_cayley_update_polishes_long_steps(library, case, step):
    """They amplify rounding, but end on the manifold."""
    L, grad = case
    updated = arrays.to_numpy(sf.cayley_update(*on(library, (L, grad, step))))
    np.testing.assert_allclose(updated.T @ updated, np.eye(L.shape[1]), atol=precision(L.dtype))
    if L.dtype == np.float64:
        np.testing.assert_allclose(updated, sf.cayley_update(L, grad, step), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "l"), [(128, 64), (1024, 128), (300, 260)])
@pytest.mark.parametrize("step", [0.1, 10.0])  # the latter is polished
@gpu
def test_cayley_update_of_large_matrices(d, l, dtype, step):
    L, grad = orthonormal(d, l, dtype=dtype), gaussian(d, l, dtype=dtype)
    updated = sf.cayley_update(L, grad, step)
    close(updated, sf.cayley_update(L.cpu(), grad.cpu(), step), 20 * precision(dtype))
    assert (updated.mT @ updated - torch.eye(l, device=DEVICE)).abs().max() < precision(dtype)


@gpu
def test_cayley_update_does_not_drift():
    L = orthonormal(128, 64)
    for step in range(1000):
        L = sf.cayley_update(L, gaussian(128, 64, seed=step % 7), 0.01)
    assert (L.mT @ L - torch.eye(64, device=DEVICE)).abs().max() < 1e-5


@FEW
@given(losses(scales=(1.0, 1e-3)), st.sampled_from(("sum", "mean")), st.booleans())
def test_riemannian_cg(library, case, reduction, weighted):
    """In float64: rounding grows from step to step, and may decide whether a step is accepted."""
    z, triplets, L = case[0].astype(np.float64), case[1], np.linalg.qr(case[2].astype(np.float64))[0]
    weight = np.linspace(0.5, 2, len(triplets)) if weighted else None
    case = (L, z, triplets, 40.0, 4, reduction, weight)
    right, found = sf.riemannian_cg(*case), sf.riemannian_cg(*on(library, case))
    assert (found.iterations, found.evaluations) == (right.iterations, right.evaluations)
    close(found.L, right.L, 1e-8)
    assert found.loss == pytest.approx(right.loss, rel=1e-9)
    assert found.grad_norm == pytest.approx(right.grad_norm, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_riemannian_cg_descends(library, dtype):
    rng = np.random.default_rng(0)
    z, L = rng.standard_normal((60, 16)).astype(dtype), np.linalg.qr(rng.standard_normal((16, 6)))[0].astype(dtype)
    triplets = rng.integers(0, 60, (100, 3))
    none, few, many = (sf.riemannian_cg(*on(library, (L, z, triplets)), iterations=i) for i in (0, 5, 40))
    assert none.loss > few.loss > many.loss and none.iterations == 0
    reached = arrays.to_numpy(many.L)
    assert many.loss == pytest.approx(sf.angular_loss(z, triplets, reached).item(), rel=10 * precision(dtype))
    np.testing.assert_allclose(reached.T @ reached, np.eye(6), atol=precision(dtype))
    np.testing.assert_array_equal(arrays.to_numpy(none.L), L)


@gpu
@pytest.mark.parametrize(("n", "d", "l", "count"), [(300, 128, 64, 100), (3000, 512, 128, 10_000)])
def test_riemannian_cg_of_the_papers_sizes(n, d, l, count):
    z = torch.nn.functional.normalize(gaussian(n, d, dtype=torch.float64))
    L, triplets = orthonormal(d, l, dtype=torch.float64), torch.randint(n, (count, 3), device=DEVICE)
    right = sf.riemannian_cg(L.cpu(), z.cpu(), triplets.cpu(), iterations=10)
    found = sf.riemannian_cg(L, z, triplets, iterations=10)
    assert (found.iterations, found.evaluations) == (right.iterations, right.evaluations)
    close(found.L, right.L, 1e-6)


# --- values stay where they are ---------------------------------------------------------------------------------------


def small_calls(library):
    """One call of every operation on 60 points in `library`."""
    rng = np.random.default_rng(0)
    x, y, posteriors = rng.standard_normal((60, 5)), rng.integers(-1, 3, 60), rng.dirichlet((1, 1, 1), 60)
    L, triplets = np.linalg.qr(rng.standard_normal((5, 2)))[0], rng.integers(0, 60, (40, 3))
    graph = sf.knn_graph(x, 4)
    affinity = EdgeAffinity(rng.random((60, 4)), None, None, 0, 0.0)
    x, y, posteriors, L, triplets, graph, affinity = on(library, (x, y, posteriors, L, triplets, graph, affinity))
    indices = graph.indices
    return {
        "knn_graph": lambda: sf.knn_graph(x, 4).indices,
        "knn_search": lambda: sf.knn_search(x[:9], x, 4).indices,
        "KnnGraph": lambda: KnnGraph(indices).indices,
        "propagate_affinity": lambda: sf.propagate_affinity(graph, y, gamma=0.5).values,
        "propagate_labels": lambda: sf.propagate_labels(graph, y, gamma=0.5).posteriors,
        "mine_triplets": lambda: sf.mine_triplets(graph, affinity),
        "mine_class_triplets": lambda: sf.mine_class_triplets(posteriors, 50, z=x),
        "angular_loss": lambda: sf.angular_loss(x, triplets, L),
        "cayley_update": lambda: sf.cayley_update(L, L, 0.1),
        "riemannian_cg": lambda: sf.riemannian_cg(L, x, triplets, iterations=2).L,
    }


NEEDS_THE_HOST = ("KnnGraph", "propagate_affinity", "propagate_labels", "mine_class_triplets")


@pytest.mark.parametrize("name", ["KnnGraph", *OPERATIONS])
def test_brings_no_array_of_points_to_the_host(library, name, monkeypatch):
    call = small_calls(library)[name]
    to_numpy = arrays.to_numpy

    def of_few(x):
        assert len(x) < 9
        return to_numpy(x)

    monkeypatch.setattr(arrays, "to_numpy", of_few)
    call()


@pytest.mark.parametrize("name", ["KnnGraph", *OPERATIONS])
def test_looks_at_no_value_while_recording_or_refuses(library, name, monkeypatch):
    call = small_calls(library)[name]
    right = call()

    def look(x):
        raise AssertionError("a value was looked at")

    monkeypatch.setattr(arrays, "is_capturing", arrays.is_cuda)
    monkeypatch.setattr(arrays, "_extremes", look)
    monkeypatch.setattr(arrays, "to_numpy", look)
    if name in NEEDS_THE_HOST:
        with pytest.raises(RuntimeError, match="cannot be recorded in a CUDA graph"):
            call()
    else:
        assert (call() == right).all()


@pytest.mark.parametrize("ptr", [[0, 5], [0, 0, 2, 5], [0, 5, 5]])
@pytest.mark.parametrize("wrong", [None, -1, 5, 1, 3])
def test_graphs_are_validated_as_on_the_cpu(library, ptr, wrong):
    indices = np.array([[1], [0], [3], [4], [2]])
    if wrong is not None:
        indices[1] = wrong

    def outcome(case):
        try:
            return arrays.to_numpy(KnnGraph(*case[:1], ptr=case[1]).indices).tolist()
        except ValueError as error:
            return str(error)

    case = (indices, np.array(ptr))
    assert outcome(on(library, case)) == outcome(case)
    twice = np.array([[1, 2], [2, 2], [0, 1]])
    with pytest.raises(ValueError, match="must not repeat a neighbour"):
        KnnGraph(on(library, twice))


# --- streams ----------------------------------------------------------------------------------------------------------


def spoil_free_memory():
    """Leave NaNs where the allocator's next blocks come from, so that an answer that was not written shows."""
    for size in (2**10, 2**16, 2**20, 2**22):
        torch.full((size,), math.nan, device=DEVICE)


def assert_equal(found, right):
    for ours, expected in zip(found, right, strict=True):
        assert torch.equal(ours, expected)


@gpu
@pytest.mark.parametrize("name", OPERATIONS)
def test_runs_on_the_current_stream(operations, name):
    """What follows on the stream finds the answer there, without any wait."""
    right = [tensor.clone() for tensor in operations[name]()]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        spoil_free_memory()
        found = [tensor.clone() for tensor in operations[name]()]
    stream.synchronize()
    assert_equal(found, right)


@gpu
@pytest.mark.parametrize("name", OPERATIONS)
def test_waits_for_no_other_stream(operations, name):
    """While another stream is busy for most of a second, the operation is called and done."""
    stream, busy = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        operations[name]()  # the allocator has the memory from here on
    torch.cuda.synchronize()
    with torch.cuda.stream(busy):
        torch.cuda._sleep(1_000_000_000)  # cycles
        over = busy.record_event()
    with torch.cuda.stream(stream):
        operations[name]()
    stream.synchronize()
    assert not over.query()
    over.synchronize()


@gpu
def test_streams_run_side_by_side():
    """Calls on several streams share no state."""
    inputs = [gaussian(2000, 24, seed=seed) for seed in range(4)]
    right = [sf.knn_graph(x, 7).indices for x in inputs]
    updates = [(orthonormal(40, 20, seed=seed), gaussian(40, 20, seed=seed + 9)) for seed in range(4)]
    updated = [sf.cayley_update(*pair, 0.1) for pair in updates]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in inputs]
    found = []
    for _ in range(3):
        for stream, x, pair in zip(streams, inputs, updates, strict=True):
            with torch.cuda.stream(stream):
                found.append((sf.knn_graph(x, 7).indices, sf.cayley_update(*pair, 0.1)))
    torch.cuda.synchronize()
    for number, pair in enumerate(found):
        assert_equal(pair, (right[number % 4], updated[number % 4]))


@gpu
def test_threads_run_side_by_side(operations):
    """Each on a stream of its own, some of them with the same kernels on graphs of other sizes."""
    small = partition(300, 8, 5)[1:3]

    def affinity():
        return (sf.propagate_affinity(*small, gamma=0.5, tol=1e-4).values,)

    work = [affinity, *(operations[name] for name in ("propagate_affinity", "knn_graph", "riemannian_cg"))]
    right = [[tensor.clone() for tensor in call()] for call in work]
    torch.cuda.synchronize()

    def repeat(call):
        with torch.cuda.stream(torch.cuda.Stream()):
            found = [[tensor.clone() for tensor in call()] for _ in range(10)]
            torch.cuda.current_stream().synchronize()
        return found

    with ThreadPoolExecutor(len(work)) as pool:
        for found, expected in zip(pool.map(repeat, work), right, strict=True):
            for each in found:
                assert_equal(each, expected)


@gpu
def test_backward_waits_for_nothing():
    z, triplets, L = gaussian(500, 32).requires_grad_(), torch.randint(500, (900, 3), device=DEVICE), orthonormal(32, 8)
    loss = sf.angular_loss(z, triplets, L)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert z.grad.isfinite().all()


@gpu
def test_cupy_streams():
    cupy = working_cupy()
    x = cupy.asarray(gaussian(2000, 24).cpu().numpy())
    right = sf.knn_graph(x, 7).indices
    with cupy.cuda.Stream(non_blocking=True) as stream:
        found = sf.knn_graph(x, 7).indices.copy()
        stream.synchronize()
    assert (found == right).all()


# --- CUDA graphs ------------------------------------------------------------------------------------------------------


def loss_of(z, L, triplets):
    return (sf.angular_loss(z, triplets, L, reduction="mean"),)


def loss_and_gradients(z, L, triplets):
    z, L = z.detach().requires_grad_(), L.detach().requires_grad_()
    loss = sf.angular_loss(z, triplets, L)
    return loss.detach(), *torch.autograd.grad(loss, (z, L))


def descend(L, grad):
    return (sf.cayley_update(L, grad, 0.1),)


def mine(indices, distances, values, anchors):
    graph = KnnGraph(indices, distances, _validated=True)
    return (sf.mine_triplets(graph, EdgeAffinity(values, None, None, 0, 0.0), anchors),)


def neighbours(x):
    graph = sf.knn_graph(x, 5)
    return graph.indices, graph.distances, *sf.knn_search(x[:40], x, 3, "cosine")


def minimise(L, z, triplets):
    result = sf.riemannian_cg(L, z, triplets, iterations=3, reduction="mean")
    if not torch.cuda.is_current_stream_capturing():  # the numbers are on the device while recording only
        return result.L, *(torch.tensor(float(number), device=DEVICE, dtype=torch.float64) for number in result[1:])
    return result


def inputs_of(function, seed):
    generator = torch.Generator().manual_seed(seed)
    if function is neighbours:
        return (gaussian(300, 8, seed=seed),)
    if function is minimise:
        triplets = torch.randint(300, (100, 3), generator=generator).to(DEVICE)
        return orthonormal(32, 16, seed=seed), gaussian(300, 32, seed=seed), triplets
    if function is descend:
        return orthonormal(128, 64, seed=seed), gaussian(128, 64, seed=seed)
    if function is mine:
        graph = sf.knn_graph(gaussian(900, 8, seed=seed), 10)
        anchors = torch.randint(900, (400,), generator=generator).to(DEVICE)
        return graph.indices, graph.distances, gaussian(900, 10, seed=seed), anchors
    return (
        gaussian(300, 32, seed=seed),
        orthonormal(32, 16, seed=seed),
        torch.randint(300, (1500, 3), generator=generator).to(DEVICE),  # so many that they are sorted
    )


@gpu
@pytest.mark.parametrize("function", [loss_of, loss_and_gradients, descend, mine, neighbours, minimise])
def test_cuda_graphs(function):
    """Captured once, replayed on other inputs; a capture also proves that nothing in it waits."""
    inputs = [tensor.clone() for tensor in inputs_of(function, 0)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # torch wants to be warm before a capture
        for _ in range(3):
            function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(*inputs)
    for seed in (1, 2):
        fresh = inputs_of(function, seed)
        for static, tensor in zip(inputs, fresh, strict=True):
            static.copy_(tensor)
        graph.replay()
        torch.cuda.synchronize()
        assert_equal(outputs, function(*fresh))


@gpu
@pytest.mark.parametrize("name", NEEDS_THE_HOST)
def test_a_refusal_does_not_spoil_the_recording(name):
    call, x = small_calls("torch")[name], gaussian(50)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        with pytest.raises(RuntimeError, match="cannot be recorded in a CUDA graph"):
            call()
        twice = 2 * x
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(twice, 2 * x)


# --- memory -----------------------------------------------------------------------------------------------------------


def peak(call):
    """Bytes that a call allocates at most, beyond what was there, its result included."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@gpu
@pytest.mark.parametrize(("metric", "per_point"), [("sqeuclidean", 0), ("cosine", 8 * 64)])
def test_memory_of_knn_graph(metric, per_point):
    x = gaussian(20_000, 64)
    per_point += 12 * 10 + 2 * 64 + 8 * (3 * 10 + 128) + 17
    assert peak(lambda: sf.knn_graph(x, 10, metric)) < 20_000 * per_point + MB


@gpu
def test_memory_of_propagate_affinity():
    n, k, classes, modes = 20_000, 10, 10, 64
    _, graph, y, *_ = partition(n, 8, k)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    numbers = 15 * n + 9 * n * k + n * classes + 4 * n * modes + 33 * modes**2  # of 8 bytes at most
    used = peak(lambda: sf.propagate_affinity(graph, y, 0.5, 1e-3))
    assert used < 4 * n * (k + classes) + 8 * numbers + processors * 227 * 1024 + 4 * MB


@gpu
def test_memory_of_propagate_labels():
    n, k, classes = 20_000, 10, 10
    _, graph, y, *_ = partition(n, 8, k)
    used = peak(lambda: sf.propagate_labels(graph, y, 0.5, 1e-3))
    assert used < 4 * n * classes + 8 * (16 * n + 7 * n * k + 7 * n * classes) + 4 * MB


@gpu
def test_memory_of_angular_loss():
    """No array of triplets times coordinates, of which there would be 200 MB."""
    n, d, l, count = 5000, 256, 256, 200_000
    z, L = gaussian(n, d).requires_grad_(), orthonormal(d, l).requires_grad_()
    triplets = torch.randint(n, (count, 3), device=DEVICE)
    used = peak(lambda: torch.autograd.grad(sf.angular_loss(z, triplets, L), (z, L)))
    assert used < 4 * (6 * n * l + 4 * d * l) + 200 * count + MB


@gpu
def test_memory_of_cayley_update():
    L, grad = orthonormal(2048, 128), gaussian(2048, 128)
    assert peak(lambda: sf.cayley_update(L, grad, 0.1)) < 4 * 2048 * 128 + 8 * 8 * 128 * 128 + MB


@gpu
def test_memory_of_riemannian_cg():
    """Points that are in no triplet cost nothing."""
    z, L, triplets = gaussian(200_000, 64), orthonormal(64, 32), torch.randint(200_000, (1000, 3), device=DEVICE)
    assert peak(lambda: sf.riemannian_cg(L, z, triplets, iterations=2)) < 3000 * (2 * 4 * 32 + 100) + 2 * MB


# --- libraries and devices --------------------------------------------------------------------------------------------


@gpu
def test_results_travel_by_dlpack():
    cupy = working_cupy()
    x = gaussian(200, 5)
    ours = sf.knn_graph(x, 4)
    theirs = sf.knn_graph(cupy.from_dlpack(x), 4)
    assert isinstance(theirs.indices, cupy.ndarray)
    assert torch.equal(torch.from_dlpack(theirs.indices), ours.indices)
    assert torch.from_dlpack(theirs.distances).data_ptr() == theirs.distances.data.ptr


@gpu
@pytest.mark.parametrize("kind", [OnDevice, Foreign])
def test_arrays_of_other_libraries(kind):
    x, L, grad = gaussian(200, 5), orthonormal(5, 3), gaussian(5, 3)
    found, right = sf.knn_graph(kind(x), 4), sf.knn_graph(x, 4)
    assert torch.equal(found.indices, right.indices) and found.indices.device == x.device
    assert torch.equal(sf.cayley_update(kind(L), kind(grad), 0.1), sf.cayley_update(L, grad, 0.1))
    assert arrays.adopt(x=kind(x))[0].data_ptr() == x.data_ptr()
    assert arrays.adopt(x=kind(x[:0]))[0].shape == (0, 5)


@gpu
@pytest.mark.parametrize("producer", ["default", "other"])
def test_arrays_of_other_libraries_are_waited_for(producer):
    x, late = torch.zeros(300, 5, device=DEVICE), gaussian(300, 5)
    right = sf.knn_graph(late, 4).indices
    torch.cuda.synchronize()
    stream = torch.cuda.Stream() if producer == "other" else torch.cuda.default_stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(300_000_000)
        x.copy_(late)
    with torch.cuda.stream(torch.cuda.Stream()):
        graph = sf.knn_graph(OnDevice(x, stream=stream.cuda_stream or 1), 4)
        torch.cuda.current_stream().synchronize()
    assert torch.equal(graph.indices, right)


@gpu
def test_cupy_reads_them_beside_its_own():
    cupy = working_cupy()
    L, grad = (cupy.asarray(x.cpu().numpy()) for x in (orthonormal(5, 3), gaussian(5, 3)))
    found = sf.cayley_update(L, OnDevice(torch.from_dlpack(grad)), 0.1)
    assert isinstance(found, cupy.ndarray) and (found == sf.cayley_update(L, grad, 0.1)).all()


@gpu
def test_cupy_arrays_must_be_on_its_current_device():
    cupy = working_cupy()
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one CUDA device")
    with cupy.cuda.Device(1):
        x = cupy.eye(5)
        assert sf.knn_graph(x, 1).indices.device.id == 1
    with pytest.raises(TypeError, match=r"x must be on CuPy's current device, 0, found device 1"):
        sf.knn_graph(x, 1)
    assert cupy.cuda.runtime.getDevice() == 0


@gpu
def test_another_device_than_the_current():
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    x = gaussian(500, 8).to("cuda:1")
    graph = sf.knn_graph(x, 5)
    assert graph.indices.device == x.device and torch.cuda.current_device() == 0
    assert torch.equal(graph.indices.cpu(), sf.knn_graph(x.cpu(), 5).indices)
    L, grad = orthonormal(32, 8).to("cuda:1"), gaussian(32, 8).to("cuda:1")
    close(sf.cayley_update(L, grad, 0.1), sf.cayley_update(L.cpu(), grad.cpu(), 0.1), 1e-5)
    with pytest.raises(ValueError, match="L must have orthonormal columns"):
        sf.cayley_update(2 * L, grad, 0.1)
    with pytest.raises(
        TypeError, match=r"grad must be a torch tensor on cuda:1 like the other arguments, found a torch"
    ):
        sf.cayley_update(L, grad.to("cuda:0"), 0.1)
    assert torch.cuda.current_device() == 0


@gpu
def test_products_are_in_full_float32():
    z, L, triplets = gaussian(500, 300), orthonormal(300, 200), torch.randint(500, (900, 3), device=DEVICE)
    for found, right in zip(
        sf.angular_loss_and_grad(z, triplets, L),
        sf.angular_loss_and_grad(z.double(), triplets, L.double()),
        strict=True,
    ):
        assert (found - right).abs().max() < 2e-5 * right.abs().max()  # TF32 would be off by 1e-3


# --- torch ------------------------------------------------------------------------------------------------------------


@gpu
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_gradcheck(reduction):
    z = gaussian(9, 5, dtype=torch.float64).requires_grad_()
    L = orthonormal(5, 3, dtype=torch.float64).requires_grad_()
    triplets = torch.randint(9, (12, 3), device=DEVICE)
    assert torch.autograd.gradcheck(lambda z, L: sf.angular_loss(z, triplets, L, reduction=reduction), (z, L))


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    z, L, triplets = gaussian(100, 16), orthonormal(16, 8), torch.randint(100, (300, 3), device=DEVICE)
    with torch.autocast(DEVICE, dtype):
        loss = sf.angular_loss(z, triplets, L)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, sf.angular_loss(z, triplets, L), rtol=0.1, atol=0)


@gpu
@pytest.mark.parametrize("function", [loss_of, loss_and_gradients, descend])
def test_compiles_as_one_graph(function):
    inputs = inputs_of(function, 0)
    if function is loss_and_gradients:  # requires_grad_() is not traced
        inputs = [tensor.requires_grad_() if tensor.is_floating_point() else tensor for tensor in inputs]
        compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
        found, right = (torch.autograd.grad(loss(*inputs)[0], inputs[:2]) for loss in (compiled, loss_of))
    else:
        found, right = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs), function(*inputs)
    for ours, expected in zip(found, right, strict=True):
        torch.testing.assert_close(ours, expected)


@gpu
@pytest.mark.parametrize("name", sf.optim.__all__)
def test_optimizers_agree_with_the_cpu(name):
    start, target = orthonormal(2, 16, 4, dtype=torch.float64), gaussian(2, 16, 4, dtype=torch.float64)
    ends = []
    for device in ("cpu", DEVICE):
        L, weight = (torch.nn.Parameter(tensor.to(device)) for tensor in (start, target[0]))
        optimizer = getattr(sf.optim, name)([{"params": [L]}, {"params": [weight], "stiefel": False}])

        def closure(L=L, weight=weight, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (L * target.to(L.device)).sum() + weight.square().sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        ends.append((L.detach().cpu(), weight.detach().cpu()))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-8)


# --- errors -----------------------------------------------------------------------------------------------------------

X, EYE = np.eye(6, 4), np.eye(4, 2)
LINE = KnnGraph(np.array([[1], [0], [1]]))


def spoiled(weight):
    """A graph whose weights were changed after it was validated."""
    graph = KnnGraph(LINE.indices, weights=np.ones((3, 1)))
    graph.weights[1] = weight
    return graph


REFUSED = {
    "x": lambda of: sf.knn_graph(of(np.where(X == 1, np.nan, X)), 2),
    "x too large": lambda of: sf.knn_graph(of(X * 1e300), 2),
    "k": lambda of: sf.knn_graph(of(X), 6),
    "ptr": lambda of: sf.knn_graph(of(X), 1, ptr=of(np.array([0, 5]))),
    "base": lambda of: sf.knn_search(of(X), of(X[:, :3]), 1),
    "queries": lambda of: sf.knn_search(of(np.full((2, 4), np.inf)), of(X), 1),
    "labels": lambda of: sf.propagate_affinity(of(LINE), of(np.array([0, -2, 0]))),
    "weights": lambda of: sf.propagate_affinity(of(spoiled(-1)), of(np.array([0, -1, 0]))),
    "weights all 0": lambda of: sf.propagate_labels(of(spoiled(0)), of(np.array([0, -1, 0]))),
    "gamma": lambda of: sf.propagate_labels(of(LINE), of(np.array([0, -1, 0])), gamma=1),
    "anchors": lambda of: sf.mine_triplets(
        of(LINE), of(EdgeAffinity(np.zeros((3, 1)), None, None, 0, 0.0)), of(np.array([3]))
    ),
    "triplets": lambda of: sf.angular_loss(of(X), of(np.array([[0, 1, 6]])), of(EYE)),
    "L": lambda of: sf.cayley_update(of(2 * EYE), of(EYE), 0.1),
    "grad": lambda of: sf.cayley_update(of(EYE), of(np.full((4, 2), np.nan)), 0.1),
    "L of CG": lambda of: sf.riemannian_cg(of(2 * EYE), of(X), of(np.array([[0, 1, 2]]))),
    "z of CG": lambda of: sf.riemannian_cg(of(EYE), of(np.where(X == 1, np.inf, X)), of(np.array([[0, 1, 2]]))),
    "triplets of CG": lambda of: sf.riemannian_cg(of(EYE), of(X), of(np.array([[0, 1, 6]]))),
    "step": lambda of: sf.cayley_update(of(EYE), of(np.full((4, 2), 1e200)), 1e200),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_as_on_the_cpu(library, case):
    def refusal(convert):
        with pytest.raises((TypeError, ValueError)) as raised:
            REFUSED[case](convert)
        return raised.type, str(raised.value)

    assert refusal(lambda value: on(library, value)) == refusal(lambda value: value)


def test_refuses_points_that_are_not_finite(library):
    with pytest.raises(ValueError, match=r"z must be finite, found inf at z\[0, 0\]"):
        sf.angular_loss(*on(library, (np.full((3, 4), np.inf), np.array([[0, 1, 2]]), EYE)))


@gpu
def test_refuses_arrays_in_different_places():
    with pytest.raises(TypeError, match=r"triplets must be a torch tensor on cuda:0"):
        sf.angular_loss(gaussian(5, 4), torch.zeros(1, 3, dtype=torch.int64), orthonormal(4, 2))
    with pytest.raises(TypeError, match=r"base must be a torch tensor on cuda:0"):
        sf.knn_search(gaussian(5, 4), torch.rand(5, 4), 1)
