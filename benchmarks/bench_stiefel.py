"""Cayley update of orthonormal columns: ours beside geoopt, the low-rank formula in torch and a dense solve.

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


METHODS = {
    "ssdml_fast": ours,
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
        np.testing.assert_allclose(updated.numpy(), expected(shape), rtol=0, atol=1e-6)

    race(METHODS[method](*operands(shape)), check, targets={"geoopt RiemannianSGD": SHAPES[shape][2]})
