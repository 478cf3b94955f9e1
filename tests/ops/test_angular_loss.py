import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, LAYOUTS, LIBRARIES, losses, random_stiefel, relayout, seeds, to_torch
from threadpoolctl import threadpool_limits

import ssdml_fast as sf
from ssdml_fast import _torch, reference
from ssdml_fast._run import angular_loss as run

alphas = st.sampled_from((40.0, 45, 10.0, 60.0))


@st.composite
def cases(draw, reductions=("sum", "mean"), **kwargs):
    """Keyword arguments of the loss; "none" is for the loss without gradients only."""
    z, triplets, L = draw(losses(**kwargs))
    weight = None
    if draw(st.booleans()):
        weight = np.random.default_rng(draw(seeds)).uniform(0, 2, len(triplets)).astype(z.dtype)
    alpha, reduction = draw(alphas), draw(st.sampled_from(reductions))
    return {"z": z, "triplets": triplets, "L": L, "alpha": alpha, "reduction": reduction, "weight": weight}


def widened(case):
    """The same case in float64, for a twin without rounding errors to speak of."""
    floats = {name: case[name].astype(np.float64) for name in ("z", "L", "weight") if case[name] is not None}
    return {**case, **floats}


def tolerances(z, triplets, L, alpha, reduction="sum", weight=None):
    """Largest rounding errors to expect of (loss, grad_z, grad_L), from the norms that enter the formulas."""
    four_t = 4 * np.tan(np.deg2rad(alpha)) ** 2
    norm = max(1.0, np.linalg.norm(z.astype(np.float64), axis=1).max())
    largest = 1 if weight is None else max(1.0, weight.max(initial=0))
    unit = 4 * (z.shape[1] + 4) * np.finfo(z.dtype).eps * largest
    terms = len(triplets) + 1 if reduction == "sum" else 1
    loss = unit * (1 + four_t) * norm**2
    grad_y = (2 + four_t) * norm * (loss + unit)
    return terms * loss, terms * grad_y, terms * grad_y * norm * len(z)


# --- agrees with reference --------------------------------------------------------------------------------------------


@given(cases(scales=(1.0, 10.0)))
def test_twin_agrees_with_torch_autograd(case):
    case = widened(case)
    loss, grad_z, grad_L = reference.angular_loss_and_grad(**case)
    z, L = (torch.from_numpy(case[name]).requires_grad_() for name in ("z", "L"))
    expected = torch_angular_loss(z, case["triplets"], L, case["alpha"], case["reduction"], case["weight"])
    expected.sum().backward()
    np.testing.assert_allclose(loss, expected.detach(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(grad_z, z.grad, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(grad_L, L.grad, rtol=1e-8, atol=1e-8)


def torch_angular_loss(z, triplets, L, alpha, reduction, weight):
    anchor, positive, negative = (L.T @ z[i].T for i in triplets.T)  # one column per triplet
    centre = (anchor + positive) / 2
    four_t = 4 * np.tan(np.deg2rad(alpha)) ** 2
    margin = (anchor - positive).square().sum(0) - four_t * (negative - centre).square().sum(0)
    each = torch.nn.functional.softplus(margin, threshold=50)
    if weight is not None:
        each = torch.from_numpy(weight) * each
    return {"none": each, "sum": each.sum(), "mean": each.sum() / max(len(each), 1)}[reduction]


@given(cases(reductions=("sum", "mean", "none")))
def test_agrees_with_twin(isa, case):
    loss = sf.angular_loss(**case)
    assert np.shape(loss) == ((len(case["triplets"]),) if case["reduction"] == "none" else ())
    assert loss.dtype == case["z"].dtype
    assert_close(case, (loss, reference.angular_loss(**widened(case))))


@given(cases())
def test_gradients_agree_with_twin(isa, case):
    results = sf.angular_loss_and_grad(**case)
    for result, shape in zip(results, ((), case["z"].shape, case["L"].shape), strict=True):
        assert result.shape == shape and result.dtype == case["z"].dtype
    assert_close(case, *zip(results, reference.angular_loss_and_grad(**widened(case)), strict=True))
    np.testing.assert_array_equal(sf.angular_loss(**case), results[0])


def assert_close(case, *pairs):
    """Equal up to rounding: pairs of (loss, grad_z, grad_L), or of as many of them as there are."""
    rtol = 1e-5 if case["z"].dtype == np.float32 else 1e-12
    for (ours, expected), atol in zip(pairs, tolerances(**case), strict=False):
        np.testing.assert_allclose(ours, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "n, d, width, count", [(300, 128, 64, 100), (50, 37, 19, 3000), (2000, 16, 16, 700), (7, 300, 130, 9)]
)
def test_agrees_with_twin_at_larger_sizes(isa, n, d, width, count, dtype):
    rng = np.random.default_rng(n)
    z = rng.standard_normal((n, d))
    z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(dtype)
    case = {
        "z": z,
        "triplets": rng.integers(0, n, (count, 3)),
        "L": random_stiefel((d, width), rng, dtype),
        "alpha": 45.0,
    }
    twin = reference.angular_loss_and_grad(**{**case, "z": z.astype(float), "L": case["L"].astype(float)})
    eps = np.finfo(dtype).eps
    for ours, expected in zip(sf.angular_loss_and_grad(**case), twin, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=100 * eps, atol=100 * eps * np.abs(expected).max())


# --- invariants -------------------------------------------------------------------------------------------------------


@given(cases())
def test_gradients_of_a_triplet_sum_to_zero(case):
    _, grad_z, _ = sf.angular_loss_and_grad(**case)
    np.testing.assert_allclose(grad_z.sum(0), 0, rtol=0, atol=tolerances(**case)[1] * len(grad_z))


@given(cases(scales=(1.0,)), seeds)
def test_rotation_invariance(case, seed):
    case = widened(case)
    d, width = case["L"].shape
    rng = np.random.default_rng(seed)
    rotation, within = random_stiefel((d, d), rng), random_stiefel((width, width), rng)
    rotated = {**case, "z": case["z"] @ rotation, "L": rotation.T @ case["L"] @ within}
    loss, grad_z, grad_L = sf.angular_loss_and_grad(**case)
    other, other_grad_z, other_grad_L = sf.angular_loss_and_grad(**rotated)
    np.testing.assert_allclose(other, loss, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(other_grad_z, grad_z @ rotation, rtol=0, atol=1e-9)
    np.testing.assert_allclose(other_grad_L, rotation.T @ grad_L @ within, rtol=0, atol=1e-9)


@given(cases(scales=(1.0,)), seeds)
def test_translation_invariance(case, seed):
    case = widened(case)
    offset = np.random.default_rng(seed).standard_normal(case["z"].shape[1])
    loss, moved = sf.angular_loss(**case), sf.angular_loss(**{**case, "z": case["z"] + offset})
    np.testing.assert_allclose(moved, loss, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e2, 1e6, 1e15])
def test_softplus_never_overflows(isa, scale, dtype):
    z = (scale * np.array([[0, 0], [1, 0], [0.5, 0], [0.5, 5]])).astype(dtype)
    triplets = np.array([[0, 1, 2], [0, 1, 3], [0, 0, 0]])  # m = scale^2, very negative, zero
    with np.errstate(all="raise"):
        loss = sf.angular_loss(z, triplets, np.eye(2, dtype=dtype), reduction="none")
        _, grad_z, grad_L = sf.angular_loss_and_grad(z, triplets, np.eye(2, dtype=dtype))
    np.testing.assert_allclose(loss, [scale**2, 0, np.log(2)], rtol=1e-5)
    assert np.isfinite(grad_z).all() and np.isfinite(grad_L).all()
    np.testing.assert_allclose(grad_z[:, 0], [-2 * scale, 2 * scale, 0, 0], rtol=1e-5)


def test_margins_beyond_the_range_of_float32(isa):
    """|a|^2 and 4 t |b|^2 overflow; their difference decides."""
    z = (1e20 * np.array([[0, 0], [1, 0], [5, 5]])).astype(np.float32)
    loss = sf.angular_loss(z, np.array([[0, 1, 2], [0, 1, 1]]), np.eye(2, dtype=np.float32), reduction="none")
    np.testing.assert_array_equal(loss, [0, np.inf])


@pytest.mark.parametrize("as_array", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_a_sum_beyond_the_range_of_float32_is_infinite(isa, as_array):
    """Though the sum that is kept in float64 is not, nor any loss."""
    z = as_array((1.5e19 * np.array([[0, 0], [1, 0]])).astype(np.float32))
    triplets, L = as_array(np.array([[0, 1, 0]] * 9)), as_array(np.eye(2, dtype=np.float32))
    assert np.isfinite(np.asarray(sf.angular_loss(z, triplets, L, reduction="none"))).all()
    for loss in (sf.angular_loss(z, triplets, L), sf.angular_loss_and_grad(z, triplets, L)[0]):
        assert loss == np.inf and loss.dtype == z.dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_softplus_to_the_last_digits(isa, dtype):
    """Margins of either sign over the whole range in which exp is a normal number."""
    lowest = -np.log(np.finfo(dtype).tiny)
    x = np.sqrt(np.geomspace(1e-6, lowest * 0.99, 500) / 4).astype(dtype)
    z, i = np.concatenate([[0], x, -x])[:, None].astype(dtype), np.arange(1, 501)
    apart = np.stack([i, i + 500, 0 * i], 1)  # m = (2 x)^2
    close = np.stack([0 * i, 0 * i, i], 1)  # m = -4 x^2, as tan 45° = 1
    m = 4 * np.concatenate([x, x]).astype(np.float64) ** 2 * np.repeat([1, -1], 500)
    ours = sf.angular_loss(z, np.concatenate([apart, close]), np.ones((1, 1), dtype), 45.0, "none")
    error = np.abs(ours / np.logaddexp(0, m) - 1) / (4 + np.maximum(0, -m))  # exp m magnifies the rounding of m
    assert error.max() <= 2 * np.finfo(dtype).eps


def test_small_losses_keep_their_digits(isa):
    z = np.array([[0.0], [0.0], [5.0]])
    loss = sf.angular_loss(z, np.array([[0, 1, 2]]), np.ones((1, 1)))
    np.testing.assert_allclose(loss, np.exp(-100 * np.tan(np.deg2rad(40)) ** 2), rtol=1e-10)


@pytest.mark.parametrize("triplet", [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
def test_repeated_indices_in_one_triplet(isa, triplet):
    rng = np.random.default_rng(0)
    z, L, triplets = rng.standard_normal((2, 5)), random_stiefel((5, 3), rng), np.array([triplet])
    ours, twin = sf.angular_loss_and_grad(z, triplets, L), reference.angular_loss_and_grad(z, triplets, L)
    for a, b in zip(ours, twin, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_points_that_no_triplet_uses_change_nothing(isa, dtype):
    rng = np.random.default_rng(0)
    z, L = rng.standard_normal((1000, 20)).astype(dtype), random_stiefel((20, 7), rng, dtype)
    rows = np.sort(rng.choice(1000, 60, replace=False))
    triplets, weight = rng.integers(0, 60, (90, 3)), rng.uniform(0, 2, 90).astype(dtype)
    alone = sf.angular_loss_and_grad(z[rows], triplets, L, weight=weight)
    loss, grad_z, grad_L = sf.angular_loss_and_grad(z, rows[triplets], L, weight=weight)
    for ours, expected in zip((loss, grad_z[rows], grad_L), alone, strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert not np.delete(grad_z, rows, axis=0).any()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_no_triplets(isa, reduction):
    z, L, none = np.ones((4, 3), np.float32), np.eye(3, 2, dtype=np.float32), np.zeros((0, 3), np.int64)
    loss, grad_z, grad_L = sf.angular_loss_and_grad(z, none, L, reduction=reduction)
    assert loss.shape == () and loss == 0
    assert grad_z.shape == (4, 3) and not grad_z.any() and grad_L.shape == (3, 2) and not grad_L.any()
    assert sf.angular_loss(z, none, L, reduction="none").shape == (0,)


@given(cases(scales=(1.0,)))
def test_reductions_and_weight(case):
    case = widened(case)
    weight, count = case.pop("weight"), len(case["triplets"])
    each = sf.angular_loss(**{**case, "reduction": "none"})
    weight = np.ones(count) if weight is None else weight
    weighted = {
        reduction: sf.angular_loss(**{**case, "reduction": reduction}, weight=weight)
        for reduction in ("none", "sum", "mean")
    }
    np.testing.assert_allclose(weighted["none"], weight * each, rtol=1e-12)
    np.testing.assert_allclose(weighted["sum"], (weight * each).sum(), rtol=1e-12)
    np.testing.assert_allclose(weighted["mean"], (weight * each).sum() / max(count, 1), rtol=1e-12)


@given(cases(), st.sampled_from(LAYOUTS[:5]))
def test_any_layout(case, layout):
    laid_out = {
        name: relayout(value, layout) if isinstance(value, np.ndarray) else value for name, value in case.items()
    }
    before = [value.tobytes() for value in laid_out.values() if isinstance(value, np.ndarray)]
    for ours, expected in zip(sf.angular_loss_and_grad(**laid_out), sf.angular_loss_and_grad(**case), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert before == [value.tobytes() for value in laid_out.values() if isinstance(value, np.ndarray)]


@given(cases())
def test_any_integer_type_of_triplets(case):
    for dtype in (np.int32, np.uint8):
        np.testing.assert_array_equal(
            sf.angular_loss(**{**case, "triplets": case["triplets"].astype(dtype)}), sf.angular_loss(**case)
        )


# --- backends agree ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_threads", [2, 3])
def test_same_bits_for_any_thread_count(isa, num_threads, dtype):
    rng = np.random.default_rng(0)
    z, L = rng.standard_normal((400, 240)).astype(dtype), random_stiefel((240, 60), rng, dtype)  # products share too
    triplets = rng.integers(0, 400, (20_000, 3)) // 5 * 5  # every row in hundreds of triplets
    with threadpool_limits(1):
        alone = sf.angular_loss_and_grad(z, triplets, L)
    with threadpool_limits(num_threads):
        for _ in range(3):
            for ours, expected in zip(sf.angular_loss_and_grad(z, triplets, L), alone, strict=True):
                np.testing.assert_array_equal(ours, expected)


# --- torch ------------------------------------------------------------------------------------------------------------


@given(cases())
def test_torch_equals_numpy(case):
    """Up to rounding: each library multiplies matrices its own way."""
    tensors = to_torch(case)
    expected = sf.angular_loss_and_grad(**case)
    results = sf.angular_loss_and_grad(**tensors)
    assert all(isinstance(result, torch.Tensor) for result in results)
    assert_close(case, *zip(results, expected, strict=True))
    z, L = tensors["z"].requires_grad_(), tensors["L"].requires_grad_()
    loss = sf.angular_loss(**tensors)
    loss.backward()
    assert_close(case, *zip((loss.detach(), z.grad, L.grad), expected, strict=True))


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(isa, reduction, weighted):
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.standard_normal((6, 5))).requires_grad_()
    L = torch.from_numpy(random_stiefel((5, 3), rng)).requires_grad_()
    triplets = torch.from_numpy(np.vstack([rng.integers(0, 6, (9, 3)), [[1, 1, 2], [3, 4, 3], [5, 5, 5]]]))
    weight = torch.from_numpy(rng.uniform(0, 2, 12)).requires_grad_() if weighted else None

    def loss(z, L, weight):
        return sf.angular_loss(z, triplets, L, 40.0, reduction, weight)

    assert torch.autograd.gradcheck(loss, (z, L, weight))


@pytest.mark.parametrize("which", ["z", "L"])
def test_gradient_of_one_argument_only(which):
    rng = np.random.default_rng(0)
    case = {"z": torch.randn(8, 4), "L": torch.from_numpy(random_stiefel((4, 2), rng, np.float32))}
    case[which].requires_grad_()
    triplets = torch.from_numpy(rng.integers(0, 8, (10, 3)))
    sf.angular_loss(**case, triplets=triplets).backward()
    detached = {name: value.detach() for name, value in case.items()}
    _, grad_z, grad_L = sf.angular_loss_and_grad(**detached, triplets=triplets)
    torch.testing.assert_close(case[which].grad, {"z": grad_z, "L": grad_L}[which])
    assert case["L" if which == "z" else "z"].grad is None


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_gradient_of_the_weight_only(reduction):
    z, L, triplets = torch.randn(8, 4), torch.eye(4, 2), torch.randint(0, 8, (10, 3))
    weight = torch.rand(10, requires_grad=True)
    sf.angular_loss(z, triplets, L, 40.0, reduction, weight).sum().backward()
    each = sf.angular_loss(z, triplets, L, reduction="none")
    torch.testing.assert_close(weight.grad, each / 10 if reduction == "mean" else each)


def test_chain_rule_through_a_network():
    torch.manual_seed(0)
    net = torch.nn.Linear(7, 5).double()
    x, L = torch.randn(10, 7).double(), torch.eye(5, 3).double()
    triplets = torch.randint(0, 10, (20, 3))
    gradients = []
    for loss in (
        sf.angular_loss(net(x), triplets, L, reduction="mean"),
        torch_angular_loss(net(x), triplets.numpy(), L, 40.0, "mean", None),
    ):
        gradients += torch.autograd.grad(3 * loss, net.weight)
    torch.testing.assert_close(*gradients)


def test_double_backward_raises():
    z, L = torch.randn(6, 4, requires_grad=True), torch.eye(4, 2, requires_grad=True)
    loss = sf.angular_loss(z, torch.tensor([[0, 1, 2], [3, 4, 5]]), L)
    (grad,) = torch.autograd.grad(loss, z, create_graph=True)
    with pytest.raises(RuntimeError, match="angular_loss cannot be differentiated twice"):
        grad.sum().backward()


def test_no_gradient_is_computed_for_none_wanted(monkeypatch):
    wanted = []
    forward = run.forward

    def note(*args, **kw):
        wanted.append(kw["grad"])
        return forward(*args, **kw)

    monkeypatch.setattr(run, "forward", note)
    z, L, triplets = torch.randn(6, 4, requires_grad=True), torch.eye(4, 2), torch.tensor([[0, 1, 2], [3, 4, 5]])
    with torch.no_grad():
        sf.angular_loss(z, triplets, L)
    sf.angular_loss(z.detach(), triplets, L)
    assert wanted == [False, False]
    sf.angular_loss(z, triplets, L).backward()
    assert wanted == [False, False, True]  # one pass for both, none in the backward


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    torch.manual_seed(0)
    z, L = torch.randn(20, 6, requires_grad=True), torch.eye(6, 3, requires_grad=True)
    triplets = torch.randint(0, 20, (30, 3))
    with torch.autocast("cpu", dtype):
        loss = sf.angular_loss(z, triplets, L, reduction="mean")
    assert loss.dtype == torch.float32
    loss.backward()
    assert z.grad.dtype == L.grad.dtype == torch.float32
    expected, grad_z, _ = sf.angular_loss_and_grad(z.detach(), triplets, L.detach(), reduction="mean")
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(z.grad, grad_z, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_functional_gradients(reduction):
    z, L, triplets = torch.randn(20, 6), torch.eye(6, 3), torch.randint(0, 20, (30, 3))
    weight = torch.rand(30)

    def loss(z, L, weight):
        return sf.angular_loss(z, triplets, L, 40.0, reduction, weight).sum()

    grads, value = torch.func.grad_and_value(loss, argnums=(0, 1, 2))(z, L, weight)
    expected = sf.angular_loss_and_grad(z, triplets, L, 40.0, "mean" if reduction == "mean" else "sum", weight)
    for ours, right in zip((value, *grads), expected, strict=False):
        torch.testing.assert_close(ours, right)
    each = sf.angular_loss(z, triplets, L, reduction="none") / (30 if reduction == "mean" else 1)
    torch.testing.assert_close(grads[2], each)
    with pytest.raises(RuntimeError, match="angular_loss cannot be differentiated twice"):
        torch.func.grad(lambda z: torch.func.grad(loss)(z, L, weight).square().sum())(z)
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(lambda z: loss(z, L, weight))(z.expand(2, 20, 6))


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_a_torch_that_does_not_say_whether_it_transforms(monkeypatch, reduction):
    """Then every call takes the way of transformed ones, to the same loss and gradients."""
    z, L = torch.randn(20, 6, requires_grad=True), torch.eye(6, 3, requires_grad=True)
    triplets, weight = torch.randint(0, 20, (30, 3)), torch.rand(30, requires_grad=True)

    def loss_and_gradients():
        loss = sf.angular_loss(z, triplets, L, 40.0, reduction, weight).sum()
        return loss, *torch.autograd.grad(loss, (z, L, weight))

    expected = loss_and_gradients()
    monkeypatch.setattr(_torch.angular_loss, "_is_transformed", lambda: True)
    for ours, right in zip(loss_and_gradients(), expected, strict=True):
        torch.testing.assert_close(ours, right)
    with torch.no_grad():
        torch.testing.assert_close(sf.angular_loss(z, triplets, L, 40.0, reduction, weight).sum(), expected[0])


def test_gradient_scales_with_what_flows_in():
    z, L, triplets = torch.randn(20, 6, requires_grad=True), torch.eye(6, 3), torch.randint(0, 20, (30, 3))
    (grad,) = torch.autograd.grad(sf.angular_loss(z, triplets, L), z)
    (scaled,) = torch.autograd.grad(sf.angular_loss(z, triplets, L), z, torch.tensor(-3.0))
    torch.testing.assert_close(scaled, -3 * grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_computed_in_float32(dtype):
    z, L = torch.randn(20, 6).to(dtype), torch.eye(6, 3).to(dtype)
    triplets = torch.randint(0, 20, (30, 3))
    loss = sf.angular_loss(z.requires_grad_(), triplets, L)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, sf.angular_loss(z.float(), triplets, L.float()))
    loss.backward()
    assert z.grad.dtype == dtype
    _, grad_z, _ = sf.angular_loss_and_grad(z.detach().float(), triplets, L.float())
    torch.testing.assert_close(z.grad.float(), grad_z, rtol=0.02, atol=0.02)


def test_registered_operators():
    y = torch.randn(10, 3, dtype=torch.float64)
    triplets, losses = torch.randint(0, 10, (7, 3)), torch.rand(7, dtype=torch.float64)
    operators = _torch.ops
    torch.library.opcheck(operators.projected_losses.default, (y, triplets, 40.0, None))
    torch.library.opcheck(operators.projected_losses.default, (y.clone().requires_grad_(), triplets, 40.0, 2))
    torch.library.opcheck(operators.projected_losses_backward.default, (losses, y, triplets, 40.0, None))
    for mean, weight in itertools.product((False, True), (None, losses, losses.clone().requires_grad_())):
        torch.library.opcheck(operators.projected_loss.default, (y, triplets, weight, 40.0, mean, None))
        torch.library.opcheck(
            operators.projected_loss.default, (y.clone().requires_grad_(), triplets, weight, 40.0, mean, 2)
        )


@pytest.mark.parametrize("num_threads", [None, 2])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_compiles_as_one_graph(reduction, weighted, num_threads):
    z, L = torch.randn(10, 4, requires_grad=True), torch.eye(4, 2, requires_grad=True)
    triplets, weight = torch.randint(0, 10, (7, 3)), torch.rand(7) if weighted else None

    def loss(z, L):
        return sf.angular_loss(
            torch.nn.functional.normalize(z), triplets, L, 45.0, reduction, weight, num_threads
        ).mean()

    torch.compiler.reset()  # which would take the many parameters of this test for one function's
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(function(z, L), (z, L)) for function in (compiled, loss)]
    torch.testing.assert_close(*gradients)


# --- errors -----------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
Z, L = RNG.standard_normal((10, 4)), random_stiefel((4, 2), RNG)
TRIPLETS = RNG.integers(0, 10, (6, 3))


def with_entry(x, value):
    x = x.copy()
    x.flat[-1] = value
    return x


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("function", ["angular_loss", "angular_loss_and_grad"])
@pytest.mark.parametrize(
    "error, name, changed",
    [
        (TypeError, "z", {"z": Z.tolist()}),
        (TypeError, "z", {"z": Z.astype(int)}),
        (TypeError, "z", {"z": Z.astype(complex)}),
        (TypeError, "z", {"z": Z > 0}),
        (ValueError, "z", {"z": Z[0]}),
        (ValueError, "z", {"z": with_entry(Z, np.nan)}),
        (ValueError, "z", {"z": with_entry(Z, np.inf)}),
        (TypeError, "triplets", {"triplets": TRIPLETS.tolist()}),
        (TypeError, "triplets", {"triplets": TRIPLETS.astype(float)}),
        (TypeError, "triplets", {"triplets": TRIPLETS > 3}),
        (ValueError, "triplets", {"triplets": TRIPLETS[0]}),
        (ValueError, "triplets", {"triplets": TRIPLETS[:, :2]}),
        (ValueError, "triplets", {"triplets": with_entry(TRIPLETS, 10)}),
        (ValueError, "triplets", {"triplets": with_entry(TRIPLETS, -1)}),
        (ValueError, "triplets", {"triplets": with_entry(TRIPLETS, 2**40)}),
        (TypeError, "L", {"L": L.tolist()}),
        (TypeError, "L", {"L": L.astype(int)}),
        (TypeError, "L", {"L": L.astype(complex)}),
        (ValueError, "L", {"L": L[:, 0]}),
        (ValueError, "L", {"L": L[:-1]}),
        (ValueError, "L", {"L": with_entry(L, np.nan)}),
        (ValueError, "L", {"L": L[:, :0]}),
        (TypeError, "L", {"L": L.astype(np.float32)}),
        (ValueError, "alpha", {"alpha": 0}),
        (ValueError, "alpha", {"alpha": 90.0}),
        (ValueError, "alpha", {"alpha": -40.0}),
        (ValueError, "alpha", {"alpha": np.nan}),
        (TypeError, "alpha", {"alpha": "40"}),
        (TypeError, "alpha", {"alpha": None}),
        (ValueError, "reduction", {"reduction": "max"}),
        (ValueError, "reduction", {"reduction": None}),
        (TypeError, "weight", {"weight": [1.0] * 6}),
        (TypeError, "weight", {"weight": np.ones(6, int)}),
        (ValueError, "weight", {"weight": np.ones(5)}),
        (ValueError, "weight", {"weight": np.ones((6, 1))}),
        (ValueError, "weight", {"weight": np.full(6, np.nan)}),
    ],
)
def test_refuses(refuses, library, function, error, name, changed):
    arguments = LIBRARIES[library]({"z": Z, "triplets": TRIPLETS, "L": L, **changed})
    refuses(error, name, getattr(sf, function), **arguments)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("function", ["angular_loss", "angular_loss_and_grad"])
@pytest.mark.parametrize("shape", [(10, 4, 3), (3000, 40, 32)])  # the larger is looked at by several threads
def test_refuses_projections_that_overflow(refuses, library, function, shape):
    n, d, l = shape
    z, L = np.ones((n, d), np.float32), np.ones((d, l), np.float32)
    z[-1], L[:, -1] = 1e30, 1e30
    arguments = LIBRARIES[library]({"z": z, "triplets": np.arange(3 * n).reshape(n, 3) % n, "L": L})
    refuses(ValueError, "z @ L", getattr(sf, function), **arguments)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["z", "L"])
def test_refuses_values_that_no_triplet_would_see(refuses, library, name):
    arguments = {"z": np.ones((100, 4)), "triplets": np.zeros((int(name == "z"), 3), int), "L": np.ones((4, 2))}
    arguments[name][-1, -1] = np.nan
    refuses(ValueError, name, sf.angular_loss, **LIBRARIES[library](arguments))


def test_refuses_gradients_of_each_loss(refuses):
    refuses(ValueError, "reduction", sf.angular_loss_and_grad, Z, TRIPLETS, L, reduction="none")


@pytest.mark.parametrize("function", ["angular_loss", "angular_loss_and_grad"])
def test_refuses_mixed_libraries(refuses, function):
    arguments = {"z": Z, "triplets": TRIPLETS, "L": L, "weight": np.ones(6)}
    tensors = to_torch(arguments)
    for name in ("triplets", "L", "weight"):
        refuses(TypeError, name, getattr(sf, function), **{**arguments, name: tensors[name]})
        refuses(TypeError, name, getattr(sf, function), **{**tensors, name: arguments[name]})


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_weight_of_any_layout(reduction):
    rng = np.random.default_rng(0)
    z, L = torch.from_numpy(rng.standard_normal((20, 6))), torch.from_numpy(rng.standard_normal((6, 3)))
    triplets = torch.from_numpy(rng.integers(0, 20, (40, 3)))

    def gradient(weight):
        points = z.clone().requires_grad_()
        sf.angular_loss(points, triplets, L, reduction=reduction, weight=weight).backward()
        return points.grad

    every_other = torch.from_numpy(rng.uniform(0, 2, 80))[::2]
    torch.testing.assert_close(gradient(every_other), gradient(every_other.clone()), rtol=0, atol=0)
    one = torch.full((1,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(gradient(one.expand(40)), gradient(one.repeat(40)), rtol=0, atol=0)
