"""What the tests of the conjugate gradients on CPU and CUDA share: problems that are hard on rounding, and what must
hold of the answer to any."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from strategies import drift, dtypes, make_points, random_stiefel, seeds

from ssdml_fast import _arrays as arrays


@st.composite
def metric_problems(draw):
    """Arguments of `riemannian_cg` by name: L square, so that the loss is constant on the manifold, or nearly;
    points that coincide or leave directions out; scales up to those where rounding is all there is."""
    width = draw(st.integers(1, 7))
    d, n = width + draw(st.sampled_from((0, 0, 1, 2, 10))), draw(st.integers(1, 25))
    rng, dtype = np.random.default_rng(draw(seeds)), draw(dtypes)
    z = make_points(draw(st.sampled_from(("gaussian", "duplicates", "collinear", "sphere"))), n, d, rng)
    z = draw(st.sampled_from((1.0, 1e-6, 1e-2, 10.0, 1e3, 1e6))) * z + draw(st.sampled_from((0, 0, 30)))
    triplets = rng.integers(0, n, (draw(st.sampled_from((1, 5, 50, 400))), 3))
    weight = rng.choice([0.0, 0.0, 1.0, 5.0], len(triplets)).astype(dtype) if draw(st.booleans()) else None
    return {
        "L": random_stiefel((d, width), rng, dtype),
        "z": z.astype(dtype),
        "triplets": triplets,
        "alpha": draw(st.sampled_from((40.0, 45.0, 5.0, 85.0))),
        "iterations": draw(st.sampled_from((10, 0, 1, 40))),
        "weight": weight,
    }


def loss_and_rounding(L, z, triplets, alpha, weight):
    """Loss in float64, and how much of it the rounding of projected points in the type of L may change."""
    epsilon, (z, L64) = 16 * np.finfo(L.dtype).eps, (x.astype(np.float64) for x in (z, L))
    y, t = z @ L64, np.tan(np.radians(alpha)) ** 2
    anchor, positive, negative = triplets.T
    a = np.linalg.norm(y[anchor] - y[positive], axis=1)
    b = np.linalg.norm(y[negative] - (y[anchor] + y[positive]) / 2, axis=1)
    size = epsilon * np.linalg.norm(z, axis=1)[triplets].sum(1)
    m, off = a**2 - 4 * t * b**2, 2 * a * size + size**2 + 4 * t * (2 * b * size + size**2)
    weight = np.ones(len(triplets)) if weight is None else weight.astype(np.float64)
    loss = np.logaddexp(0, m)
    return (weight * loss).sum(), (weight * (np.logaddexp(0, m + off) - loss + epsilon * loss)).sum() + 1e-30


def assert_holds(result, problem):
    """The answer lies on the manifold, the loss that is reported is its own, and none that is greater than before."""
    L = arrays.to_numpy(result.L)
    assert drift(L) <= 16 * np.finfo(L.dtype).eps
    operands = {name: problem[name] for name in ("z", "triplets", "alpha", "weight")}
    own, rounding = loss_and_rounding(L, **operands)
    assert abs(result.loss - own) <= rounding
    start, rounding_there = loss_and_rounding(problem["L"], **operands)
    assert own <= start + rounding + rounding_there
    assert result.iterations <= problem["iterations"]
    assert result.evaluations <= 1 + 10 * (result.iterations + 1)


def beside_the_minimum():
    """A problem whose minimum is so near that none of ten halvings of a first step of length 1 is short enough."""
    angle, size = 1e-4, 1e3
    z = np.array([[size, 0.0], [-size, 0.0], [0.0, 0.0]])  # the loss grows with the square of L[0]
    return {"L": np.array([[np.sin(angle)], [np.cos(angle)]]), "z": z, "triplets": np.array([[0, 1, 2]])}


def beside_the_maximum(dtype):
    """A problem whose first gradient is so small that the second step, twice the first, is very long."""
    angle, size = 1e-2, 4.0
    z = np.zeros((3, 4))
    z[:, 0] = size, -size, 0.0
    L = np.zeros((4, 2))
    L[[0, 1, 2], [0, 0, 1]] = np.cos(angle), np.sin(angle), 1
    return {"L": L.astype(dtype), "z": z.astype(dtype), "triplets": np.array([[0, 1, 2]])}


def square_problem(seed, dtype):
    """A problem of ordinary size whose L is square, so that there is nothing to gain."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((20, 8)).astype(dtype)
    return {"L": random_stiefel((8, 8), rng, dtype), "z": z, "triplets": rng.integers(0, 20, (200, 3))}


def slightly_off(dtype):
    """A problem whose L is as far from orthonormal as is accepted."""
    off = {np.float32: 4e-4, np.float64: 4e-7}[dtype]
    problem = square_problem(0, dtype)
    return problem | {"L": ((1 + off) * problem["L"][:, :5]).astype(dtype)}
