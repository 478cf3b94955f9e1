"""Optimisation on the Stiefel manifold on CUDA: the CPU's steps, which end on the manifold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from on_device import DEVICE, FEW, MB, close, gaussian, gpu, on, orthonormal, peak, precision
from strategies import losses, stiefel_points

import ssdml_fast as sf
from ssdml_fast import _arrays as arrays

# --- agrees with the CPU ----------------------------------------------------------------------------------------------


@FEW
@given(stiefel_points(), st.sampled_from((0.0, -0.3, 2.0)))
def test_cayley_update(device_library, case, step):
    L, grad = case
    close(
        sf.cayley_update(*on(device_library, (L, grad, step))), sf.cayley_update(L, grad, step), 20 * precision(L.dtype)
    )


@FEW
@given(stiefel_points(batched=False), st.sampled_from((30.0, 1e3)))
def test_cayley_update_polishes_long_steps(device_library, case, step):
    """They amplify rounding, but end on the manifold."""
    L, grad = case
    updated = arrays.to_numpy(sf.cayley_update(*on(device_library, (L, grad, step))))
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
def test_riemannian_cg(device_library, case, reduction, weighted):
    """In float64: rounding grows from step to step, and may decide whether a step is accepted."""
    z, triplets, L = case[0].astype(np.float64), case[1], np.linalg.qr(case[2].astype(np.float64))[0]
    weight = np.linspace(0.5, 2, len(triplets)) if weighted else None
    case = (L, z, triplets, 40.0, 4, reduction, weight)
    right, found = sf.riemannian_cg(*case), sf.riemannian_cg(*on(device_library, case))
    assert (found.iterations, found.evaluations) == (right.iterations, right.evaluations)
    close(found.L, right.L, 1e-8)
    assert found.loss == pytest.approx(right.loss, rel=1e-9)
    assert found.grad_norm == pytest.approx(right.grad_norm, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_riemannian_cg_descends(device_library, dtype):
    rng = np.random.default_rng(0)
    z, L = rng.standard_normal((60, 16)).astype(dtype), np.linalg.qr(rng.standard_normal((16, 6)))[0].astype(dtype)
    triplets = rng.integers(0, 60, (100, 3))
    none, few, many = (sf.riemannian_cg(*on(device_library, (L, z, triplets)), iterations=i) for i in (0, 5, 40))
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


# --- memory -----------------------------------------------------------------------------------------------------------


@gpu
def test_memory_of_cayley_update():
    L, grad = orthonormal(2048, 128), gaussian(2048, 128)
    assert peak(lambda: sf.cayley_update(L, grad, 0.1)) < 4 * 2048 * 128 + 8 * 8 * 128 * 128 + MB


@gpu
def test_memory_of_riemannian_cg():
    """Points that are in no triplet cost nothing."""
    z, L, triplets = gaussian(200_000, 64), orthonormal(64, 32), torch.randint(200_000, (1000, 3), device=DEVICE)
    assert peak(lambda: sf.riemannian_cg(L, z, triplets, iterations=2)) < 3000 * (2 * 4 * 32 + 100) + 2 * MB


# --- torch ------------------------------------------------------------------------------------------------------------


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
