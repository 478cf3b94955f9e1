"""Updates of orthonormal columns: Cayley steps and retractions.

Cayley: ours beside geoopt, the low-rank formula in torch, a dense solve, and a step of gradient descent through torch's
own orthogonal parametrisation, which computes the matrix from free parameters and differentiates through that.

geoopt steps along the Riemannian gradient, which doubles the antisymmetric part of Lᵀ grad. The gradients here have a
symmetric Lᵀ grad, as those of every function of L Lᵀ do (the angular loss is one), so that all methods move alike.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import ssdml_fast as sf

STEP = 0.1
SHAPES = {  # d, l and the target against geoopt
    "128x64": (128, 64, 4),
    "512x128": (512, 128, 8),
    "1024x128": (1024, 128, 15),
    "2048x128": (2048, 128, 40),
}


def ours(L, grad):
    return lambda: sf.cayley_update(L, grad, STEP)


def geoopt_sgd(L, grad):
    geoopt = pytest.importorskip("geoopt")
    parameter = geoopt.ManifoldParameter(L.clone(), manifold=geoopt.CanonicalStiefel())
    parameter.grad = grad.clone()
    optimizer = geoopt.optim.RiemannianSGD([parameter], lr=STEP)

    def call():
        optimizer.step()
        return parameter.detach()

    return call


def low_rank(L, grad):
    def call():
        u, v = torch.cat((grad, L), 1), torch.cat((L, -grad), 1)
        core = torch.eye(u.shape[1]).add_(v.T @ u, alpha=STEP / 2)
        return torch.addmm(L, u, torch.linalg.solve(core, v.T @ L), alpha=-STEP)

    return call


def dense_solve(L, grad):
    def call():
        skew = grad @ L.T
        skew = skew - skew.T
        return torch.linalg.solve(torch.eye(len(L)).add_(skew, alpha=STEP / 2), L - STEP / 2 * (skew @ L))

    return call


def torch_orthogonal(L, grad):
    """A step of SGD on the parameters behind torch's Cayley map. It moves another way: its time alone compares."""
    layer = torch.nn.Linear(*L.shape, bias=False)
    torch.nn.utils.parametrizations.orthogonal(layer, orthogonal_map="cayley")
    optimizer = torch.optim.SGD(layer.parameters(), lr=STEP)

    @torch.enable_grad()
    def call():
        optimizer.zero_grad()
        (layer.weight.T * grad).sum().backward()
        optimizer.step()
        return layer.weight.detach().T

    return call


METHODS = {
    "ssdml_fast": ours,
    "torch orthogonal": torch_orthogonal,
    "geoopt RiemannianSGD": geoopt_sgd,
    "torch low-rank": low_rank,
    "torch dense solve": dense_solve,
}


@functools.cache
def operands(shape):
    """A point of the manifold and a gradient of unit norm with symmetric Lᵀ grad, float32."""
    d, l, _ = SHAPES[shape]
    rng = np.random.default_rng(5)
    L = np.linalg.qr(rng.standard_normal((d, l)))[0]
    grad = rng.standard_normal((d, l))
    along = L.T @ grad
    grad -= L @ (along - along.T) / 2
    return [torch.from_numpy((a / scale).astype(np.float32)) for a, scale in ((L, 1), (grad, np.linalg.norm(grad)))]


@functools.cache
def expected(shape):
    L, grad = (a.double().numpy() for a in operands(shape))
    return sf.reference.cayley_update(L, grad, STEP)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_cayley_update(race, shape, method):
    def check(updated):
        if method == "torch orthogonal":
            torch.testing.assert_close(updated.T @ updated, torch.eye(updated.shape[1]), rtol=0, atol=1e-4)
        else:
            np.testing.assert_allclose(updated.numpy(), expected(shape), rtol=0, atol=1e-6)

    race(METHODS[method](*operands(shape)), check, targets={"geoopt RiemannianSGD": SHAPES[shape][2]})


def geoopt_retraction(L, step):
    return pytest.importorskip("geoopt").EuclideanStiefel().retr(L, step)


RETRACTIONS = {"ssdml_fast": sf.qr_retraction, "geoopt EuclideanStiefel": geoopt_retraction}


@pytest.mark.parametrize("method", RETRACTIONS)
@pytest.mark.parametrize("shape", ["qr-128x64", "qr-1024x128"])
@torch.no_grad()
def test_qr_retraction(race, shape, method):
    L, grad = operands(shape.removeprefix("qr-"))
    along = L.T @ grad
    step = 0.1 * (grad - L @ (along + along.T) / 2)

    def check(retracted):
        expected = sf.reference.qr_retraction(L.double().numpy(), step.double().numpy())
        np.testing.assert_allclose(retracted.numpy(), expected, rtol=0, atol=1e-5)

    race(lambda: RETRACTIONS[method](L, step), check)
