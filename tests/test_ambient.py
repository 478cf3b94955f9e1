"""What torch's ambient state says of new tensors, of types and of gradients changes no answer."""

import functools

import numpy as np
import pytest
import torch
from ambient import STATES, ambient
from optimizers import OPTIMIZERS, gaussian, matrix
from stand_in import installed
from strategies import random_stiefel

import ssdml_fast as sf
from ssdml_fast import KnnGraph
from ssdml_fast import _torch as registered
from ssdml_fast._run import mine_class_triplets as mining


@functools.cache
def calls(dtype, on_stand_in=False):
    """Every operation on torch tensors, every registered operator, and what is not differentiated of modules."""
    rng = np.random.default_rng(0)
    x, posteriors = (torch.from_numpy(rng.random((40, d))).to(dtype) for d in (6, 3))
    L, tangent = (torch.from_numpy(m).to(dtype) for m in (random_stiefel((6, 3), rng), rng.normal(size=(6, 3))))
    labels, triplets = torch.arange(40) % 5 - 1, torch.from_numpy(rng.integers(0, 40, (70, 3)))
    weight, classes = torch.from_numpy(rng.random(70)).to(dtype), rng.integers(0, 4, 40)
    graph = sf.knn_graph(x, 5)
    affinity = sf.propagate_affinity(graph, labels, gamma=0.9)
    indices, distances = graph.indices, graph.distances
    metric = sf.nn.OrthogonalMetric(6, 3, dtype=dtype)
    ops = registered.ops
    return {
        "knn_graph": lambda: sf.knn_graph(x, 5),
        "KnnGraph": lambda: KnnGraph(indices, distances),
        "knn_search": lambda: sf.knn_search(x[:4], x, 5),
        "propagate_affinity": lambda: sf.propagate_affinity(graph, labels, gamma=0.9),
        "propagate_labels": lambda: sf.propagate_labels(graph, labels, gamma=0.9),
        "mine_triplets": lambda: sf.mine_triplets(graph, affinity),
        "mine_class_triplets": lambda: sf.mine_class_triplets(posteriors, 50, z=x),
        "mine_class_triplets.draw": lambda: mining.draw(classes, 50, 0, x, 5),
        "graph_modes": lambda: sf.graph_modes(graph),
        "angular_loss": lambda: sf.angular_loss(x, triplets, L, weight=weight),
        "angular_loss.none": lambda: sf.angular_loss(x, triplets, L, reduction="none"),
        "angular_loss_and_grad": lambda: sf.angular_loss_and_grad(x, triplets, L, reduction="mean", weight=weight),
        "cayley_update": lambda: sf.cayley_update(L, tangent, 0.1),
        "qr_retraction": lambda: sf.qr_retraction(L, tangent),
        "polar_retraction": lambda: sf.polar_retraction(L, tangent),
        "riemannian_cg": lambda: sf.riemannian_cg(L, x, triplets, iterations=3, reduction="mean", weight=weight),
        "ops.knn_graph": lambda: ops.knn_graph(x, 5, "cosine", None, None),
        "ops.knn_search": lambda: ops.knn_search(x[:4], x, 5, "cosine", None),
        "ops.propagate_affinity": lambda: ops.propagate_affinity(indices, None, None, None, labels, 0.9, 1e-6, None),
        "ops.propagate_labels": lambda: ops.propagate_labels(indices, None, None, None, labels, 0.9, 1e-6, None),
        "ops.mine_triplets": lambda: ops.mine_triplets(indices, distances, affinity.values, None, None),
        "ops.mine_class_triplets": lambda: ops.mine_class_triplets(posteriors, 50, 0.0, 0, True, x, 5, None),
        "ops.projected_loss": lambda: ops.projected_loss(x, triplets, weight, 40.0, True, None),
        "ops.projected_losses": lambda: ops.projected_losses(x, triplets, 40.0, None),
        "ops.projected_losses_backward": lambda: ops.projected_losses_backward(weight, x, triplets, 40.0, None),
        "ops.cayley_update": lambda: ops.cayley_update(L, tangent, 0.1, None),
        "ops.riemannian_cg": lambda: ops.riemannian_cg(L, x, triplets, 40.0, 3, "sum", None, None),
        "AngularLoss": lambda: sf.nn.AngularLoss(reduction="sum")(x, triplets, L),
        "OrthogonalMetric.orthogonality_error": metric.orthogonality_error,
        "OrthogonalMetric.distance": lambda: metric.distance(x[:20], x[20:]),
        "OrthogonalMetric.M": lambda: metric.M,
        "OrthogonalMetric": lambda: metric(x),
    }


NAMES = tuple(calls(torch.float32))
FOLLOWS_AUTOCAST = ("angular_loss", "angular_loss.none", "AngularLoss", *(n for n in NAMES if "OrthogonalMetric" in n))


def test_every_operation_is_called():
    assert {*sf.reference.__all__} <= {*NAMES}
    assert {name.removeprefix("ops.") for name in NAMES if name.startswith("ops.")} == {
        name.removeprefix("ssdml_fast::").partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("ssdml_fast::")
    }


def parts(answer):
    """The arrays and numbers of an answer."""
    if isinstance(answer, tuple):
        return [part for value in answer for part in parts(value)]
    if hasattr(answer, "__dict__") and not isinstance(answer, torch.Tensor):
        return [part for value in vars(answer).values() for part in parts(value)]
    return [answer]


def assert_same(found, right):
    for ours, expected in zip(parts(found), parts(right), strict=True):
        assert type(ours) is type(expected)
        if isinstance(ours, torch.Tensor):
            assert ours.dtype == expected.dtype and ours.device == expected.device and torch.equal(ours, expected)
        else:
            assert ours == expected


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answers_are_the_same(name, state, dtype):
    call = calls(dtype)[name]
    right = call()
    with ambient(state):
        found = call()
    if state == "autocast" and name in FOLLOWS_AUTOCAST:  # as torch's own modules do
        torch.testing.assert_close(found, right, rtol=0.05, atol=0.05, check_dtype=name.startswith("ang"))
    else:
        assert_same(found, right)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in FOLLOWS_AUTOCAST])
def test_answers_of_a_device_are_the_same(name, state, stand_in):
    with installed(stand_in):
        call = calls(torch.float32, on_stand_in=True)[name]
        right = call()
        with ambient(state):
            found = call()
    assert_same(found, right)


# --- gradients --------------------------------------------------------------------------------------------------------


def gradients(reduction, backward_in=()):
    rng = np.random.default_rng(0)
    z, L = torch.from_numpy(rng.random((40, 6))).float(), torch.from_numpy(random_stiefel((6, 3), rng)).float()
    triplets, weight = torch.from_numpy(rng.integers(0, 40, (70, 3))), torch.from_numpy(rng.random(70)).float()
    leaves = [leaf.requires_grad_() for leaf in (z, L, weight)]
    loss = sf.angular_loss(z, triplets, L, reduction=reduction, weight=weight).sum()
    with ambient(*backward_in):
        loss.backward()
    return (loss.detach(), *(leaf.grad for leaf in leaves))


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("state", ["float64", "bfloat16", "meta", "deterministic"])
def test_gradients_are_the_same(state, reduction):
    right = gradients(reduction)
    with ambient(state):
        found = gradients(reduction)
    assert_same(found, right)


@pytest.mark.parametrize("state", STATES)
def test_gradients_of_a_device_are_those_of_the_forward_pass(state, stand_in):
    """Where only the backward pass is within, as a training's whose loss was found before."""
    with installed(stand_in):
        assert_same(gradients("mean", (state,)), gradients("mean"))


# --- modules ----------------------------------------------------------------------------------------------------------


def metric(**options):
    return sf.nn.OrthogonalMetric(6, 3, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_metric_is_made_the_same(state, dtype):
    with ambient(state):
        made = metric(dtype=dtype, device="cpu")
    assert torch.equal(made.L, metric(dtype=dtype).L)


def test_a_metric_is_of_torchs_default_type_or_says_that_it_cannot_be():
    with ambient("float64"):
        assert torch.equal(metric().L, metric(dtype=torch.float64).L)
    with ambient("bfloat16"), pytest.raises(TypeError, match=r"^dtype must be .* found torch.bfloat16"):
        metric()


@pytest.mark.parametrize("state", [(), ("float64",), ("autocast",), ("no_grad",), ("deterministic",)])
def test_a_metric_is_filled_after_it_was_made_on_the_meta_device(state):
    with ambient("meta"):
        made = sf.nn.OrthogonalMetric(6, 3, dtype=torch.float32)
    with ambient(*state):
        made.to_empty(device="cpu").reset_parameters(torch.Generator().manual_seed(0))
    assert torch.equal(made.L, metric().L) and made.L.requires_grad


# --- optimisers -------------------------------------------------------------------------------------------------------

SETTINGS = {
    "CayleySGD": {"lr": 0.1, "momentum": 0.9},
    "CayleyAdam": {"lr": 0.1},
    "RiemannianCG": {"max_iter": 2},
}


def stepped(name, states):
    """A matrix and an ordinary parameter after one step in each of these surroundings, and the optimiser's state."""
    L, bias = matrix((6, 3), dtype=np.float32), torch.nn.Parameter(torch.ones(3))
    targets = gaussian(6, 3, dtype=torch.float32), gaussian(3, seed=1, dtype=torch.float32)
    groups = [{"params": [L]}, {"params": [bias], "stiefel": False}]
    with ambient(*states[:1]):
        optimizer = OPTIMIZERS[name](groups, **SETTINGS[name])

    def closure():
        optimizer.zero_grad()
        loss = sum((p - target).square().sum() for p, target in zip((L, bias), targets, strict=True))
        loss.backward()
        return loss

    for state in states:
        with ambient(state):
            optimizer.step(closure)
    kept = (torch.as_tensor(value) for p in (L, bias) for value in optimizer.state[p].values() if value is not None)
    return L.detach(), bias.detach(), *(value.float() for value in kept)  # torch's own count steps in its default dtype


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_the_same(name, state):
    assert_same(stepped(name, [state, state, "no_grad", state]), stepped(name, ["no_grad"] * 4))
