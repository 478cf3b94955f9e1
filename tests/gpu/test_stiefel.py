"""Updates of orthonormal columns on CUDA: the CPU's, which end on the manifold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from on_device import DEVICE, FEW, MB, close, gaussian, gpu, on, orthonormal, peak, precision
from strategies import stiefel_points

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


# --- memory -----------------------------------------------------------------------------------------------------------


@gpu
def test_memory_of_cayley_update():
    L, grad = orthonormal(2048, 128), gaussian(2048, 128)
    assert peak(lambda: sf.cayley_update(L, grad, 0.1)) < 4 * 2048 * 128 + 8 * 8 * 128 * 128 + MB


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
