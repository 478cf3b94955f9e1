"""Shapes, types and places of what operators answer, known without values: where there is no device either."""

from contextlib import nullcontext

import pytest
import torch
from stand_in import installed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import ssdml_fast as sf
from ssdml_fast import _arrays as arrays
from ssdml_fast import _torch as registered

OPERATORS = sorted(
    name.removeprefix("ssdml_fast::").partition(".")[0]
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("ssdml_fast::")
)


def arguments(dtype=torch.float32):
    """Of every operator, tensors on the CPU among them."""
    x, L, weight = torch.rand(40, 6, dtype=dtype), torch.eye(6, 3, dtype=dtype), torch.rand(70, dtype=dtype)
    y, posteriors, triplets = x[:, :3].contiguous(), torch.rand(40, 4, dtype=dtype), torch.randint(40, (70, 3))
    graph, labels = sf.knn_graph(x, 5), torch.arange(40) % 4 - 1
    values = torch.rand(40, 5, dtype=dtype)
    return {
        "cayley_update": (L, torch.rand(6, 3, dtype=dtype), 0.1, None),
        "knn_graph": (x, 5, "cosine", None, None),
        "knn_search": (x[:7], x, 5, "euclidean", None),
        "mine_class_triplets": (posteriors, 50, 0.0, 3, True, x, 5, None),
        "mine_triplets": (graph.indices, graph.distances, values, torch.arange(9), None),
        "projected_loss": (y, triplets, weight, 40.0, True, None),
        "projected_losses": (y, triplets, 40.0, None),
        "projected_losses_backward": (weight, y, triplets, 40.0, None),
        "propagate_affinity": (graph.indices, graph.distances, None, None, labels, 0.9, 1e-4, None),
        "propagate_labels": (graph.indices, graph.distances, None, None, labels, 0.9, 1e-4, None),
        "riemannian_cg": (L, x, triplets, 40.0, 2, "mean", weight, None),
    }


NUMBERS = {"propagate_affinity": 2, "propagate_labels": 2, "riemannian_cg": 4}  # of each, its last, for the host
SIZES = {
    "propagate_affinity": 3,
    "propagate_labels": 3,
    "mine_class_triplets": 50,
}  # that values decide: classes, triplets


def flat(answer):
    return [answer] if isinstance(answer, torch.Tensor) else list(answer)


def mapped(function, values):
    return [function(value) if isinstance(value, torch.Tensor) else value for value in values]


def assert_like(found, right, device, name):
    """Of the same shapes, where values do not decide them, and types, and on the device but for numbers."""
    found, right, numbers = flat(found), flat(right), NUMBERS.get(name, 0)
    for i, (ours, expected) in enumerate(zip(found, right, strict=True)):
        assert ours.dtype == expected.dtype
        assert ours.device == torch.device("cpu" if i >= len(right) - numbers else device)
        for size, known in zip(ours.shape, expected.shape, strict=True):
            assert size == known if isinstance(size, int) else known == SIZES[name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "cuda:0", "cuda:1"])
@pytest.mark.parametrize("name", OPERATORS)
def test_shapes_types_and_places_are_known_of_fake_tensors(name, device, dtype):
    operator, values = getattr(registered.ops, name), arguments(dtype)[name]
    right = operator(*values)
    with FakeTensorMode(shape_env=ShapeEnv()):
        found = operator(*mapped(lambda x: torch.empty(x.shape, dtype=x.dtype, device=device), values))
    assert_like(found, right, device, name)


@pytest.mark.parametrize("name", [name for name in OPERATORS if name not in SIZES])  # which have no name there
def test_shapes_and_types_are_known_on_the_meta_device(name):
    operator, values = getattr(registered.ops, name), arguments()[name]
    assert_like(operator(*mapped(lambda x: x.to("meta"), values)), operator(*values), "meta", name)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("trust", [nullcontext, arrays.trusted])
def test_a_device_answers_as_is_known(name, trust, stand_in):
    operator, values = getattr(registered.ops, name), arguments()[name]
    with installed(stand_in), trust():
        found = operator(*values)
    assert_like(found, operator(*values), "cpu", name)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["projected_loss", "projected_losses"])
def test_shapes_and_types_of_gradients_are_known(name, weighted):
    """On the meta device: autograd of fake CUDA tensors wants a torch that was built for them."""
    y, triplets, *rest = mapped(lambda x: x.to("meta"), arguments()[name])
    wanted = [y.requires_grad_()]
    if name == "projected_loss":
        rest[0] = rest[0].requires_grad_() if weighted else None
        wanted += [rest[0]] * weighted
    grads = torch.autograd.grad(flat(getattr(registered.ops, name)(y, triplets, *rest))[0].sum(), wanted)
    for grad, leaf in zip(grads, wanted, strict=True):
        assert grad.shape == leaf.shape and grad.dtype == leaf.dtype and grad.is_meta
