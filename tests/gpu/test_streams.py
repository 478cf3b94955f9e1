"""CUDA streams: every operation runs on the caller's, waits for no other, and calls on several share nothing."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from on_device import DEVICE, OPERATIONS, assert_equal, gaussian, gpu, orthonormal, partition, working_cupy

import ssdml_fast as sf


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


@pytest.fixture(scope="module")
def operations():
    made = calls()
    assert tuple(made) == OPERATIONS
    return made


# --- on the current stream --------------------------------------------------------------------------------------------


def spoil_free_memory():
    """Leave NaNs where the allocator's next blocks come from, so that an answer that was not written shows."""
    for size in (2**10, 2**16, 2**20, 2**22):
        torch.full((size,), math.nan, device=DEVICE)


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


# --- side by side -----------------------------------------------------------------------------------------------------


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
