"""Triplet mining: ours beside a vectorised NumPy argsort."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from inputs import full_only, graph

import ssdml_fast as sf

SHAPES = {
    "clustered-200-k10": ("clustered", 200, 128, 10),  # the overhead of a call
    "clustered-9100-k10": ("clustered", 9100, 128, 10),
    "clustered-5864-k50": ("clustered", 5864, 128, 50),
}
FULL = {"clustered-40000-k10": ("clustered", 40_000, 128, 10)}
TARGETS = {"numpy argsort": 10}


@functools.cache
def affinity(kind, n, d, k):
    """Random affinities, of which some are equal so that ties are broken too."""
    values = np.random.default_rng(3).integers(0, 1000, (n, k)).astype(np.float32) / 1000
    return sf.EdgeAffinity(values, np.empty((n, 0), np.float32), np.empty(0, np.int64), iterations=0, error_bound=0.0)


def ours(graph, affinity):
    return lambda: sf.mine_triplets(graph, affinity)


def numpy_argsort(graph, affinity):
    def call():
        # Rows of a graph ascend by distance, then index: a stable sort breaks ties as required.
        order = np.argsort(-affinity.values, axis=1, kind="stable")
        ranked = np.take_along_axis(graph.indices, order, 1)
        triplets = np.empty((graph.n, graph.k // 2, 3), np.int64)
        triplets[..., 0] = np.arange(graph.n)[:, None]
        triplets[..., 1] = ranked[:, : graph.k // 2]
        triplets[..., 2] = ranked[:, graph.k - graph.k // 2 :]
        return triplets.reshape(-1, 3)

    return call


METHODS = {"ssdml_fast": ours, "numpy argsort": numpy_argsort}


@functools.cache
def expected(shape):
    points_of = {**SHAPES, **FULL}[shape]
    return sf.reference.mine_triplets(graph(*points_of), affinity(*points_of))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [*SHAPES, *full_only(FULL)])
def test_mine_triplets(race, shape, method):
    points_of = {**SHAPES, **FULL}[shape]

    def check(triplets):
        np.testing.assert_array_equal(triplets, expected(shape))

    race(METHODS[method](graph(*points_of), affinity(*points_of)), check, TARGETS)
