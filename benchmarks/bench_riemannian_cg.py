"""Ten conjugate gradient steps for the angular loss of a mini-batch, beside pymanopt's with the gradient in NumPy."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import ssdml_fast as sf

STEPS = 10


def ours(L, z, triplets):
    return lambda: sf.riemannian_cg(L, z, triplets, iterations=STEPS).L


def pymanopt_cg(L, z, triplets):
    pymanopt = pytest.importorskip("pymanopt")
    manifold = pymanopt.manifolds.Stiefel(*L.shape)
    four_t = 4 * np.tan(np.deg2rad(40)) ** 2

    def differences(L):
        i, p, q = (z[index] @ L for index in triplets.T)
        return i - p, q - (i + p) / 2

    def cost(L):
        a, b = differences(L)
        return float(np.logaddexp(0, (a**2).sum(1) - four_t * (b**2).sum(1)).sum())

    def gradient(L):
        a, b = differences(L)
        m = (a**2).sum(1) - four_t * (b**2).sum(1)
        slope = 2 * np.exp(-np.logaddexp(0, -m))[:, None]
        i, p, q = (z[index] for index in triplets.T)
        return (i - p).T @ (slope * a) - four_t * (q - (i + p) / 2).T @ (slope * b)

    problem = pymanopt.Problem(
        manifold,
        pymanopt.function.numpy(manifold)(cost),
        euclidean_gradient=pymanopt.function.numpy(manifold)(gradient),
    )
    optimizer = pymanopt.optimizers.ConjugateGradient(max_iterations=STEPS + 1, verbosity=0)  # it counts the start
    return lambda: optimizer.run(problem, initial_point=L).point


METHODS = {"ssdml_fast": ours, "pymanopt": pymanopt_cg}


@functools.cache
def mini_batch(dtype):
    """A metric 128x64, and 100 triplets of 300 unit vectors."""
    rng = np.random.default_rng(6)
    z = rng.standard_normal((300, 128))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    L = np.linalg.qr(rng.standard_normal((128, 64)))[0]
    return L.astype(dtype), z.astype(dtype), rng.permutation(300).reshape(100, 3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", ["cg-float32", "cg-float64"])
def test_riemannian_cg(race, shape, method):
    L, z, triplets = mini_batch(shape.removeprefix("cg-"))

    def check(found):
        expected = sf.reference.riemannian_cg(L.astype(float), z.astype(float), triplets, iterations=STEPS)
        np.testing.assert_allclose(found, expected.L, rtol=0, atol=1e-4)

    race(METHODS[method](L, z, triplets), check, targets={"pymanopt": 8})
