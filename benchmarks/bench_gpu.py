"""Every operation on one CUDA device, beside what a user would write in torch: full float32, never TF32.

Times are those between two events, one before a call and one after what it has queued. Sizes that only show growth have
no peer.
"""

from __future__ import annotations

import functools

import bench_angular_loss as angular
import bench_riemannian_cg as riemannian_cg
import bench_stiefel as stiefel
import numpy as np
import pytest
import torch
from inputs import full_only, labels, points

import ssdml_fast as sf

_clock: list[torch.cuda.Event] = []
_seconds = 0.0


def device_clock() -> float:
    """Seconds on the device, by events: when it has done what the current stream was given."""
    global _seconds
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    event.synchronize()
    if _clock:
        _seconds += _clock.pop().elapsed_time(event) / 1000
    _clock.append(event)
    return _seconds


pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.benchmark(timer=device_clock),
]

DEVICE = "cuda"
K, GAMMA, TOL = 10, 0.99, 1e-6
N_CHECKED = 300  # rows, against float64


def in_float32():
    """Keep torch's matrix products in full float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


@functools.cache
def on_device(kind, n, d):
    return torch.from_numpy(points(kind, n, d)).to(DEVICE)


@functools.cache
def labels_on_device(n):
    return torch.from_numpy(labels(n)).to(DEVICE)


# ---- kNN graph -------------------------------------------------------------------------------------------------------

GRAPHS = {f"knn clustered {n}x128 k10": n for n in (10_000, 30_000, 100_000, 300_000)}


def our_graph(x):
    graph = sf.knn_graph(x, K)
    return graph.indices, graph.distances


def matmul_topk(x, chunk=4096):
    """Squared distances from a product, a chunk of rows at a time, and torch's selection."""
    squares = x.square().sum(1)
    indices = torch.empty((len(x), K), dtype=torch.int64, device=x.device)
    distances = torch.empty((len(x), K), device=x.device)
    for low in range(0, len(x), chunk):
        rows = x[low : low + chunk]
        between = torch.addmm(squares, rows, x.T, alpha=-2).add_(squares[low : low + chunk, None])
        between[torch.arange(len(rows)), torch.arange(low, low + len(rows))] = torch.inf
        distances[low : low + chunk], indices[low : low + chunk] = between.topk(K, largest=False)
    return indices, distances


def check_neighbours(x, indices):
    """Distances of the neighbours found are those of the nearest, up to float32's rounding of a product."""
    rows = torch.from_numpy(np.random.default_rng(7).choice(len(x), N_CHECKED, replace=False)).to(DEVICE)
    exact = x.double()
    between = torch.cdist(exact[rows], exact, compute_mode="donot_use_mm_for_euclid_dist").square_()
    between[torch.arange(N_CHECKED), rows] = torch.inf
    right = between.topk(K, largest=False).values
    found = between.gather(1, indices[rows]).sort(1).values
    torch.testing.assert_close(found, right, rtol=0, atol=2e-6)  # squared distances of unit vectors


GRAPH_METHODS = {"ssdml_fast": our_graph, "torch matmul + topk": matmul_topk}


@pytest.mark.parametrize("method", GRAPH_METHODS)
@pytest.mark.parametrize("shape", GRAPHS)
@torch.no_grad()
def test_knn_graph(race, shape, method):
    in_float32()
    x = on_device("clustered", GRAPHS[shape], 128)
    targets = {"torch matmul + topk": 3} if GRAPHS[shape] == 100_000 else {}
    race(lambda: GRAPH_METHODS[method](x), lambda answer: check_neighbours(x, answer[0]), targets)


# ---- affinity and a whole partition ----------------------------------------------------------------------------------


def sizes(operation):
    """Numbers of points; the larger take up to minutes."""
    shapes = [(f"{operation} {n}x128 k10", n, "ssdml_fast") for n in (9_100, 10_000, 30_000, 100_000, 300_000)]
    return [*shapes[:3], *full_only(shapes[3:])]


@functools.cache
def graph_on_device(n):
    return sf.knn_graph(on_device("clustered", n, 128), K)


@pytest.mark.parametrize(("shape", "n", "method"), sizes("affinity"))
def test_propagate_affinity(race, shape, n, method):
    graph, y = graph_on_device(n), labels_on_device(n)

    def check(affinity):
        assert affinity.error_bound <= TOL
        assert affinity.class_mass.sum(1).max() <= 1 + TOL * affinity.class_mass.shape[1]

    race(lambda: sf.propagate_affinity(graph, y, GAMMA, TOL), check)


def torch_cg(graph, y, classes=10):
    """The system of the posteriors, all classes at once, by conjugate gradients on a sparse tensor of torch."""
    n, k = graph.indices.shape
    rows = torch.arange(n, device=DEVICE).repeat_interleave(k)
    columns, share = graph.indices.ravel(), torch.full((n * k,), 1 / k, dtype=torch.float64, device=DEVICE)
    pairs = torch.stack([torch.cat([rows, columns]), torch.cat([columns, rows])])
    weights = torch.sparse_coo_tensor(pairs, torch.cat([share, share]), (n, n)).coalesce().to_sparse_csr()
    root = (weights @ torch.ones(n, 1, dtype=torch.float64, device=DEVICE)).sqrt()

    def matrix(x):
        return x - GAMMA / root * (weights @ (x / root))

    def call():
        residual = root * (y[:, None] == torch.arange(classes, device=DEVICE))
        x, direction, square = torch.zeros_like(residual), residual, residual.square().sum(0)
        for _ in range(400):
            product = matrix(direction)
            length = square / (direction * product).sum(0)
            x, residual = x + length * direction, residual - length * product
            square, before = residual.square().sum(0), square
            if square.max() < 1e-16:
                break
            direction = residual + square / before * direction
        mass = x / root
        mass = mass / mass.sum(0)
        return mass / mass.sum(1, keepdim=True)

    return call


POSTERIORS = {
    "ssdml_fast": lambda graph, y: lambda: sf.propagate_labels(graph, y, GAMMA, TOL).posteriors,
    "torch sparse CG": torch_cg,
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("method", POSTERIORS)
@pytest.mark.parametrize("shape", ["posteriors 9100x128 k10", *full_only(["posteriors 100000x128 k10"])])
def test_propagate_labels(race, shape, method):
    n = int(shape.split()[1].partition("x")[0])
    graph, y = graph_on_device(n), labels_on_device(n)
    expected = POSTERIORS["ssdml_fast"](graph, y)().double()

    def check(posteriors):
        torch.testing.assert_close(posteriors.double(), expected, rtol=0, atol=2 * TOL)

    race(POSTERIORS[method](graph, y), check)


@pytest.mark.parametrize(("shape", "n", "method"), sizes("partition"))
def test_partition(race, shape, n, method):
    """Graph, affinities and triplets of a partition, from its embedding."""
    x, y = on_device("clustered", n, 128), labels_on_device(n)

    def call():
        graph = sf.knn_graph(x, K)
        return sf.mine_triplets(graph, sf.propagate_affinity(graph, y, GAMMA, TOL))

    def check(triplets):
        assert triplets.shape == (n * (K // 2), 3)
        assert torch.equal(triplets[:: K // 2, 0], torch.arange(n, device=DEVICE))

    race(call, check)


# ---- angular loss ----------------------------------------------------------------------------------------------------

LOSSES = {f"loss {shape}": shape for shape, (n, *_) in angular.SHAPES.items() if n > 300}
LOSS_METHODS = ("ssdml_fast", "torch index_select", "torch.compile")


@functools.cache
def loss_operands(shape):
    return [tensor.to(DEVICE) for tensor in angular.operands(shape)]


@functools.cache
def expected_loss(shape):
    z, triplets, L = loss_operands(shape)
    return angular.forward_backward(angular.loss_by_index_select, z.double(), triplets, L.double())()


@pytest.mark.parametrize("method", LOSS_METHODS)
@pytest.mark.parametrize("shape", LOSSES)
def test_angular_loss(race, shape, method):
    in_float32()

    def check(answer):
        for found, right in zip(answer, expected_loss(LOSSES[shape]), strict=True):
            torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5 * right.abs().max().item())

    call = angular.forward_backward(angular.METHODS[method](), *loss_operands(LOSSES[shape]))
    call()  # torch.compile compiles here
    race(call, check, {"torch.compile": 2})


# ---- Cayley update ---------------------------------------------------------------------------------------------------

UPDATES = {f"cayley {shape}": shape for shape, (d, *_) in stiefel.SHAPES.items() if d > 128}


def low_rank(L, grad):
    u, v = torch.cat((grad, L), 1), torch.cat((L, -grad), 1)
    core = torch.eye(u.shape[1], device=L.device) + stiefel.STEP / 2 * (v.T @ u)
    return torch.addmm(L, u, torch.linalg.solve_ex(core, v.T @ L)[0], alpha=-stiefel.STEP)  # solve() waits for a check


def compiled_low_rank():
    torch._dynamo.reset()
    return torch.compile(low_rank, dynamic=False)


UPDATE_METHODS = {
    "ssdml_fast": lambda: lambda L, grad: sf.cayley_update(L, grad, stiefel.STEP),
    "torch low-rank": lambda: low_rank,
    "torch.compile": compiled_low_rank,
}


@pytest.mark.parametrize("method", UPDATE_METHODS)
@pytest.mark.parametrize("shape", UPDATES)
@torch.no_grad()
def test_cayley_update(race, shape, method):
    in_float32()
    L, grad = (tensor.to(DEVICE) for tensor in stiefel.operands(UPDATES[shape]))
    update = UPDATE_METHODS[method]()
    update(L, grad)  # torch.compile compiles here

    def check(updated):
        np.testing.assert_allclose(updated.cpu().numpy(), stiefel.expected(UPDATES[shape]), rtol=0, atol=1e-6)

    race(lambda: update(L, grad), check, {"torch.compile": 2})


# ---- Riemannian conjugate gradients ----------------------------------------------------------------------------------


def composed_cg(L, z, triplets):
    """The same method in torch operations, for any objective."""
    point = torch.nn.Parameter(L.clone())
    optimizer = sf.optim.RiemannianCG([point], max_iter=riemannian_cg.STEPS)

    def closure():
        optimizer.zero_grad()
        loss = sf.angular_loss(z, triplets, point)
        loss.backward()
        return loss

    optimizer.step(closure)
    return point.detach()


CG_METHODS = {
    "ssdml_fast": lambda *operands: sf.riemannian_cg(*operands, iterations=riemannian_cg.STEPS).L,
    "sf.optim.RiemannianCG": composed_cg,
}


@pytest.mark.parametrize("method", CG_METHODS)
@pytest.mark.parametrize("shape", ["riemannian cg 128x64 T100"])
def test_riemannian_cg(race, shape, method):
    in_float32()
    operands = riemannian_cg.mini_batch("float32")

    def check(found):
        expected = sf.reference.riemannian_cg(
            *(x.astype(float) for x in operands[:2]), operands[2], iterations=riemannian_cg.STEPS
        )
        np.testing.assert_allclose(found.cpu().numpy(), expected.L, rtol=0, atol=1e-4)

    on_device = [torch.from_numpy(x).to(DEVICE) for x in operands]
    race(lambda: CG_METHODS[method](*on_device), check)
