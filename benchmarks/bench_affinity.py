"""Affinities on the edges: ours beside the dense closed form and sparse iterations, all to 1e-6.

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
from inputs import full_only, graph, labels

import ssdml_fast as sf

GAMMA, TOL = 0.99, 1e-6
SMALL = {
    "clustered-2000x128-k10": ("clustered", 2000, 128, 10),
    "uniform-2000x128-k10": ("uniform", 2000, 128, 10),
}
LARGE = {
    "clustered-9100x128-k10": ("clustered", 9100, 128, 10),
    "mnist-9100x784-k10": ("mnist", 9100, 784, 10),
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


DENSE = {
    "ssdml_fast": ours,
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
