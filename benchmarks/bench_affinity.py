"""Affinities on the edges, all to 1e-6, beside the dense closed form and sparse iterations, of one graph and of many
small ones in one call.

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
from inputs import full_only, graph, labels, points, transition

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


# ---- many small segments ---------------------------------------------------------------------------------------------

SEGMENTED = {
    "clustered-100x90-k10": ("clustered", 100, 90, 128, 10),
    "clustered-30x300-k10": ("clustered", 30, 300, 128, 10),
    "uniform-30x300-k50": ("uniform", 30, 300, 128, 50),
    "clustered-10x900-k10": ("clustered", 10, 900, 128, 10),
}


@functools.cache
def segmented(kind, segments, n, d, k):
    """kNN graph within each of as many `segments` of n points."""
    return sf.knn_graph(points(kind, segments * n, d), k, ptr=np.arange(segments + 1) * n)


def batched(invert):
    """Closed form of all segments by one batched call to torch, which factorises each with LAPACK."""

    def method(graph, y):
        segments = len(graph.ptr) - 1
        n = graph.n // segments
        indices = torch.from_numpy(graph.indices - np.arange(graph.n)[:, None] // n * n).reshape(segments, n, graph.k)
        source = torch.from_numpy(sources(y)).reshape(segments, n, -1)
        labelled = torch.from_numpy(np.flatnonzero(y >= 0))
        segment, place, column = labelled // n, labelled % n, torch.from_numpy(y)[labelled]

        def call():
            matrix = torch.eye(n, dtype=torch.float64).repeat(segments, 1, 1).scatter_(2, indices, -GAMMA / graph.k)
            walk = invert(matrix).mul_(1 - GAMMA)
            walk[segment, :, place] = (walk @ source)[segment, :, column]
            values = walk.gather(2, indices).add_(walk.mT.gather(2, indices)).div_(2)
            return values.reshape(graph.n, graph.k).numpy()

        return call

    return method


def solve_identity(matrix):
    return torch.linalg.solve_ex(matrix, torch.eye(matrix.shape[-1], dtype=matrix.dtype)).result


BATCHED = {
    "ssdml_fast": ours,
    "torch inv float64, batched": batched(lambda matrix: torch.linalg.inv_ex(matrix).inverse),
    "torch solve float64, batched": batched(solve_identity),
}


@functools.cache
def expected_of_segments(shape):
    here = segmented(*SEGMENTED[shape])
    y = labels(here.n)
    return np.concatenate(
        [
            sf.reference.propagate_affinity(sf.KnnGraph(here.indices[low:high] - low), y[low:high], GAMMA).values
            for low, high in itertools.pairwise(here.ptr)
        ]
    )


@pytest.mark.parametrize("method", BATCHED)
@pytest.mark.parametrize("shape", SEGMENTED)
def test_small_segments(race, shape, method):
    def check(values):
        np.testing.assert_allclose(values, expected_of_segments(shape), rtol=0, atol=TOL)

    here = segmented(*SEGMENTED[shape])
    race(BATCHED[method](here, labels(here.n)), check)
