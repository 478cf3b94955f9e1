"""Riemannian conjugate gradients on CUDA: the CPU's steps, which end on the manifold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from minimisation import (
    assert_holds,
    beside_the_maximum,
    beside_the_minimum,
    metric_problems,
    slightly_off,
    square_problem,
)
from on_device import DEVICE, FEW, MB, close, gaussian, gpu, on, orthonormal, peak, precision
from strategies import DTYPES, drift, losses, orthonormalised, random_stiefel

import ssdml_fast as sf
from ssdml_fast import _arrays as arrays

# --- agrees with the CPU ----------------------------------------------------------------------------------------------


@FEW
@given(losses(scales=(1.0, 1e-3)), st.sampled_from(("sum", "mean")), st.booleans())
def test_riemannian_cg(device_library, case, reduction, weighted):
    """In float64: rounding grows from step to step, and may decide whether a step is accepted."""
    z, triplets, L = case[0].astype(np.float64), case[1], orthonormalised(case[2])
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
    z, L = rng.standard_normal((60, 16)).astype(dtype), random_stiefel((16, 6), rng, dtype)
    triplets = rng.integers(0, 60, (100, 3))
    none, few, many = (sf.riemannian_cg(*on(device_library, (L, z, triplets)), iterations=i) for i in (0, 5, 40))
    assert none.loss > few.loss > many.loss and none.iterations == 0
    reached = arrays.to_numpy(many.L)
    assert many.loss == pytest.approx(sf.angular_loss(z, triplets, reached).item(), rel=10 * precision(dtype))
    np.testing.assert_allclose(reached.T @ reached, np.eye(6), atol=precision(dtype))
    np.testing.assert_array_equal(arrays.to_numpy(none.L), L)


@FEW
@given(metric_problems())
def test_riemannian_cg_stays_on_the_manifold_and_reports_its_own_loss(device_library, problem):
    assert_holds(sf.riemannian_cg(**on(device_library, problem)), problem)


def test_riemannian_cg_tries_as_many_steps_as_manopt(device_library):
    problem = beside_the_minimum()
    result = sf.riemannian_cg(**on(device_library, problem))
    assert (result.iterations, result.evaluations) == (0, 1 + 10)
    np.testing.assert_array_equal(arrays.to_numpy(result.L), problem["L"])


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
def test_riemannian_cg_of_long_steps(device_library, iterations):
    problem = beside_the_maximum(np.float64) | {"iterations": iterations}
    right, found = sf.riemannian_cg(**problem), sf.riemannian_cg(**on(device_library, problem))
    assert (found.iterations, found.evaluations) == (right.iterations, right.evaluations)
    close(found.L, right.L, 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_riemannian_cg_stops_where_the_loss_is_constant(device_library, dtype):
    for seed in range(5):
        problem = square_problem(seed, dtype)
        result = sf.riemannian_cg(**on(device_library, problem))
        assert (result.iterations, result.evaluations) == (0, 1)
        np.testing.assert_array_equal(arrays.to_numpy(result.L), problem["L"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_riemannian_cg_brings_back_a_start_slightly_off_the_manifold(device_library, dtype):
    problem = slightly_off(dtype)
    for iterations in (0, 3):
        result = sf.riemannian_cg(**on(device_library, problem), iterations=iterations)
        assert drift(arrays.to_numpy(result.L)) <= 8 * np.finfo(dtype).eps


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
def test_memory_of_riemannian_cg():
    """Points that are in no triplet cost nothing."""
    z, L, triplets = gaussian(200_000, 64), orthonormal(64, 32), torch.randint(200_000, (1000, 3), device=DEVICE)
    assert peak(lambda: sf.riemannian_cg(L, z, triplets, iterations=2)) < 3000 * (2 * 4 * 32 + 100) + 2 * MB
