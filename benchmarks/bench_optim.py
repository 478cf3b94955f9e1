"""Optimisers on the Stiefel manifold: ours beside geoopt's, pymanopt's and torch's orthogonal parametrisation.

A step: from the same point, along the same gradient with symmetric Lᵀ grad, as every function of L Lᵀ has (see
bench_stiefel.py). The steps of SGD are compared with the twin's; of the others that they are orthonormal and descend.

A run: to the leading invariant subspace of a symmetric matrix, until the explained variance is within one part in 1e6
of the sum of the eigenvalues, each from the same start and with the best of a few learning rates.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch

import ssdml_fast as sf

LR = 0.1
SHAPES = {"128x64": (128, 64), "512x128": (512, 128), "1024x128": (1024, 128)}


@functools.cache
def operands(d, l):
    """A point of the manifold and a gradient of unit norm with symmetric Lᵀ grad, float32."""
    rng = np.random.default_rng(5)
    L, grad = np.linalg.qr(rng.standard_normal((d, l)))[0], rng.standard_normal((d, l))
    along = L.T @ grad
    grad -= L @ (along - along.T) / 2
    return torch.from_numpy(L.astype(np.float32)), torch.from_numpy((grad / np.linalg.norm(grad)).astype(np.float32))


# ---- one step


def ours_step(kind, **settings):
    def make(L, grad):
        parameter = torch.nn.Parameter(L.clone())
        parameter.grad = grad
        return parameter, getattr(sf.optim, kind)([parameter], lr=LR, **settings).step

    return make


def geoopt_step(kind, **settings):
    def make(L, grad):
        geoopt = pytest.importorskip("geoopt")
        parameter = geoopt.ManifoldParameter(L.clone(), manifold=geoopt.CanonicalStiefel())
        optimizer = getattr(geoopt.optim, kind)([parameter], lr=LR, **settings)

        def step():
            parameter.grad = grad.clone()  # it is overwritten
            optimizer.step()

        return parameter, step

    return make


def parametrized_step(**settings):
    """torch's parametrisation: L is a function, here the fastest of the three, of the parameter that SGD moves."""

    def make(L, grad):
        layer = torch.nn.Linear(*reversed(L.shape), bias=False)
        torch.nn.utils.parametrizations.orthogonal(layer, orthogonal_map="cayley")
        with torch.no_grad():
            layer.weight = L
        optimizer = torch.optim.SGD(layer.parameters(), LR, **settings)

        def step():
            optimizer.zero_grad()
            layer.weight.backward(grad)
            optimizer.step()
            return layer.weight.detach()  # the next forward pass needs it

        return layer, step

    return make


STEPS = {
    "SGD": {
        "ssdml_fast": ours_step("CayleySGD"),
        "geoopt RiemannianSGD": geoopt_step("RiemannianSGD"),
        "torch orthogonal + SGD": parametrized_step(),
    },
    "SGD-momentum": {
        "ssdml_fast": ours_step("CayleySGD", momentum=0.9),
        "geoopt RiemannianSGD": geoopt_step("RiemannianSGD", momentum=0.9),
        "torch orthogonal + SGD": parametrized_step(momentum=0.9),
    },
    "Adam": {"ssdml_fast": ours_step("CayleyAdam"), "geoopt RiemannianAdam": geoopt_step("RiemannianAdam")},
}
STEP_CASES = [(f"{kind}-{shape}", method) for kind, shape in itertools.product(STEPS, SHAPES) for method in STEPS[kind]]


@pytest.mark.parametrize(("shape", "method"), STEP_CASES)
def test_step(race, shape, method):
    kind, _, size = shape.rpartition("-")
    L, grad = operands(*SHAPES[size])
    holder, step = STEPS[kind][method](L, grad)
    moved = (lambda: holder.weight.detach()) if isinstance(holder, torch.nn.Linear) else holder.detach
    step()
    after = moved().double()
    assert (after.T @ after - torch.eye(after.shape[1])).abs().max() < 1e-4
    assert ((after - L) * grad).sum() < 0
    if kind == "SGD" and "orthogonal" not in method:  # that one steps in its own parameters
        expected = sf.reference.cayley_update(L.double().numpy(), grad.double().numpy(), LR)
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-6)
    race(step, lambda _: None)


# ---- a whole run

D, WIDTH = 128, 16
TOLERANCE = 1e-6
RATES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@functools.cache
def problem():
    """A symmetric matrix of norm 1, its 16 largest eigenvalues' sum, and a start."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((D, D)))[0]
    eigenvalues = np.concatenate([np.linspace(1, 0.6, WIDTH), np.linspace(0.4, 0, D - WIDTH)])
    start = np.linalg.qr(rng.standard_normal((D, WIDTH)))[0]
    return (basis * eigenvalues) @ basis.T, eigenvalues[:WIDTH].sum(), start


def unexplained(scatter, L):
    return -(L * (scatter @ L)).sum()


def torch_run(make):
    def run(rate, limit=2000):
        scatter, best, start = problem()
        scatter = torch.from_numpy(scatter)
        read, optimizer = make(torch.from_numpy(start.copy()), rate)

        def closure():
            optimizer.zero_grad()
            loss = unexplained(scatter, read())
            loss.backward()
            return loss

        for steps in range(limit):
            loss = optimizer.step(closure)
            if loss <= -best * (1 - TOLERANCE):
                return read().detach().numpy(), steps
        return None, limit

    return run


def _ours(kind, **settings):
    def make(start, rate):
        L = torch.nn.Parameter(start)
        return lambda: L, getattr(sf.optim, kind)([L], **({"lr": rate} if rate else {}), **settings)

    return make


def _geoopt(kind, **settings):
    def make(start, rate):
        geoopt = pytest.importorskip("geoopt")
        L = geoopt.ManifoldParameter(start, manifold=geoopt.CanonicalStiefel())
        return lambda: L, getattr(geoopt.optim, kind)([L], lr=rate, **settings)

    return make


def _parametrized(start, rate):
    layer = torch.nn.Linear(*reversed(start.shape), bias=False, dtype=start.dtype)
    torch.nn.utils.parametrizations.orthogonal(layer, orthogonal_map="cayley")
    with torch.no_grad():
        layer.weight = start
    return lambda: layer.weight, torch.optim.SGD(layer.parameters(), rate)


def pymanopt_run(backend):
    """With torch's autograd, as ours, or with the gradient given in NumPy."""

    def run(rate):
        pymanopt = pytest.importorskip("pymanopt")
        scatter, best, start = problem()
        manifold, settings = pymanopt.manifolds.Stiefel(D, WIDTH), {}
        if backend == "torch":
            matrix = torch.from_numpy(scatter)
            cost = pymanopt.function.pytorch(manifold)(lambda L: unexplained(matrix, L))
        else:
            cost = pymanopt.function.numpy(manifold)(lambda L: unexplained(scatter, L))
            settings["euclidean_gradient"] = pymanopt.function.numpy(manifold)(lambda L: -2 * scatter @ L)
        optimizer = pymanopt.optimizers.ConjugateGradient(max_iterations=CG_ITERATIONS + 1, verbosity=0)
        result = optimizer.run(pymanopt.Problem(manifold, cost, **settings), initial_point=start)
        return (result.point if result.cost <= -best * (1 - TOLERANCE) else None), CG_ITERATIONS

    return run


CG_ITERATIONS = 30
RUNS = {
    "to-subspace-CG": {
        "ssdml_fast": torch_run(_ours("RiemannianCG", max_iter=CG_ITERATIONS)),
        "pymanopt CG, torch": pymanopt_run("torch"),
        "pymanopt CG, gradient in NumPy": pymanopt_run("numpy"),
    },
    "to-subspace-SGD": {
        "ssdml_fast": torch_run(_ours("CayleySGD")),
        "geoopt RiemannianSGD": torch_run(_geoopt("RiemannianSGD")),
        "torch orthogonal + SGD": torch_run(_parametrized),
    },
    "to-subspace-Adam": {
        "ssdml_fast": torch_run(_ours("CayleyAdam")),
        "geoopt RiemannianAdam": torch_run(_geoopt("RiemannianAdam")),
    },
}


@functools.cache
def best_rate(shape, method):
    """The learning rate that takes the fewest steps; None for what needs none."""
    if "CG" in shape:
        return None
    return min(RATES, key=lambda rate: RUNS[shape][method](rate)[1])


@pytest.mark.parametrize(("shape", "method"), [(shape, method) for shape in RUNS for method in RUNS[shape]])
def test_run(race, shape, method):
    scatter, best, _ = problem()
    rate = best_rate(shape, method)

    def check(answer):
        L, _ = answer
        assert L is not None, "did not arrive"
        np.testing.assert_allclose(L.T @ L, np.eye(WIDTH), rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.trace(L.T @ scatter @ L), best, rtol=2 * TOLERANCE)

    race(lambda: RUNS[shape][method](rate), check)
