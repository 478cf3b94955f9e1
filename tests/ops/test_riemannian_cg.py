import re
from pathlib import Path

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
from strategies import DTYPES, LIBRARIES, drift, losses, orthonormalised, random_stiefel, to_torch
from threadpoolctl import threadpool_limits

import ssdml_fast as sf
from ssdml_fast import _line_search, _torch, reference


def mini_batch(rng, dtype=np.float64):
    """(z, triplets): 150 unit vectors of which triplets index some, some more than once."""
    z = rng.standard_normal((150, 64))
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(dtype), rng.integers(0, 100, (50, 3))


# --- agrees with reference --------------------------------------------------------------------------------------------


@given(losses(max_n=12, max_d=9, max_t=30, scales=(1.0, 3.0)), st.integers(0, 4), st.booleans())
def test_agrees_with_twin(isa, case, iterations, mean):
    z, triplets, L = (a.astype(np.float64) if a.dtype == np.float32 else a for a in case)
    L = orthonormalised(L)
    reduction = "mean" if mean else "sum"
    ours = sf.riemannian_cg(L, z, triplets, 45.0, iterations, reduction)
    twin = reference.riemannian_cg(L, z, triplets, 45.0, iterations, reduction)
    assert drift(ours.L) <= 1e-12
    np.testing.assert_allclose(ours.loss, sf.angular_loss(z, triplets, ours.L, 45.0, reduction), rtol=1e-9, atol=1e-12)
    assert ours.loss <= sf.angular_loss(z, triplets, L, 45.0, reduction) * (1 + 1e-12)
    if twin.grad_norm > 1e-4:  # near a minimum rounding decides how many steps are tried
        assert (ours.iterations, ours.evaluations) == (twin.iterations, twin.evaluations)
        np.testing.assert_allclose(ours.L, twin.L, rtol=0, atol=1e-6)
        np.testing.assert_allclose([ours.loss, ours.grad_norm], [twin.loss, twin.grad_norm], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_pymanopt(isa, dtype, distinct):
    pymanopt = pytest.importorskip("pymanopt")
    rng = np.random.default_rng(0)
    z, triplets = mini_batch(rng, dtype)
    if distinct:
        triplets = rng.permutation(len(z)).reshape(50, 3)
    L = random_stiefel((64, 16), rng, dtype)
    weight = rng.uniform(0, 2, len(triplets)).astype(dtype)
    manifold = pymanopt.manifolds.Stiefel(64, 16)
    problem = pymanopt.Problem(
        manifold,
        pymanopt.function.numpy(manifold)(lambda L: float(reference.angular_loss(z, triplets, L, weight=weight))),
        euclidean_gradient=pymanopt.function.numpy(manifold)(
            lambda L: reference.angular_loss_and_grad(z, triplets, L, weight=weight)[2]
        ),
    )
    optimizer = pymanopt.optimizers.ConjugateGradient(max_iterations=11, verbosity=0)  # it counts the start
    theirs = optimizer.run(problem, initial_point=L)
    ours = sf.riemannian_cg(L, z, triplets, iterations=10, weight=weight)
    rtol = 1e-10 if dtype == np.float64 else 1e-4
    assert ours.iterations == 10 and ours.L.dtype == dtype
    np.testing.assert_allclose(ours.loss, theirs.cost, rtol=rtol)
    np.testing.assert_allclose(ours.L, theirs.point, rtol=0, atol=10 * rtol)


def test_as_many_steps_are_tried_as_by_manopt(isa):
    problem = beside_the_minimum()
    for minimise in (sf.riemannian_cg, reference.riemannian_cg):
        result = minimise(**problem)
        assert (result.iterations, result.evaluations) == (0, 1 + 10)
        np.testing.assert_allclose(result.L, problem["L"], rtol=0, atol=1e-15)


def test_kernels_and_optimiser_share_the_parameters_of_the_line_search():
    header = (Path(__file__).parents[2] / "csrc/riemannian_cg/parameters.h").read_text()
    kernels = {name: float(value) for name, value in re.findall(r"\bk(\w+) = ([\d.e-]+)[,;]", header)}
    names = ("MOST_TRIALS", "SUFFICIENT_DECREASE", "CONTRACTION", "LEAST_GRAD_NORM", "LEAST_STEP", "ROUNDING")
    assert kernels == {name.title().replace("_", ""): getattr(_line_search, name) for name in names}
    longest = re.search(r"kLongestStep = sizeof\(T\) == 4 \? (\S+) : (\S+);", header).groups()
    assert dict(zip(("float32", "float64"), map(float.fromhex, longest), strict=True)) == _line_search.LONGEST_STEP
    rounding = _line_search.ROUNDING
    assert not _line_search.descends(rounding, 1.0) and _line_search.descends(1.001 * rounding, 1.0)


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
def test_long_steps_agree_with_twin(isa, iterations):
    problem = beside_the_maximum(np.float64) | {"iterations": iterations}
    ours, twin = sf.riemannian_cg(**problem), reference.riemannian_cg(**problem)
    assert (ours.iterations, ours.evaluations) == (twin.iterations, twin.evaluations)
    np.testing.assert_allclose(ours.L, twin.L, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.loss, twin.loss, rtol=1e-9)


# --- invariants -------------------------------------------------------------------------------------------------------


def test_conjugate_directions_that_cancel_give_way_to_the_gradient(isa):
    """On a circle all of them do, and what is left of one is rounding, which differs for a sum and a mean."""
    z, L = np.random.default_rng(0).standard_normal((5, 2)), np.array([[0.8991241], [-0.43769378]])
    triplets = np.array([[1, 4, 3], [0, 1, 4], [2, 0, 3], [3, 4, 0], [0, 4, 0], [2, 0, 1], [2, 2, 2]])
    for minimise in (sf.riemannian_cg, reference.riemannian_cg):
        total, mean = (minimise(L, z, triplets, 45.0, 4, reduction) for reduction in ("sum", "mean"))
        assert total.iterations == mean.iterations == 4 and total.grad_norm < 1e-3
        np.testing.assert_allclose(total.L, mean.L, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stays_on_the_manifold(isa, dtype):
    rng = np.random.default_rng(2)
    z, triplets = mini_batch(rng, dtype)
    result = sf.riemannian_cg(random_stiefel((64, 20), rng, dtype), z, triplets, iterations=40)
    assert result.iterations >= (30 if dtype == np.float32 else 40)  # no step lowers it further in float32
    assert drift(result.L) <= 8 * np.finfo(dtype).eps
    loss = sf.angular_loss(z.astype(np.float64), triplets, result.L.astype(np.float64))
    np.testing.assert_allclose(result.loss, loss, rtol=100 * np.finfo(dtype).eps)


@given(metric_problems())
def test_no_answer_leaves_the_manifold_or_misreports_its_loss(isa, problem):
    assert_holds(sf.riemannian_cg(**problem), problem)


@given(metric_problems())
def test_twin_stays_on_the_manifold(problem):
    assert_holds(reference.riemannian_cg(**problem), problem)


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_steps_stay_on_the_manifold(isa, dtype):
    for iterations in range(12):
        problem = beside_the_maximum(dtype) | {"alpha": 40.0, "iterations": iterations, "weight": None}
        assert_holds(sf.riemannian_cg(**problem), problem)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stops_where_the_loss_is_constant(isa, dtype):
    """L is square: LLᵀ = I, so that all of the gradient is rounding."""
    for seed in range(20):
        problem = square_problem(seed, dtype)
        for result in (sf.riemannian_cg(**problem), reference.riemannian_cg(**problem)):
            assert (result.iterations, result.evaluations) == (0, 1)
            np.testing.assert_allclose(result.L, problem["L"], rtol=0, atol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("iterations", [0, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_start_slightly_off_the_manifold_is_brought_back(isa, dtype, iterations):
    problem = slightly_off(dtype) | {"iterations": iterations}
    ours, twin = sf.riemannian_cg(**problem), reference.riemannian_cg(**problem)
    assert drift(ours.L) <= 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(ours.L, twin.L, rtol=0, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [1e15, 1e30])
def test_stays_where_the_loss_overflows(isa, scale):
    problem = square_problem(0, np.float32)
    problem |= {"L": problem["L"][:, :5], "z": np.float32(scale) * problem["z"]}
    result = sf.riemannian_cg(**problem)
    assert drift(result.L) <= 8 * np.finfo(np.float32).eps


def test_finds_an_invariant_subspace(isa):
    """Every negative midway between its pair, far apart: the loss is the sum of |Lᵀ(z - z⁺)|², least on the trailing
    eigenvectors of its matrix."""
    rng = np.random.default_rng(0)
    spread = 1e4 * np.array([1.0, 1.1, 1.2, 3.0, 4.0, 5.0, 6.0, 7.0])
    basis = random_stiefel((8, 8), rng)
    half = 40 * spread * rng.standard_normal((60, 8)) @ basis.T / 2
    z, each = np.vstack([half, -half, 0 * half]), np.arange(60)
    result = sf.riemannian_cg(
        random_stiefel((8, 3), rng), z, np.stack([each, each + 60, each + 120], 1), iterations=300
    )
    values, vectors = np.linalg.eigh(4 * half.T @ half)
    np.testing.assert_allclose(result.loss, values[:3].sum(), rtol=1e-9)
    np.testing.assert_allclose(result.L @ result.L.T, vectors[:, :3] @ vectors[:, :3].T, rtol=0, atol=1e-5)


def test_stops_where_there_is_nothing_to_gain(isa):
    z, L, none = np.ones((4, 3), np.float32), np.eye(3, 2, dtype=np.float32), np.zeros((0, 3), np.int64)
    for triplets in (none, np.array([[0, 0, 0], [1, 2, 3]])):
        for reduction in ("sum", "mean"):
            result = sf.riemannian_cg(L, z, triplets, reduction=reduction)
            assert result.iterations == 0 and result.grad_norm == 0
            np.testing.assert_array_equal(result.L, L)


def test_weights_of_zero_leave_nothing_to_gain(isa):
    (z, triplets), L = mini_batch(np.random.default_rng(0)), random_stiefel((64, 8), np.random.default_rng(1))
    result = sf.riemannian_cg(L, z, triplets, weight=np.zeros(len(triplets)))
    assert result[1:] == (0.0, 0.0, 0, 1)
    np.testing.assert_array_equal(result.L, L)


def test_depends_on_the_points_of_triplets_only():
    z, triplets = mini_batch(np.random.default_rng(0))
    L = random_stiefel((64, 8), np.random.default_rng(1))
    used = np.unique(triplets)
    among_fewer = sf.riemannian_cg(L, z[used], np.searchsorted(used, triplets))
    np.testing.assert_array_equal(sf.riemannian_cg(L, z, triplets).L, among_fewer.L)


# --- backends agree ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [2, 3])
def test_same_bits_for_any_thread_count(isa, num_threads):
    rng = np.random.default_rng(0)
    z, triplets = rng.standard_normal((900, 64)), rng.integers(0, 900, (5000, 3))
    L = random_stiefel((64, 40), rng)
    with threadpool_limits(1):
        alone = sf.riemannian_cg(L, z, triplets, iterations=3)
    with threadpool_limits(num_threads):
        together = sf.riemannian_cg(L, z, triplets, iterations=3)
    np.testing.assert_array_equal(together.L, alone.L)
    assert together[1:] == alone[1:]


# --- torch ------------------------------------------------------------------------------------------------------------


def test_torch_equals_numpy():
    rng = np.random.default_rng(0)
    (z, triplets), L = mini_batch(rng, np.float32), random_stiefel((64, 8), rng, np.float32)
    parameter = torch.nn.Parameter(to_torch(L))
    result = sf.riemannian_cg(parameter, to_torch(z), to_torch(triplets), reduction="mean")
    assert isinstance(result.L, torch.Tensor) and not result.L.requires_grad
    np.testing.assert_array_equal(result.L.numpy(), sf.riemannian_cg(L, z, triplets, reduction="mean").L)
    np.testing.assert_array_equal(parameter.detach().numpy(), L)


def test_registered_operator():
    rng = np.random.default_rng(0)
    (z, triplets), L = mini_batch(rng, np.float32), random_stiefel((64, 8), rng, np.float32)
    z, triplets, L, weight = map(to_torch, (z, triplets, L, rng.random(50).astype(np.float32)))
    operator = _torch.ops.riemannian_cg.default
    torch.library.opcheck(operator, (L, z, triplets, 40.0, 2, "sum", None, None))
    torch.library.opcheck(operator, (L, z, triplets, 45.0, 3, "mean", weight, 2))


def test_compiles_as_one_graph():
    rng = np.random.default_rng(0)
    (z, triplets), L = mini_batch(rng), random_stiefel((64, 8), rng)
    z, triplets, L = map(to_torch, (z, triplets, L))

    def nearer(L, z):
        result = sf.riemannian_cg(torch.nn.functional.normalize(L, dim=0), z, triplets, iterations=3)
        return 2 * result.L, result.loss + result.iterations

    compiled = torch.compile(nearer, fullgraph=True, backend="aot_eager")
    for found, right in zip(compiled(L, z), nearer(L, z), strict=True):
        torch.testing.assert_close(found, torch.as_tensor(right, dtype=found.dtype), rtol=0, atol=0)


# --- errors -----------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
L = random_stiefel((6, 3), RNG)
Z, TRIPLETS = RNG.standard_normal((10, 6)), RNG.integers(0, 10, (4, 3))


@pytest.mark.parametrize(
    "error, name, changed",
    [
        (TypeError, "L", {"L": L.tolist()}),
        (ValueError, "L", {"L": L[None]}),
        (ValueError, "L", {"L": L[:-1]}),
        (ValueError, "L", {"L": 2 * L}),
        (ValueError, "L", {"L": np.full((6, 3), np.nan)}),
        (TypeError, "L", {"L": L.astype(np.float32)}),
        (TypeError, "z", {"z": Z.tolist()}),
        (ValueError, "z", {"z": np.full((10, 6), np.inf)}),
        (TypeError, "triplets", {"triplets": TRIPLETS.astype(float)}),
        (ValueError, "triplets", {"triplets": TRIPLETS + 10}),
        (ValueError, "alpha", {"alpha": 90.0}),
        (ValueError, "iterations", {"iterations": -1}),
        (TypeError, "iterations", {"iterations": 2.5}),
        (ValueError, "reduction", {"reduction": "none"}),
        (ValueError, "weight", {"weight": np.ones(5)}),
        (ValueError, "weight", {"weight": np.full(4, np.nan)}),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_refuses(refuses, library, error, name, changed):
    refuses(error, name, sf.riemannian_cg, **LIBRARIES[library]({"L": L, "z": Z, "triplets": TRIPLETS, **changed}))
