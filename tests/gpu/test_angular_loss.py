"""The angular loss on CUDA: the CPU's, in full float32 and without an array of triplets times coordinates."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from on_device import DEVICE, FEW, MB, close, gaussian, gpu, on, orthonormal, peak, precision
from strategies import losses

import ssdml_fast as sf

# --- agrees with the CPU ----------------------------------------------------------------------------------------------


@FEW
@given(losses(scales=(1.0, 1e-3, 30.0)), st.sampled_from(("sum", "mean")), st.booleans())
def test_angular_loss(device_library, case, reduction, weighted):
    z, triplets, L = case
    weight = np.linspace(0.5, 2, len(triplets)).astype(z.dtype) if weighted else None
    case = (z, triplets, L, 40.0, reduction, weight)
    right, found = sf.angular_loss_and_grad(*case), sf.angular_loss_and_grad(*on(device_library, case))
    for ours, cpus in zip(found, right, strict=True):
        close(ours, np.asarray(cpus), 10 * precision(z.dtype))
    each = sf.angular_loss(*on(device_library, (z, triplets, L, 40.0, "none", weight)))
    close(each, sf.angular_loss(z, triplets, L, 40.0, "none", weight), 10 * precision(z.dtype))


@settings(max_examples=8)
@given(losses(max_n=40, max_d=40, max_t=400, scales=(1.0, 1e-3)), st.booleans())
def test_angular_loss_of_many_triplets(device_library, case, weighted):
    """So many that the device sorts them."""
    z, triplets, L = case
    triplets = np.concatenate([triplets] * (1 + 1024 // max(len(triplets), 1)))
    weight = np.linspace(0.5, 2, len(triplets)).astype(z.dtype) if weighted else None
    case = (z, triplets, L, 45.0, "mean", weight)
    for ours, cpus in zip(
        sf.angular_loss_and_grad(*on(device_library, case)), sf.angular_loss_and_grad(*case), strict=True
    ):
        close(ours, np.asarray(cpus), 10 * precision(z.dtype))


@gpu
def test_products_are_in_full_float32():
    z, L, triplets = gaussian(500, 300), orthonormal(300, 200), torch.randint(500, (900, 3), device=DEVICE)
    for found, right in zip(
        sf.angular_loss_and_grad(z, triplets, L),
        sf.angular_loss_and_grad(z.double(), triplets, L.double()),
        strict=True,
    ):
        assert (found - right).abs().max() < 2e-5 * right.abs().max()  # TF32 would be off by 1e-3


# --- memory -----------------------------------------------------------------------------------------------------------


@gpu
def test_memory_of_angular_loss():
    """No array of triplets times coordinates, of which there would be 200 MB."""
    n, d, l, count = 5000, 256, 256, 200_000
    z, L = gaussian(n, d).requires_grad_(), orthonormal(d, l).requires_grad_()
    triplets = torch.randint(n, (count, 3), device=DEVICE)
    used = peak(lambda: torch.autograd.grad(sf.angular_loss(z, triplets, L), (z, L)))
    assert used < 4 * (6 * n * l + 4 * d * l) + 200 * count + MB


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
