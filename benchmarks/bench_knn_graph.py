"""Exact kNN graph: ours beside faiss, scikit-learn's brute force and a chunked torch matrix product with topk.

For other instruction sets, force ours and faiss alike: ``SSDML_ISA=avx2 FAISS_OPT_LEVEL=avx2 pytest benchmarks``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from inputs import full_only, graph, points

import ssdml_fast as sf
from ssdml_fast import _core

SHAPES = {
    "clustered-9100x64-k10": ("clustered", 9100, 64, 10),
    "clustered-9100x128-k10": ("clustered", 9100, 128, 10),
    "uniform-9100x128-k10": ("uniform", 9100, 128, 10),
    "clustered-9100x512-k10": ("clustered", 9100, 512, 10),
    "mnist-9100x784-k10": ("mnist", 9100, 784, 10),
}
FULL = {
    "uniform-9100x784-k10": ("uniform", 9100, 784, 10),
    "outliers-9100x128-k10": ("outliers", 9100, 128, 10),
    "lognormal-9100x128-k10": ("lognormal", 9100, 128, 10),
    "clustered-5864x1024-k50": ("clustered", 5864, 1024, 50),
    "uniform-5864x1024-k50": ("uniform", 5864, 1024, 50),
    "clustered-40000x128-k10": ("clustered", 40_000, 128, 10),
    "uniform-40000x128-k10": ("uniform", 40_000, 128, 10),
    "clustered-200000x128-k10": ("clustered", 200_000, 128, 10),
}
GROWTH = {  # of time with N, d and k, each from the same middle
    f"growth-{n}x{d}-k{k}": ("clustered", n, d, k)
    for n, d, k in [
        *((n, 128, 10) for n in (5_000, 10_000, 20_000, 40_000, 80_000)),
        *((10_000, d, 10) for d in (8, 32, 512, 2048)),
        *((10_000, 128, k) for k in (1, 30, 100, 300)),
    ]
}
SEARCHES = {"q10000-n40000x128-k10": (10_000, 40_000, 10), "q100-n200000x128-k10": (100, 200_000, 10)}


def ours(x, k):
    return lambda: sf.knn_graph(x, k).indices


def faiss_knn(x, k):
    faiss = pytest.importorskip("faiss")
    return lambda: faiss.knn(x, x, k + 1)[1]  # each point with itself, which the check takes out: not on the clock


def scikit_learn(x, k):
    neighbors = pytest.importorskip("sklearn.neighbors")
    return lambda: neighbors.NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors(return_distance=False)


def torch_topk(x, k, chunk=512):
    x = torch.from_numpy(x)

    def call():
        norms, found = (x * x).sum(1), []
        for low in range(0, len(x), chunk):
            rows = x[low : low + chunk]
            distances = torch.addmm(norms, rows, x.T, alpha=-2)
            distances.diagonal(low).fill_(torch.inf)
            found.append(distances.topk(k, largest=False).indices)
        return torch.cat(found)

    return call


METHODS = {"ssdml_fast": ours, "faiss.knn": faiss_knn, "scikit-learn brute": scikit_learn, "torch topk": torch_topk}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [*SHAPES, *full_only(FULL)])
def test_knn_graph(race, shape, method):
    compare(race, shape, method)


@pytest.mark.parametrize("method", ["ssdml_fast", "faiss.knn"])
@pytest.mark.parametrize("shape", full_only(GROWTH))
def test_growth(race, shape, method):
    compare(race, shape, method)


@pytest.mark.parametrize("method", ["ssdml_fast", "faiss.knn"])
@pytest.mark.parametrize("shape", full_only(SEARCHES))
def test_knn_search(race, shape, method):
    n_queries, n_base, k = SEARCHES[shape]
    x = points("clustered", n_queries + n_base, 128)
    queries, base = x[:n_queries], x[n_queries:]
    if method == "ssdml_fast":
        race(lambda: sf.knn_search(queries, base, k).indices, lambda found: assert_nearest(base, found, queries))
    else:
        faiss = pytest.importorskip("faiss")
        expected = sf.knn_search(queries, base, k).indices
        race(
            lambda: faiss.knn(queries, base, k)[1],
            lambda found: assert_same_neighbours(base, found, expected, queries),
        )


def compare(race, shape, method):
    kind, n, d, k = {**SHAPES, **FULL, **GROWTH}[shape]
    x = points(kind, n, d)

    def check(found):
        if method == "ssdml_fast":
            assert_nearest(x, found)
        else:
            assert_same_neighbours(x, without_self(np.asarray(found), k), graph(kind, n, d, k).indices)

    # Each pair of points is multiplied once: what a method without that symmetry computes counts double.
    race(METHODS[method](x, k), check, targets={"faiss.knn": target(shape)}, flops=n * n * d)


def target(shape):
    if _core.lib.isa != "avx512":
        return 2
    return 2.5 if "5864" in shape else 3


def without_self(found, k):
    """Take each point's own index out, or its last neighbour where duplicates pushed itself out."""
    if found.shape[1] == k:
        return found
    drop = found == np.arange(len(found))[:, None]
    drop[~drop.any(1), -1] = True
    return found[~drop].reshape(-1, k)


def assert_nearest(x, found, queries=None, sample=40):
    """Exactly the nearest by float64 distance rounded to float32, then index, at a sample of the points or queries."""
    from_, k = x if queries is None else queries, found.shape[1]
    wide = x.astype(np.float64)
    for i in np.random.default_rng(2).choice(len(from_), sample, replace=False):
        distances = ((wide - from_[i].astype(np.float64)) ** 2).sum(1).astype(x.dtype)
        if queries is None:
            distances[i] = np.inf
        np.testing.assert_array_equal(found[i], np.lexsort((np.arange(len(x)), distances))[:k])


def assert_same_neighbours(x, found, expected, queries=None):
    """The same sets everywhere, except that neighbours closer than float32 can tell apart may replace one another."""
    wide = x.astype(np.float64)
    from_ = wide if queries is None else queries.astype(np.float64)
    # What rounding may do to |x|² + |y|² - 2<x, y> of unit vectors.
    tie = 16 * np.finfo(np.float32).eps * (wide**2).sum(1).max()
    for i in np.flatnonzero((np.sort(found, 1) != np.sort(expected, 1)).any(1)):
        instead, missed = np.setdiff1d(found[i], expected[i]), np.setdiff1d(expected[i], found[i])
        assert len(instead) == len(missed), f"repeated neighbours of point {i}"
        assert ((wide[instead] - from_[i]) ** 2).sum(1).max() - ((wide[missed] - from_[i]) ** 2).sum(1).min() < tie
