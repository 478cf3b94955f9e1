"""Affinities on the edges, all to 1e-6, beside the dense closed form and sparse iterations; and class posteriors.

SciPy's BiCGStab is left out: on these graphs it stops at errors of 1e-4 and more.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch
from inputs import full_only, graph, labels, mnist_classes, mnist_labels
from sklearn.semi_supervised import LabelSpreading

import ssdml_fast as sf

GAMMA, TOL = 0.99, 1e-6
SMALL = {
    "clustered-2000x128-k10": ("clustered", 2000, 128, 10),
    "uniform-2000x128-k10": ("uniform", 2000, 128, 10),
}
LARGE = {
    "clustered-9100x128-k10": ("clustered", 9100, 128, 10),
    "mnist-9100x784-k10": ("mnist", 9100, 784, 10),
    "plane-9100x2-k10": ("plane", 9100, 2, 10),
}
HUGE = {  # where no dense peer fits: ours alone, to see how it grows
    "mnist-20000x784-k10": ("mnist", 20_000, 784, 10),
    "mnist-50000x784-k10": ("mnist", 50_000, 784, 10),
    "clustered-100000x128-k10": ("clustered", 100_000, 128, 10),
}


def ours(graph, y):
    return lambda: sf.propagate_affinity(graph, y, GAMMA, TOL).values


def scipy_inv(dtype):
    def invert(matrix):
        return scipy.linalg.inv(matrix, overwrite_a=True, check_finite=False)

    return dense(invert, dtype)


def torch_inv(dtype):
    return dense(lambda matrix: torch.linalg.inv(torch.from_numpy(matrix)).numpy(), dtype)


def dense(invert, dtype):
    """Closed form through the inverse of I - gamma Q."""

    def method(graph, y):
        def call():
            matrix = np.eye(graph.n, dtype=dtype)
            np.put_along_axis(matrix, graph.indices, -GAMMA / graph.k, axis=1)
            walk = invert(matrix)
            walk *= 1 - GAMMA
            return on_edges(walk, walk @ sources(y).astype(dtype), graph, y)

        return call

    return method


def power_iteration(graph, y, columns=64):
    """Sparse times dense, in float32 and panels of columns that stay in cache: the fastest of those tried."""
    step = GAMMA * transition(graph)
    step32 = step.astype(np.float32)

    def iterate(step, restart):
        current, error = restart, np.inf
        while error > TOL:
            for _ in range(10):
                previous, current = current, step @ current + restart
            error = GAMMA / (1 - GAMMA) * np.abs(current - previous).max()
        return current

    def call():
        walk = np.empty((graph.n, graph.n), np.float32)
        for low in range(0, graph.n, columns):
            panel = walk[:, low : low + columns]
            panel[...] = iterate(step32, np.eye(*panel.shape, -low, dtype=np.float32) * np.float32(1 - GAMMA))
        return on_edges(walk, iterate(step, (1 - GAMMA) * sources(y)), graph, y)

    return call


def gmres(graph, y):
    """One solve per column, to a residual that guarantees the tolerance."""
    matrix = scipy.sparse.eye_array(graph.n, format="csr") - GAMMA * transition(graph)

    def solve(right):
        x, failed = scipy.sparse.linalg.gmres(
            matrix, (1 - GAMMA) * right, rtol=0, atol=TOL * (1 - GAMMA), restart=100, maxiter=10
        )
        assert not failed
        return x

    def call():
        walk = np.stack([solve(unit) for unit in np.eye(graph.n)], 1)
        return on_edges(walk, np.stack([solve(right) for right in sources(y).T], 1), graph, y)

    return call


def transition(graph):
    """Q as a sparse matrix."""
    values = np.full(graph.indices.size, 1 / graph.k)
    starts = np.arange(0, graph.indices.size + 1, graph.k)
    return scipy.sparse.csr_array((values, graph.indices.ravel(), starts), shape=(graph.n, graph.n))


def sources(y):
    """(N, C) initial affinities of a labelled point of each class: +1 at its class, -1 at others, 0 unlabelled."""
    of_class = y[:, None] == np.arange(y.max() + 1)
    return np.where(y[:, None] < 0, 0.0, np.where(of_class, 1.0, -1.0))


def on_edges(walk, labelled, graph, y):
    """Symmetrised affinities on the edges, from the walk (overwritten) and one propagated column per class."""
    walk[:, y >= 0] = labelled[:, y[y >= 0]]
    rows = np.arange(graph.n)[:, None]
    return (walk[rows, graph.indices] + walk[graph.indices, rows]) / 2


def scipy_solve(graph, y):
    """All columns of the closed form by one LU factorisation."""

    def call():
        matrix = np.eye(graph.n)
        np.put_along_axis(matrix, graph.indices, -GAMMA / graph.k, axis=1)
        right = np.eye(graph.n) * (1 - GAMMA)
        walk = scipy.linalg.solve(matrix, right, overwrite_a=True, overwrite_b=True, check_finite=False)
        return on_edges(walk, walk @ sources(y), graph, y)

    return call


DENSE = {
    "ssdml_fast": ours,
    "scipy solve float64": scipy_solve,
    "scipy inv float64": scipy_inv(np.float64),
    "scipy inv float32": scipy_inv(np.float32),
    "torch inv float32": torch_inv(np.float32),
}
METHODS = {**DENSE, "scipy power iteration": power_iteration, "scipy gmres": gmres}
CASES = [
    *itertools.product(SMALL, [method for method in METHODS if method != "scipy gmres"]),
    *full_only(itertools.product(SMALL, ["scipy gmres"])),
    *full_only(itertools.product(LARGE, DENSE)),
]


@functools.cache
def expected(shape):
    points_of = {**SMALL, **LARGE}[shape]
    return sf.reference.propagate_affinity(graph(*points_of), labels(points_of[1]), GAMMA).values


@pytest.mark.parametrize(("shape", "method"), CASES)
def test_propagate_affinity(race, shape, method):
    points_of = {**SMALL, **LARGE}[shape]

    def check(values):
        np.testing.assert_allclose(values, expected(shape), rtol=0, atol=TOL)

    targets = dict.fromkeys(DENSE, 30) if shape in LARGE else {}
    race(METHODS[method](graph(*points_of), labels(points_of[1])), check, targets)


def exact_rows(graph, y, points):
    """Values of some unlabelled points with unlabelled neighbours, by power iteration on the columns they need."""
    columns = np.unique(np.concatenate([points, graph.indices[points].ravel()]))
    assert (y[columns] < 0).all()
    step, restart = GAMMA * transition(graph), np.zeros((graph.n, len(columns)))
    restart[columns, np.arange(len(columns))] = 1 - GAMMA
    walk = restart
    for _ in range(1800):  # GAMMA^1800 = 1e-8
        walk = step @ walk + restart
    near, own = graph.indices[points], np.searchsorted(columns, points)
    return (walk[points[:, None], np.searchsorted(columns, near)] + walk[near, own[:, None]]) / 2


@pytest.mark.full
@pytest.mark.parametrize(
    ("shape", "method"), [(shape, f"ssdml_fast tol={tol}") for shape in HUGE for tol in (1e-6, 1e-5, 1e-4)]
)
def test_growth(race, shape, method):
    kind, n, *rest = HUGE[shape]
    here, y, tol = graph(kind, n, *rest), labels(n), float(method.partition("=")[2])
    unlabelled = np.flatnonzero((y < 0) & (y[here.indices] < 0).all(1))
    points = np.random.default_rng(2).choice(unlabelled, 2, replace=False)

    def check(affinity):
        assert affinity.error_bound <= tol
        np.testing.assert_allclose(affinity.values[points], exact_rows(here, y, points), rtol=0, atol=tol + 1e-8)

    race(lambda: sf.propagate_affinity(here, y, GAMMA, tol), check)


# ---- class posteriors ------------------------------------------------------------------------------------------------


def our_posteriors(graph, y):
    return lambda: sf.propagate_labels(graph, y, GAMMA, TOL).posteriors


def scipy_cg(graph, y):
    """The same system, class by class, in the symmetric form that conjugate gradients need."""
    edges = transition(graph)
    weights = edges + edges.T
    root = np.sqrt(weights.sum(1))
    matrix = scipy.sparse.eye_array(graph.n) - GAMMA * scipy.sparse.diags_array(1 / root) @ weights @ (
        scipy.sparse.diags_array(1 / root)
    )
    matrix = matrix.tocsr()

    def call():
        mass = np.empty((graph.n, 10))
        for c in range(10):
            solved, failed = scipy.sparse.linalg.cg(matrix, root * (y == c), rtol=1e-10)
            assert not failed
            mass[:, c] = solved / root
        mass /= mass.sum(0)
        return mass / mass.sum(1, keepdims=True)

    return call


def label_spreading(max_iter, tol):
    """scikit-learn's own normalisation, so close to these posteriors, not equal."""

    def method(graph, y):
        edges = transition(graph)
        weights, rows = (edges + edges.T).tocsr(), np.zeros((graph.n, 1))

        def call():
            model = LabelSpreading(kernel=lambda *_: weights, alpha=GAMMA, max_iter=max_iter, tol=tol)
            return model.fit(rows, y).label_distributions_

        return call

    return method


POSTERIORS = {
    "ssdml_fast": our_posteriors,
    "scipy cg": scipy_cg,
    "sklearn LabelSpreading, 30 steps": label_spreading(30, 1e-3),
    "sklearn LabelSpreading, to 1e-6": label_spreading(10_000, 1e-6),
}


@pytest.mark.filterwarnings("ignore:max_iter=30 was reached")
@pytest.mark.parametrize("method", POSTERIORS)
@pytest.mark.parametrize("shape", ["posteriors-mnist-9100-k10", *full_only(["posteriors-mnist-50000-k10"])])
def test_propagate_labels(race, shape, method):
    n = int(shape.split("-")[2])
    here, y, classes = graph("mnist", n, 784, 10), mnist_labels(n), mnist_classes(n)
    expected = our_posteriors(here, y)()

    def check(posteriors):
        right = [np.mean(p.argmax(1)[y < 0] == classes[y < 0]) for p in (posteriors, expected)]
        assert right[0] <= right[1] + 0.02
        if "LabelSpreading" not in method:
            np.testing.assert_allclose(posteriors, expected, rtol=0, atol=2 * TOL)

    race(POSTERIORS[method](here, y), check)
