"""The optimisers: each step against its formula, whole runs against known answers and other libraries."""

import copy
import io
import pickle

import geoopt
import numpy as np
import pymanopt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimizers import FIRST_ORDER, OPTIMIZERS, gaussian, matrix
from strategies import orthonormalised, random_stiefel, seeds, stiefel_points
from threadpoolctl import threadpool_limits

import ssdml_fast as sf
from ssdml_fast.optim import CayleyAdam, CayleySGD, RiemannianCG


def drift(L):
    L = L.detach().double()
    return float((L.mT @ L - torch.eye(L.shape[-1], dtype=L.dtype)).abs().max())


def tangent(L, ambient):
    """The part of a NumPy matrix along the manifold."""
    return ambient - L @ (L.T @ ambient + ambient.T @ L) / 2


def rotation(L, direction, step):
    """The Cayley rotation of the d x d formula: minus `step` along `direction`, which is tangent."""
    lift = (np.eye(len(L)) - L @ L.T / 2) @ direction @ L.T
    half = step / 2 * (lift - lift.T)
    return np.linalg.solve(np.eye(len(L)) + half, np.eye(len(L)) - half)


def closure_of(optimizer, objective):
    def closure():
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    return closure


# ---- one step


@given(stiefel_points(batched=False), st.sampled_from((0.0, 1e-3, 0.3, 2.0)))
def test_sgd_without_momentum_follows_the_curve_of_the_projected_gradient(case, lr):
    start, grad = (a.astype(np.float64) for a in case)
    start = orthonormalised(start)
    L = torch.nn.Parameter(torch.from_numpy(start.copy()))
    L.grad = torch.from_numpy(grad)
    CayleySGD([L], lr).step()
    expected = rotation(start, tangent(start, grad), lr) @ start
    np.testing.assert_allclose(L.detach(), expected, rtol=0, atol=1e-10 * (1 + lr * np.linalg.norm(grad)))


def test_sgd_is_cayley_update_where_the_objective_is_one_of_the_metric():
    L = matrix((6, 3))
    scatter = gaussian(6, 6)
    (L @ L.T * scatter).sum().backward()
    expected = sf.cayley_update(L, L.grad, 0.2)
    CayleySGD([L], 0.2).step()
    torch.testing.assert_close(L.detach(), expected, rtol=0, atol=1e-13)


def test_momentum_is_carried_by_the_rotation_that_moves_L():
    L = matrix((7, 3))
    optimizer = CayleySGD([L], lr=0.3, momentum=0.9)
    direction = np.zeros((7, 3))
    for i in range(5):
        start, grad = L.detach().numpy().copy(), gaussian(7, 3, seed=i)
        direction = tangent(start, 0.9 * direction + grad.numpy())
        turn = rotation(start, direction, 0.3)
        L.grad = grad
        optimizer.step()
        np.testing.assert_allclose(L.detach(), turn @ start, rtol=0, atol=1e-12)
        buffer = optimizer.state[L]["momentum_buffer"].numpy()
        np.testing.assert_allclose(buffer, turn @ direction, rtol=0, atol=1e-12)
        along = L.detach().numpy().T @ buffer
        np.testing.assert_allclose(along, -along.T, rtol=0, atol=1e-12)  # tangent where L is now
        np.testing.assert_allclose(np.linalg.norm(buffer), np.linalg.norm(direction))
        direction = buffer


def test_adam_takes_the_papers_first_step():
    """Algorithm 2 of Li, Li, Todorovic, by its fixed-point iteration, carried on until it converges."""
    X, grad = random_stiefel((8, 3), np.random.default_rng(0)), gaussian(8, 3).numpy()
    lr, (beta1, beta2) = 0.4, (0.9, 0.99)
    moment, second = (1 - beta1) * grad, (1 - beta2) * np.linalg.norm(grad) ** 2
    scale = (1 - beta1) * np.sqrt(second / (1 - beta2))
    W_hat = moment @ X.T - X @ (X.T @ moment @ X.T) / 2
    W = (W_hat - W_hat.T) / scale
    Y = X - lr * W @ X
    for _ in range(200):
        Y = X - lr / 2 * W @ (X + Y)
    L = torch.nn.Parameter(torch.from_numpy(X.copy()))
    L.grad = torch.from_numpy(grad)
    optimizer = CayleyAdam([L], lr, betas=(beta1, beta2))
    optimizer.step()
    np.testing.assert_allclose(L.detach(), Y, rtol=0, atol=1e-8)
    turn = np.linalg.solve(np.eye(8) + lr / 2 * W, np.eye(8) - lr / 2 * W)
    np.testing.assert_allclose(optimizer.state[L]["exp_avg"], turn @ tangent(X, moment), rtol=0, atol=1e-8)


def test_adam_forgets_the_size_of_the_gradient():
    """Steps have about the length lr, whatever the objective is multiplied by."""
    ends = []
    for factor in (1e-3, 1e3):
        L = matrix((8, 3))
        optimizer = CayleyAdam([L], 0.1)
        for i in range(5):
            start = L.detach().clone()
            L.grad = factor * gaussian(8, 3, seed=i)
            optimizer.step()
            assert 0.01 < float((L.detach() - start).norm()) < 0.11
        ends.append(L.detach())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-5)


def test_one_sgd_step_is_geoopts():
    L, scatter = matrix((9, 4)), gaussian(9, 9)
    theirs = geoopt.ManifoldParameter(L.detach().clone(), manifold=geoopt.CanonicalStiefel())
    for parameter, optimizer in (
        (L, CayleySGD([L], 0.1)),
        (theirs, geoopt.optim.RiemannianSGD([theirs], 0.1)),
    ):
        (parameter @ parameter.T * scatter).sum().backward()
        optimizer.step()
    torch.testing.assert_close(L.detach(), theirs.detach(), rtol=0, atol=1e-12)


def test_momentum_is_carried_as_geoopt_carries_it():
    L, manifold = matrix((9, 4)), geoopt.CanonicalStiefel()
    start, grad = L.detach().clone(), gaussian(9, 4)
    direction = geoopt.EuclideanStiefel().egrad2rgrad(start, grad)
    lift = direction - start @ (start.T @ direction) / 2  # geoopt's retraction along it follows the same curve
    L.grad = grad
    optimizer = CayleySGD([L], 0.3, momentum=0.5)
    optimizer.step()
    torch.testing.assert_close(L.detach(), manifold.retr(start, -0.3 * lift), rtol=0, atol=1e-12)
    carried = manifold.transp_follow_retr(start, -0.3 * lift, direction)
    torch.testing.assert_close(optimizer.state[L]["momentum_buffer"], carried, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_a_batch_is_a_loop(name):
    together, grads = matrix((2, 3, 6, 4)), [gaussian(2, 3, 6, 4, seed=i) for i in range(4)]
    alone = [torch.nn.Parameter(L.clone()) for L in together.detach().flatten(0, 1)]
    settings = {"momentum": 0.5} if name == "CayleySGD" else {}
    batched, single = (FIRST_ORDER[name](params, lr=0.2, **settings) for params in ([together], alone))
    for grad in grads:
        together.grad = grad
        for parameter, part in zip(alone, grad.flatten(0, 1), strict=True):
            parameter.grad = part
        batched.step()
        single.step()
    torch.testing.assert_close(together.detach().flatten(0, 1), torch.stack([p.detach() for p in alone]))


# ---- ordinary parameters


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (CayleySGD, torch.optim.SGD, {"lr": 0.1}),
        (CayleySGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        (CayleyAdam, torch.optim.Adam, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.01}),
    ],
)
def test_ordinary_groups_move_as_by_torchs_own(ours, theirs, settings, maximize):
    copies = [[torch.nn.Parameter(gaussian(3, 5, seed=i)) for i in range(2)] for _ in range(2)]
    optimizers = (
        ours(copies[0], stiefel=False, maximize=maximize, **settings),
        theirs(copies[1], maximize=maximize, **settings),
    )
    for i in range(6):
        for parameters, optimizer in zip(copies, optimizers, strict=True):
            parameters[0].grad = gaussian(3, 5, seed=10 + i)
            parameters[1].grad = gaussian(3, 5, seed=20 + i) if i % 2 else None
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(*copies, strict=True))


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_copies_and_loaded_ones_move_ordinary_groups_on_their_own(name):
    def setting():
        weight = torch.nn.Parameter(gaussian(4, seed=1))
        settings = {"momentum": 0.9} if name == "CayleySGD" else {}
        return weight, FIRST_ORDER[name]([weight], lr=0.1, stiefel=False, **settings)

    def move(weight, optimizer, seed):
        weight.grad = gaussian(4, seed=seed)
        optimizer.step()

    weight, optimizer = setting()
    move(weight, optimizer, 2)
    copied = copy.deepcopy(optimizer)
    unpickled = pickle.loads(pickle.dumps(optimizer))
    move(weight, optimizer, 3)
    for other in (copied, unpickled):
        (theirs,) = other.param_groups[0]["params"]
        assert theirs is not weight and not torch.equal(theirs, weight)
        move(theirs, other, 3)
        assert torch.equal(theirs, weight) and other.state[theirs].keys() == optimizer.state[weight].keys()
        assert other.param_groups[0].keys() == optimizer.param_groups[0].keys()


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_groups_side_by_side_and_added_later(name):
    L, weight, later = matrix((6, 3)), torch.nn.Parameter(gaussian(4)), matrix((5, 2), seed=1)
    optimizer = FIRST_ORDER[name]([{"params": [L], "lr": 0.5}, {"params": [weight], "stiefel": False}], lr=0.1)
    optimizer.add_param_group({"params": [later], "lr": 0.0})
    before = [p.detach().clone() for p in (L, weight, later)]
    for p in (L, weight, later):
        p.grad = torch.ones_like(p)
    optimizer.step()
    changes = [float((p.detach() - b).abs().max()) for p, b in zip((L, weight, later), before, strict=True)]
    assert changes[0] > 0.01 and changes[1] == pytest.approx(0.1) and changes[2] < 1e-14
    assert drift(L) < 1e-14


def test_weight_decay_does_not_move_stiefel_parameters():
    ends = []
    for weight_decay in (0.0, 0.5):
        L = matrix((6, 3))
        L.grad = gaussian(6, 3)
        CayleySGD([L], 0.1, weight_decay=weight_decay).step()
        ends.append(L.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_maximize_climbs_the_negated_objective(name):
    ends = []
    for sign in (1, -1):
        L = matrix((6, 3))
        optimizer = FIRST_ORDER[name]([L], 0.1, maximize=sign == -1)
        for i in range(3):
            L.grad = sign * gaussian(6, 3, seed=i)
            optimizer.step()
        ends.append(L.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_parameters_without_gradient_stay_and_closures_are_called_once(name):
    L, still = matrix((6, 3)), matrix((6, 3), seed=1)
    before = still.detach().clone()
    optimizer = FIRST_ORDER[name]([L, still], 0.1)
    assert optimizer.step() is None  # no gradient at all yet
    calls = []

    def closure():
        assert torch.is_grad_enabled()
        calls.append(1)
        loss = L.sum()
        loss.backward()
        return loss

    expected = L.sum().item()
    assert optimizer.step(closure).item() == expected and calls == [1]
    assert torch.equal(still, before) and not optimizer.state.get(still)


# ---- whole runs

EIGENVALUES = torch.tensor([9.0, 7.0, 5.0, 1.0, 0.8, 0.5, 0.3, 0.1], dtype=torch.float64)
BASIS = torch.from_numpy(random_stiefel((8, 8), np.random.default_rng(3)))
SCATTER = BASIS * EIGENVALUES @ BASIS.T  # its leading invariant subspace is that of the first three columns of BASIS


def explained(L, scatter=SCATTER):
    return torch.einsum("...dl,de,...el->...", L, scatter.to(L.dtype), L)


def subspace_error(L):
    """Sine of the largest angle to the leading invariant subspace."""
    return float(torch.linalg.matrix_norm(BASIS[:, 3:].T @ L.detach(), 2))


def pymanopt_cg(start, iterations):
    """pymanopt's conjugate gradient on minus the explained scatter, and its point after that many iterations."""
    manifold = pymanopt.manifolds.Stiefel(8, 3)
    scatter = SCATTER.numpy()
    cost = pymanopt.function.numpy(manifold)(lambda L: -np.trace(L.T @ scatter @ L))
    gradient = pymanopt.function.numpy(manifold)(lambda L: -2 * scatter @ L)
    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    optimizer = pymanopt.optimizers.ConjugateGradient(
        max_iterations=iterations + 1,  # it stops before the iteration of that number
        min_gradient_norm=1e-6,
        verbosity=0,
    )
    return optimizer.run(problem, initial_point=start).point


@pytest.mark.parametrize(
    ("optimizer", "steps"),
    [
        (lambda L: CayleySGD(L, 0.02, maximize=True), 300),
        (lambda L: CayleySGD(L, 0.01, momentum=0.8, maximize=True), 300),
        (lambda L: CayleyAdam(L, 0.1, maximize=True), 600),
        (lambda L: RiemannianCG(L, max_iter=60, maximize=True), 1),
    ],
    ids=["CayleySGD", "CayleySGD momentum", "CayleyAdam", "RiemannianCG"],
)
def test_finds_the_leading_invariant_subspace_as_pymanopt_does(optimizer, steps):
    L = matrix((8, 3), seed=5)
    theirs = pymanopt_cg(L.detach().numpy().copy(), 60)
    optimizer = optimizer([L])
    closure = closure_of(optimizer, lambda: explained(L))
    for _ in range(steps):
        optimizer.step(closure)
    assert subspace_error(L) < 1e-5 and drift(L) < 1e-13
    torch.testing.assert_close(explained(L).detach(), EIGENVALUES[:3].sum(), rtol=1e-10, atol=0)
    np.testing.assert_allclose(L.detach() @ L.detach().T, theirs @ theirs.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 10])
def test_cg_takes_pymanopts_steps(iterations):
    L = matrix((8, 3), seed=5)
    expected = pymanopt_cg(L.detach().numpy().copy(), iterations)
    optimizer = RiemannianCG([L], max_iter=iterations, maximize=True)
    optimizer.step(closure_of(optimizer, lambda: explained(L)))
    np.testing.assert_allclose(L.detach(), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_columns_stay_orthonormal_over_many_float32_steps(name):
    L, grads = matrix((16, 4), dtype=np.float32), gaussian(50, 16, 4, dtype=torch.float32)
    optimizer = FIRST_ORDER[name]([L], 0.05, **({"momentum": 0.9} if name == "CayleySGD" else {}))
    for i in range(5000):
        L.grad = grads[i % 50]
        optimizer.step()
        if i % 100 == 99:
            assert drift(L) <= 1e-5
    buffer = optimizer.state[L]["momentum_buffer" if name == "CayleySGD" else "exp_avg"]
    along = L.detach().T @ buffer
    assert float((along + along.T).abs().max()) < 1e-4 * float(buffer.norm())  # the momentum has stayed tangent


def train(optimizer, L, weight, steps, start=0):
    for i in range(start, start + steps):
        L.grad, weight.grad = gaussian(6, 3, seed=i), gaussian(4, seed=i)
        optimizer.step()


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_a_loaded_optimizer_continues_to_the_same_bits(name):
    def setting():
        L, weight = matrix((6, 3)), torch.nn.Parameter(gaussian(4))
        settings = {"momentum": 0.9} if name == "CayleySGD" else {}
        groups = [{"params": [L]}, {"params": [weight], "stiefel": False, "lr": 0.3, "weight_decay": 0.1}]
        return L, weight, FIRST_ORDER[name](groups, lr=0.1, **settings)

    L, weight, optimizer = setting()
    train(optimizer, L, weight, 5)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "L": L, "weight": weight}, file)
    train(optimizer, L, weight, 5, start=5)

    file.seek(0)
    saved = torch.load(file)
    other_L, other_weight, other = setting()
    other.load_state_dict(saved["optimizer"])
    with torch.no_grad():
        other_L.copy_(saved["L"])
        other_weight.copy_(saved["weight"])
    train(other, other_L, other_weight, 5, start=5)
    assert torch.equal(other_L, L) and torch.equal(other_weight, weight)
    for mine, theirs in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_copies_keep_their_settings(name):
    optimizer = OPTIMIZERS[name]([matrix((6, 3))], maximize=True)
    copied = copy.deepcopy(optimizer)
    assert copied.defaults.items() >= optimizer.defaults.items()
    loaded = OPTIMIZERS[name]([matrix((6, 3))])
    loaded.load_state_dict(optimizer.state_dict())
    assert loaded.state_dict() == optimizer.state_dict()
    L = copied.param_groups[0]["params"][0]
    before = L.sum().item()
    copied.step(closure_of(copied, lambda: L.sum()))
    assert L.sum().item() > before


@pytest.mark.parametrize("name", FIRST_ORDER)
@pytest.mark.parametrize(
    "scheduler",
    [
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=6),
    ],
    ids=["StepLR", "CosineAnnealingLR", "OneCycleLR"],
)
def test_learning_rate_schedules(name, scheduler):
    L, other = matrix((6, 3)), matrix((6, 3))
    optimizer, by_hand = FIRST_ORDER[name]([L], 0.1), FIRST_ORDER[name]([other], 0.1)
    schedule, rates = scheduler(optimizer), []
    for i in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        for key in ("lr", "momentum", "betas"):
            if key in by_hand.param_groups[0]:
                by_hand.param_groups[0][key] = optimizer.param_groups[0][key]
        L.grad = other.grad = gaussian(6, 3, seed=i)
        optimizer.step()
        by_hand.step()
        if i < 5:
            schedule.step()
    assert torch.equal(L, other) and len(set(rates)) > 2


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_scaled_gradients(name):
    """A step through GradScaler is the plain one; an overflowed gradient is skipped."""
    L, plain = matrix((6, 3), dtype=np.float32), matrix((6, 3), dtype=np.float32)
    target = gaussian(6, 3, dtype=torch.float32)
    optimizer, unscaled = FIRST_ORDER[name]([L], 0.1), FIRST_ORDER[name]([plain], 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        for parameter, its in ((L, optimizer), (plain, unscaled)):
            its.zero_grad()
            loss = (parameter * target).sum()
            if its is optimizer:
                scaler.scale(loss).backward()
                scaler.step(its)
                scaler.update()
            else:
                loss.backward()
                its.step()
    assert torch.equal(L, plain)
    before = L.detach().clone()
    optimizer.zero_grad()
    scaler.scale((L * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(L, before) and scaler.get_scale() == 512.0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_runs_repeat_exactly(name):
    ends = []
    for num_threads in (1, 1, 3):
        L = matrix((96, 40), dtype=np.float32)
        target = gaussian(96, 40, dtype=torch.float32)
        optimizer = OPTIMIZERS[name]([L])
        with threadpool_limits(num_threads):
            for _ in range(3):
                optimizer.step(closure_of(optimizer, lambda L=L, target=target: (L * target).sum()))
        ends.append(L.detach())
    assert torch.equal(ends[0], ends[1])
    if name != "RiemannianCG":  # LAPACK's QR decomposition rounds as its threads divide the work
        assert torch.equal(ends[0], ends[2])


@given(seeds)
def test_descends_the_angular_loss(seed):
    rng = np.random.default_rng(seed)
    z = torch.from_numpy(rng.standard_normal((30, 8)))
    z = torch.nn.functional.normalize(z)
    triplets = torch.from_numpy(rng.integers(0, 30, (40, 3)))
    metric = sf.nn.OrthogonalMetric(8, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    criterion = sf.nn.AngularLoss()
    optimizer = RiemannianCG(metric.parameters())
    first = optimizer.step(closure_of(optimizer, lambda: criterion(z, triplets, metric.L)))
    last = criterion(z, triplets, metric.L)
    assert last <= first and metric.orthogonality_error() < 1e-13


# ---- conjugate gradient


def test_cg_on_a_product_of_manifolds():
    """The affine subspace nearest to points in the least-squares sense: their mean and principal directions."""
    points = gaussian(200, 8) @ torch.linalg.cholesky(SCATTER).T + gaussian(8, seed=1)
    L, offset = matrix((8, 3)), torch.nn.Parameter(torch.zeros(8, dtype=torch.float64))

    def misfit():
        centred = points - offset
        return (centred - centred @ L @ L.T).square().sum() / 200

    optimizer = RiemannianCG([{"params": [L]}, {"params": [offset], "stiefel": False}], max_iter=300)
    first = optimizer.step(closure_of(optimizer, misfit))
    assert first > misfit()
    values, vectors = torch.linalg.eigh(torch.cov(points.T, correction=0))
    torch.testing.assert_close(misfit().detach(), values[:5].sum(), rtol=1e-9, atol=0)
    torch.testing.assert_close((L @ L.T).detach(), vectors[:, 5:] @ vectors[:, 5:].T, rtol=0, atol=1e-5)
    outside = (offset.detach() - points.mean(0)) @ vectors[:, :5]  # along the subspace every offset is as good
    assert float(outside.abs().max()) < 1e-5


def test_cg_of_a_batch_finds_every_subspace():
    L = matrix((2, 2, 8, 3))
    optimizer = RiemannianCG([L], max_iter=150, maximize=True)
    optimizer.step(closure_of(optimizer, lambda: explained(L).sum()))
    torch.testing.assert_close(explained(L).detach(), EIGENVALUES[:3].sum().expand(2, 2), rtol=1e-9, atol=0)


def test_cg_evaluates_at_most_ten_times_per_iteration_and_stops_where_it_must():
    L, calls = matrix((8, 3)), []
    optimizer = RiemannianCG([L], max_iter=100)
    closure = closure_of(optimizer, lambda: calls.append(1) or -explained(L))
    optimizer.step(closure)
    assert len(calls) < 300  # it converged long before
    calls.clear()
    optimizer.step(closure)
    assert len(calls) <= 12  # the gradient is below its bound, or so small that the search gives up

    wrong = matrix((8, 3))
    before = wrong.detach().clone()
    calls.clear()
    optimizer = RiemannianCG([wrong])

    def ascends():  # the gradient of another function: no step along it helps
        optimizer.zero_grad()
        calls.append(1)
        loss = explained(wrong)
        (-loss).backward()
        return loss

    optimizer.step(ascends)
    assert len(calls) == 1 + 10 and torch.equal(wrong, before)


def test_cg_stops_where_all_of_the_gradient_is_rounding():
    """L is square: LLᵀ = I, so that the angular loss is constant."""
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.standard_normal((20, 8), np.float32))
    triplets = torch.from_numpy(rng.integers(0, 20, (200, 3)))
    L, calls = matrix((8, 8), dtype=np.float32), []
    before = L.detach().clone()
    optimizer = RiemannianCG([L])
    optimizer.step(closure_of(optimizer, lambda: calls.append(1) or sf.angular_loss(z, triplets, L)))
    assert len(calls) == 1 and torch.equal(L, before)


def test_cg_steps_back_from_where_the_objective_is_not_defined():
    L = matrix((4, 1))
    start = L.detach().clone()

    def objective():
        inside = (L.detach() - start).norm() < 0.1
        return 3 * (L if inside else L * float("nan"))[0, 0]

    optimizer = RiemannianCG([L])
    first = optimizer.step(closure_of(optimizer, objective))
    assert objective() < first


def test_cg_stays_where_the_objective_is_defined_nowhere_else():
    L = matrix((4, 2))
    before = L.detach().clone()
    optimizer = RiemannianCG([L])
    optimizer.step(closure_of(optimizer, lambda: (L if torch.equal(L, before) else L * float("nan")).sum()))
    assert torch.equal(L, before)


def test_cg_begins_anew_along_the_gradient_when_its_direction_climbs():
    """Gradients as no smooth function has them, of which the third climbs along the conjugate direction."""
    script = iter([[-1.0, 3.0], [0.0, -3.0], [2.0, 2.0], [1.0, 1.0]])
    x = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    points = []

    def closure():
        points.append(x.detach().clone())
        x.grad = torch.tensor(next(script), dtype=torch.float64)
        return -1e3 * len(points)  # any step is accepted

    RiemannianCG([x], max_iter=3, stiefel=False).step(closure)
    last_move = points[3] - points[2]
    torch.testing.assert_close(last_move / last_move.norm(), -torch.full((2,), 0.5, dtype=torch.float64).sqrt())


def test_cg_takes_parameters_without_gradient_as_constant():
    L, still = matrix((6, 3)), matrix((6, 3), seed=1)
    before = still.detach().clone()
    optimizer = RiemannianCG([L, still])
    first = optimizer.step(closure_of(optimizer, lambda: L.sum()))
    assert L.sum() < first
    torch.testing.assert_close(still.detach(), before, rtol=0, atol=1e-14)
