"""What the optimisers refuse, and that nothing has changed then."""

import pytest
import torch
from optimizers import FIRST_ORDER, OPTIMIZERS, gaussian, matrix
from torch._subclasses.fake_tensor import FakeTensorMode

from ssdml_fast.optim import RiemannianCG


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("error", "found", "parameter"),
    [
        (ValueError, r"params\[0\] must have shape \(..., d, l\)", torch.zeros(3)),
        (ValueError, r"params\[0\] must have shape \(..., d, l\)", torch.eye(3)[:2]),
        (ValueError, r"params\[0\] must have shape \(..., d, l\)", torch.zeros(3, 0)),
        (ValueError, r"params\[0\] must have orthonormal columns", torch.ones(3, 2)),
        (ValueError, r"params\[0\] must have orthonormal columns", torch.stack([torch.eye(3), 1.1 * torch.eye(3)])),
        (ValueError, r"params\[0\] must have orthonormal columns", torch.full((3, 2), torch.nan)),
        (TypeError, r"params\[0\] must be of type", torch.eye(3, dtype=torch.float16)),
        (TypeError, r"params\[0\] must be of type", torch.eye(3, dtype=torch.complex64)),
    ],
)
def test_refuses_parameters_that_are_no_orthonormal_columns(name, error, found, parameter):
    with pytest.raises(error, match=found):
        OPTIMIZERS[name]([torch.nn.Parameter(parameter)])
    OPTIMIZERS[name]([torch.nn.Parameter(parameter)], stiefel=False)
    optimizer = OPTIMIZERS[name]([matrix((4, 2))])
    with pytest.raises(error, match=found):
        optimizer.add_param_group({"params": [torch.nn.Parameter(parameter)]})
    assert len(optimizer.param_groups) == 1  # as it was


@pytest.mark.parametrize(
    ("name", "error", "settings"),
    [
        ("CayleySGD", ValueError, {"lr": -1.0}),
        ("CayleySGD", ValueError, {"lr": float("nan")}),
        ("CayleySGD", TypeError, {"lr": "fast"}),
        ("CayleySGD", ValueError, {"momentum": 1.0}),
        ("CayleySGD", ValueError, {"momentum": -0.1}),
        ("CayleySGD", ValueError, {"weight_decay": -0.1}),
        ("CayleySGD", TypeError, {"stiefel": "yes"}),
        ("CayleyAdam", ValueError, {"lr": -1.0}),
        ("CayleyAdam", ValueError, {"betas": (0.9, 1.0)}),
        ("CayleyAdam", ValueError, {"betas": (0.9,)}),
        ("CayleyAdam", ValueError, {"eps": -1e-8}),
        ("RiemannianCG", ValueError, {"max_iter": 0}),
        ("RiemannianCG", TypeError, {"max_iter": 2.5}),
        ("RiemannianCG", ValueError, {"min_gradient_norm": -1.0}),
        ("RiemannianCG", ValueError, {"min_step": -1.0}),
    ],
)
def test_refuses_settings(refuses, name, error, settings):
    refuses(error, next(iter(settings)), OPTIMIZERS[name], [matrix((4, 2))], **settings)


def test_cg_refuses_settings_that_differ_between_groups():
    groups = [{"params": [matrix((4, 2))]}, {"params": [matrix((4, 2))], "max_iter": 3}]
    with pytest.raises(ValueError, match="max_iter must be the same for all groups"):
        RiemannianCG(groups)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_refuses_sparse_gradients(name):
    L = matrix((4, 2))
    optimizer = OPTIMIZERS[name]([L])
    before = L.detach().clone()

    def closure():
        L.grad = gaussian(4, 2).to_sparse()
        return torch.zeros(())

    for stiefel in (True, False):
        optimizer.param_groups[0]["stiefel"] = stiefel
        with pytest.raises(RuntimeError, match=f"{name} does not support sparse gradients"):
            optimizer.step(closure)
    assert torch.equal(L, before)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_no_group_is_moved_where_a_gradient_of_another_is_refused(name):
    L, weight = matrix((4, 2)), torch.nn.Parameter(gaussian(3, 2))
    optimizer = FIRST_ORDER[name]([{"params": [L]}, {"params": [weight], "stiefel": False}])
    before = L.detach().clone()
    L.grad, weight.grad = gaussian(4, 2), gaussian(3, 2).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()
    assert torch.equal(L, before) and not optimizer.state


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_refuses_infinite_gradients_and_matrices_that_were_changed(name):
    L = matrix((4, 2))
    optimizer = FIRST_ORDER[name]([L])
    L.grad = torch.full((4, 2), torch.inf, dtype=torch.float64)
    with pytest.raises(ValueError, match="grad must be finite"):
        optimizer.step()
    L = matrix((4, 2))
    optimizer = FIRST_ORDER[name]([L])
    with torch.no_grad():
        L.mul_(1.1)
    L.grad = gaussian(4, 2)
    with pytest.raises(ValueError, match="L must have orthonormal columns"):
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_refuses_matrices_without_memory(name):
    emptied = torch.nn.Parameter(matrix((5, 2)).detach().clone())
    emptied.untyped_storage().resize_(0)
    for without in (FakeTensorMode().from_tensor(matrix((5, 2))), emptied):
        with pytest.raises(TypeError, match=r"^params\[0\] must be a tensor with memory of its own"):
            OPTIMIZERS[name]([without])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_refuses_gradients_without_memory(name):
    L = matrix((5, 2))
    optimizer, before = OPTIMIZERS[name]([L]), L.detach().clone()

    def closure():
        L.grad = torch.masked.masked_tensor(gaussian(5, 2), torch.ones(5, 2, dtype=torch.bool))
        return torch.zeros((), dtype=torch.float64)

    with pytest.raises(TypeError, match=r"^params\[0\]\.grad must be a tensor with memory of its own"):
        optimizer.step(closure)
    assert torch.equal(L, before)
