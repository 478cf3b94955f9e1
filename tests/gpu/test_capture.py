"""Values stay on the device, so that calls can be recorded in CUDA graphs and compiled; what cannot be says so."""

import numpy as np
import pytest
import torch
from on_device import DEVICE, OPERATIONS, assert_equal, gaussian, gpu, on, orthonormal
from stand_in import replace_arrays
from strategies import random_stiefel

import ssdml_fast as sf
from ssdml_fast import EdgeAffinity, KnnGraph
from ssdml_fast import _arrays as arrays

# --- values stay where they are ---------------------------------------------------------------------------------------


def small_calls(library):
    """One call of every operation on 60 points in `library`."""
    rng = np.random.default_rng(0)
    x, y, posteriors = rng.standard_normal((60, 5)), rng.integers(-1, 3, 60), rng.dirichlet((1, 1, 1), 60)
    L, triplets = random_stiefel((5, 2), rng), rng.integers(0, 60, (40, 3))
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
def test_brings_no_array_of_points_to_the_host(device_library, name, monkeypatch):
    call = small_calls(device_library)[name]
    to_numpy = arrays.to_numpy

    def of_few(x):
        assert len(x) < 9
        return to_numpy(x)

    replace_arrays(monkeypatch, "to_numpy", of_few)
    call()


@pytest.mark.parametrize("name", ["KnnGraph", *OPERATIONS])
def test_looks_at_no_value_while_recording_or_refuses(device_library, name, monkeypatch):
    call = small_calls(device_library)[name]
    right = call()

    def look(x):
        raise AssertionError("a value was looked at")

    replace_arrays(monkeypatch, "is_capturing", arrays.is_cuda)
    replace_arrays(monkeypatch, "_extremes", look)
    replace_arrays(monkeypatch, "to_numpy", look)
    if name in NEEDS_THE_HOST:
        with pytest.raises(RuntimeError, match="cannot be recorded in a CUDA graph"):
            call()
    else:
        assert (call() == right).all()


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


# --- torch.compile ----------------------------------------------------------------------------------------------------


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
