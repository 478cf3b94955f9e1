import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DTYPES,
    LAYOUTS,
    LIBRARIES,
    drift,
    orthonormalised,
    random_stiefel,
    relayout,
    stiefel_points,
    to_torch,
)
from threadpoolctl import threadpool_limits

import ssdml_fast as sf
from ssdml_fast import _torch, reference

steps = st.sampled_from((0.0, 1e-3, 0.1, 1.0, -0.5, 30.0))


def tolerance(L, grad, step):
    """Rounding of one update: of the solve, which the spectral norm of step * grad enters, and of L itself."""
    size = np.linalg.norm(grad.astype(np.float64), ord=2, axis=(-2, -1)).max(initial=0)
    return 16 * np.finfo(L.dtype).eps * (1 + abs(step) * size)


# --- agrees with reference --------------------------------------------------------------------------------------------


@given(stiefel_points(batched=False), steps)
def test_twin_agrees_with_scipy(case, step):
    L, grad = (a.astype(np.float64) for a in case)
    L = orthonormalised(L)
    skew = grad @ L.T - L @ grad.T
    rotation = scipy.linalg.inv(np.eye(len(L)) + step / 2 * skew) @ (np.eye(len(L)) - step / 2 * skew)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(len(L)), rtol=0, atol=1e-10)
    updated = reference.cayley_update(L, grad, step)
    np.testing.assert_allclose(updated, rotation @ L, rtol=0, atol=1e-10)
    small = 1e-3 / (1 + np.linalg.norm(skew))  # agrees with the geodesic flow to second order
    flow = scipy.linalg.expm(-small * skew) @ L
    np.testing.assert_allclose(reference.cayley_update(L, grad, small), flow, rtol=0, atol=1e-9)


@given(stiefel_points(), steps)
def test_agrees_with_twin(isa, case, step):
    L, grad = case
    updated = sf.cayley_update(L, grad, step)
    assert updated.dtype == L.dtype and updated.shape == L.shape
    np.testing.assert_allclose(updated, reference.cayley_update(L, grad, step), rtol=0, atol=tolerance(L, grad, step))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(128, 64), (300, 33), (65, 65), (64, 40), (257, 1), (2, 130, 20)])
def test_agrees_with_twin_at_larger_sizes(isa, shape, dtype):
    rng = np.random.default_rng(0)
    L, grad = random_stiefel(shape, rng, dtype), (rng.standard_normal(shape) / 10).astype(dtype)
    updated = sf.cayley_update(L, grad, 0.3)
    np.testing.assert_allclose(updated, reference.cayley_update(L, grad, 0.3), rtol=0, atol=tolerance(L, grad, 0.3))


@given(stiefel_points())
@pytest.mark.parametrize("retraction", ["qr_retraction", "polar_retraction"])
def test_retractions_agree_with_twin(isa, retraction, case):
    L, grad = case
    direction = tangent(L, grad)
    retracted = getattr(sf, retraction)(L, direction)
    assert retracted.dtype == L.dtype and retracted.shape == L.shape
    twin = getattr(reference, retraction)(L.astype(np.float64), direction.astype(np.float64))
    np.testing.assert_allclose(retracted, twin, rtol=0, atol=32 * np.finfo(L.dtype).eps * (1 + largest(direction)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["long", "ill-conditioned", "singular"])
def test_qr_retraction_of_any_direction(isa, kind, dtype):
    rng = np.random.default_rng(0)
    L = random_stiefel((30, 7), rng, dtype)
    direction = 1e4 * tangent(L, rng.standard_normal(L.shape)).astype(dtype)
    if kind != "long":  # L + direction is nearly or exactly of rank 6
        direction = np.zeros_like(L)
        direction[:, 3] = L[:, 2] * dtype(1) - L[:, 3]
        if kind == "ill-conditioned":
            direction[:, 3] += 1e-3 * rng.standard_normal(30).astype(dtype)
    retracted = sf.qr_retraction(L, direction)
    assert drift(retracted) <= 50 * np.finfo(dtype).eps
    y = (L + direction).astype(np.float64)
    r = retracted.astype(np.float64).T @ y
    np.testing.assert_allclose(np.tril(r, -1), 0, atol=50 * np.finfo(dtype).eps * np.abs(y).sum())
    assert (np.diag(r) >= -50 * np.finfo(dtype).eps).all()


def tangent(L, grad):
    """The part of `grad` that is tangent at L, in the embedded metric."""
    along = np.swapaxes(L, -1, -2) @ grad
    return grad - L @ (along + np.swapaxes(along, -1, -2)) / 2


def largest(x):
    return float(np.linalg.norm(x.astype(np.float64), axis=(-2, -1)).max(initial=0))


def test_retractions_agree_with_geoopt():
    geoopt = pytest.importorskip("geoopt")
    L, grad = torch.from_numpy(random_stiefel((3, 20, 6), np.random.default_rng(0))), torch.randn(3, 20, 6).double()
    for manifold in (geoopt.EuclideanStiefel(), geoopt.EuclideanStiefelExact()):
        step = manifold.proju(L, grad)
        torch.testing.assert_close(sf.qr_retraction(L, step), geoopt.EuclideanStiefel().retr(L, step))
    # geoopt's canonical step is Cayley's along grad Lᵀ - L gradᵀ where Lᵀ grad is symmetric
    along = L.mT @ grad
    grad = grad - L @ (along - along.mT) / 2
    parameter = geoopt.ManifoldParameter(L.clone(), manifold=geoopt.CanonicalStiefel())
    parameter.grad = grad.clone()
    geoopt.optim.RiemannianSGD([parameter], lr=0.1).step()
    torch.testing.assert_close(sf.cayley_update(L, grad, 0.1), parameter.detach(), rtol=0, atol=1e-10)


# --- invariants -------------------------------------------------------------------------------------------------------


@given(stiefel_points(), steps)
def test_columns_stay_orthonormal(isa, case, step):
    L, grad = case
    assert drift(sf.cayley_update(L, grad, step)) <= tolerance(L, grad, step)


@pytest.mark.parametrize("d, width", [(24, 12), (24, 5), (10, 10), (16, 1)])
def test_drift_stays_small_over_many_steps(isa, d, width):
    rng = np.random.default_rng(0)
    L = random_stiefel((d, width), rng, np.float32)
    grads = rng.standard_normal((64, d, width)).astype(np.float32)
    for i in range(10_000):
        L = sf.cayley_update(L, grads[i % 64], 0.05)
        if i % 100 == 99:
            assert drift(L) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("d, width", [(16, 4), (64, 16)])
def test_drift_stays_small_over_a_hundred_thousand_steps(d, width):
    rng = np.random.default_rng(1)
    L = random_stiefel((d, width), rng, np.float32)
    grads = rng.standard_normal((64, d, width)).astype(np.float32)
    worst = 0.0
    for i in range(100_000):
        L = sf.cayley_update(L, grads[i % 64], 0.05)
        if i % 1000 == 999:
            worst = max(worst, drift(L))
    assert worst <= 1e-5


@pytest.mark.parametrize("dtype, off", [(np.float32, 2e-4), (np.float64, 2e-7)])
def test_a_matrix_slightly_off_the_manifold_is_brought_back(isa, dtype, off):
    rng = np.random.default_rng(0)
    L, grad = random_stiefel((70, 20), rng, dtype), rng.standard_normal((70, 20)).astype(dtype)
    updated = sf.cayley_update((1 + off) * L, grad, 0.01)
    assert drift(updated) <= 4 * off**2 + 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(updated, reference.cayley_update(L, grad, 0.01), rtol=0, atol=2 * off)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", [1e3, 1e6, 1e20, 1e200])
@pytest.mark.parametrize("shape", [(40, 40), (128, 64), (40, 1)])
def test_a_huge_step_is_refused_or_stays_on_the_manifold(isa, shape, step, dtype):
    rng = np.random.default_rng(0)
    L, grad = random_stiefel(shape, rng, dtype), rng.standard_normal(shape).astype(dtype)
    try:
        updated = sf.cayley_update(L, grad, step)
    except ValueError as refusal:
        assert "step" in str(refusal)
    else:
        sf.cayley_update(updated, grad, 0.1)  # accepts it: finite, with orthonormal columns


@given(stiefel_points())
def test_step_zero_changes_nothing(case):
    L, grad = case
    np.testing.assert_allclose(sf.cayley_update(L, grad, 0.0), L, rtol=0, atol=4 * np.finfo(L.dtype).eps)


@given(stiefel_points())
def test_a_gradient_within_the_span_changes_nothing_when_symmetric(case):
    L, _ = case  # G = L S with S symmetric is normal to the manifold: A = 0
    np.testing.assert_allclose(sf.cayley_update(L, 2 * L, 0.7), L, rtol=0, atol=tolerance(L, 2 * L, 0.7))


@given(stiefel_points(batched=False))
def test_descent(case):
    L, grad = (a.astype(np.float64) for a in case)  # f(L) = <grad, L>; f falls at the rate |A|^2 / 2
    L = orthonormalised(L)
    rate = np.linalg.norm(grad @ L.T - L @ grad.T) ** 2 / 2
    step = 1e-6
    change = np.vdot(grad, sf.cayley_update(L, grad, step) - L)
    np.testing.assert_allclose(change, -step * rate, rtol=1e-2, atol=1e-12)


@given(stiefel_points(), steps)
def test_back_and_forth(case, step):
    """The curve is a rotation: the same skew matrix with the opposite sign undoes it."""
    L, grad = (a.astype(np.float64) for a in case)
    L = orthonormalised(L)
    skew = grad @ np.swapaxes(L, -1, -2) - L @ np.swapaxes(grad, -1, -2)
    updated = sf.cayley_update(L, grad, step)
    identity = np.eye(L.shape[-2])
    back = np.linalg.solve(identity - step / 2 * skew, (identity + step / 2 * skew) @ updated)
    np.testing.assert_allclose(back, L, rtol=0, atol=1e-8)


@given(stiefel_points())
@pytest.mark.parametrize("retraction, order", [("qr_retraction", 2), ("polar_retraction", 3)])
def test_retractions_follow_the_geodesic(retraction, order, case):
    """Orthonormal columns, and R(0) = L, R'(0) = direction; the polar one also to second order."""
    L, grad = (a.astype(np.float64) for a in case)
    L = orthonormalised(L)
    direction = tangent(L, grad)
    direction = 1e-3 * direction / max(1.0, largest(direction))
    retracted = getattr(sf, retraction)(L, direction)
    assert drift(retracted) <= 1e-14
    expected = L + direction
    if order == 3:  # L (I + S) with the symmetric S that keeps the columns orthonormal to second order
        expected = expected - L @ np.swapaxes(direction, -1, -2) @ direction / 2
    np.testing.assert_allclose(retracted, expected, rtol=0, atol=2 * 1e-3**order)


@given(stiefel_points(), steps)
def test_a_batch_is_a_loop(isa, case, step):
    L, grad = case
    updated = sf.cayley_update(L, grad, step)
    for each in np.ndindex(L.shape[:-2]):
        np.testing.assert_array_equal(updated[each], sf.cayley_update(L[each], grad[each], step))


@given(stiefel_points(), st.sampled_from(LAYOUTS[:5]))
def test_any_layout(case, layout):
    L, grad = (relayout(a, layout) for a in case)
    before = L.tobytes(), grad.tobytes()
    np.testing.assert_array_equal(sf.cayley_update(L, grad, 0.1), sf.cayley_update(*case, 0.1))
    assert (L.tobytes(), grad.tobytes()) == before


# --- backends agree ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [2, 3])
@pytest.mark.parametrize("shape", [(128, 64), (512, 40), (5, 40, 10)])
def test_same_bits_for_any_thread_count(isa, num_threads, shape):
    rng = np.random.default_rng(0)
    L, grad = random_stiefel(shape, rng, np.float32), rng.standard_normal(shape).astype(np.float32)
    direction = tangent(L, grad / 100)  # once, as its products are NumPy's, whose bits may depend on the threads
    for function in (lambda: sf.cayley_update(L, grad, 0.1), lambda: sf.qr_retraction(L, direction)):
        with threadpool_limits(1):
            alone = function()
        with threadpool_limits(num_threads):
            np.testing.assert_array_equal(function(), alone)


# --- torch ------------------------------------------------------------------------------------------------------------


@given(stiefel_points(), steps)
def test_torch_equals_numpy(case, step):
    L, grad = case
    updated = sf.cayley_update(torch.from_numpy(L), torch.from_numpy(grad), step)
    assert isinstance(updated, torch.Tensor)
    np.testing.assert_array_equal(updated.numpy(), sf.cayley_update(L, grad, step))


@given(stiefel_points())
@pytest.mark.parametrize("retraction", ["qr_retraction", "polar_retraction"])
def test_torch_retractions_equal_numpy(retraction, case):
    L, grad = case
    direction = tangent(L, grad)
    retracted = getattr(sf, retraction)(to_torch(L), to_torch(direction))
    assert isinstance(retracted, torch.Tensor)
    atol = 32 * np.finfo(L.dtype).eps * (1 + largest(direction))
    np.testing.assert_allclose(retracted.numpy(), getattr(sf, retraction)(L, direction), rtol=0, atol=atol)


def test_torch_parameter_is_read_as_its_values():
    L = torch.nn.Parameter(to_torch(random_stiefel((6, 3), np.random.default_rng(0))))
    updated = sf.cayley_update(L, torch.ones(6, 3, dtype=torch.float64), 0.1)
    assert not updated.requires_grad and L.grad is None


def test_registered_operator():
    operator = _torch.ops.cayley_update.default
    torch.library.opcheck(operator, (to_torch(L), to_torch(GRAD), 0.1, None))
    torch.library.opcheck(operator, (torch.eye(5, 5).expand(3, 5, 5), torch.randn(3, 5, 5), -1.0, 2))


def test_compiles_as_one_graph():
    def descend(L, grad):
        return sf.cayley_update(L, 2 * grad, 0.1).square()

    compiled = torch.compile(descend, fullgraph=True, backend="aot_eager")
    arguments = to_torch(L), to_torch(GRAD)
    torch.testing.assert_close(compiled(*arguments), descend(*arguments))


# --- errors -----------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
L, GRAD = random_stiefel((6, 3), RNG), RNG.standard_normal((6, 3))


@pytest.mark.parametrize(
    "error, name, changed",
    [
        (TypeError, "L", {"L": L.tolist()}),
        (TypeError, "L", {"L": np.eye(6, 3, dtype=int)}),
        (TypeError, "L", {"L": L.astype(complex)}),
        (TypeError, "L", {"L": np.eye(6, 3, dtype=bool)}),
        (ValueError, "L", {"L": L[:, 0]}),
        (ValueError, "L", {"L": L[:, :0], "grad": GRAD[:, :0]}),
        (ValueError, "L", {"L": L.T.copy(), "grad": GRAD.T.copy()}),
        (ValueError, "L", {"L": np.full((6, 3), np.nan)}),
        (ValueError, "L", {"L": 2 * L}),
        (ValueError, "L", {"L": L + 0.1}),
        (ValueError, "L", {"L": np.zeros((6, 3))}),
        (ValueError, "L", {"L": np.stack([L, 1.1 * L]), "grad": np.stack([GRAD, GRAD])}),
        (TypeError, "grad", {"grad": GRAD.tolist()}),
        (TypeError, "grad", {"grad": GRAD.astype(int)}),
        (TypeError, "grad", {"grad": GRAD.astype(complex)}),
        (TypeError, "grad", {"grad": GRAD.astype(np.float32)}),
        (ValueError, "grad", {"grad": GRAD[:, :2]}),
        (ValueError, "grad", {"grad": GRAD[None]}),
        (ValueError, "grad", {"grad": np.full((6, 3), np.inf)}),
        (ValueError, "step", {"step": np.nan}),
        (ValueError, "step", {"step": -np.inf}),
        (TypeError, "step", {"step": "0.1"}),
        (TypeError, "step", {"step": None}),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_refuses(refuses, library, error, name, changed):
    refuses(error, name, sf.cayley_update, **LIBRARIES[library]({"L": L, "grad": GRAD, "step": 0.1, **changed}))


def test_refuses_mixed_libraries(refuses):
    refuses(TypeError, "grad", sf.cayley_update, L, torch.from_numpy(GRAD), 0.1)
    refuses(TypeError, "grad", sf.cayley_update, torch.from_numpy(L), GRAD, 0.1)


@pytest.mark.parametrize(
    "error, name, changed",
    [
        (TypeError, "L", {"L": L.tolist()}),
        (ValueError, "L", {"L": L.T.copy(), "direction": GRAD.T.copy()}),
        (ValueError, "L", {"L": 2 * L}),
        (ValueError, "L", {"L": np.full((6, 3), np.nan)}),
        (TypeError, "direction", {"direction": GRAD.tolist()}),
        (TypeError, "direction", {"direction": GRAD.astype(np.float32)}),
        (ValueError, "direction", {"direction": GRAD[None]}),
        (ValueError, "direction", {"direction": np.full((6, 3), np.inf)}),
    ],
)
@pytest.mark.parametrize("retraction", ["qr_retraction", "polar_retraction"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_retractions_refuse(refuses, library, retraction, error, name, changed):
    refuses(error, name, getattr(sf, retraction), **LIBRARIES[library]({"L": L, "direction": GRAD, **changed}))
