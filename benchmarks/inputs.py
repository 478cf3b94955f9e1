"""Seeded inputs shared by the benchmarks; each is made once per session."""

from __future__ import annotations

import functools
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

import ssdml_fast as sf


@functools.cache
def points(kind: str, n: int, d: int) -> np.ndarray:
    """(n, d) float32 unit vectors: "uniform" on the sphere, "clustered", "lognormal" coordinates or "mnist".

    "outliers" are uniform ones, of which every hundredth is three times as long; "plane" are uniform in a cube.
    """
    rng = np.random.default_rng(0)
    if kind == "plane":  # few dimensions: the slowest walks
        return rng.random((n, d), np.float32)
    if kind in ("uniform", "outliers"):  # no structure: the hardest input for any method that prunes
        x = rng.standard_normal((n, d))
    elif kind == "lognormal":  # a few coordinates of each point are much larger than the others
        x = np.exp(2 * rng.standard_normal((n, d)))
    elif kind == "clustered":  # ten clusters of intrinsic dimension 16 with some noise around, like a trained embedding
        centres = 1.5 * rng.standard_normal((10, 16))
        latent = centres[rng.integers(0, 10, n)] + rng.standard_normal((n, 16))
        x = latent @ rng.standard_normal((16, d)) + 0.05 * rng.standard_normal((n, d))
    else:
        x = _mnist_images()[:n].reshape(n, d).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    if kind == "outliers":
        x[::100] *= 3
    return x.astype(np.float32)


def _mnist_images() -> np.ndarray:
    return np.frombuffer(_mnist_file("train-images-idx3-ubyte.gz"), np.uint8, offset=16).reshape(-1, 28, 28)


@functools.cache
def mnist_classes(n: int) -> np.ndarray:
    """(n,) digits of the "mnist" points."""
    return np.frombuffer(_mnist_file("train-labels-idx1-ubyte.gz"), np.uint8, offset=8)[:n].astype(np.int64)


def _mnist_file(name: str) -> bytes:
    folder = os.environ.get("SSDML_MNIST")
    if not folder:
        pytest.skip(f"SSDML_MNIST does not name a folder with MNIST's {name}")
    return gzip.decompress((Path(folder) / name).read_bytes())


@functools.cache
def graph(kind: str, n: int, d: int, k: int) -> sf.KnnGraph:
    """kNN graph of `points`."""
    return sf.knn_graph(points(kind, n, d), k)


@functools.cache
def labels(n: int) -> np.ndarray:
    """(n,) labels: ten random points of each of ten classes, -1 elsewhere; their place does not affect the work."""
    y = np.full(n, -1)
    y[np.random.default_rng(1).permutation(n)[:100]] = np.arange(100) % 10
    return y


@functools.cache
def mnist_labels(n: int) -> np.ndarray:
    """(n,) digits of ten "mnist" points of each class, -1 elsewhere."""
    classes, y = mnist_classes(n), np.full(n, -1)
    for c in range(10):
        y[np.random.default_rng(c).choice(np.flatnonzero(classes == c), 10, replace=False)] = c
    return y


def full_only(names):
    """Parameters that run with ``--shapes full`` only."""
    return [pytest.param(*([name] if isinstance(name, str) else name), marks=pytest.mark.full) for name in names]


def transition(graph: sf.KnnGraph) -> scipy.sparse.csr_array:
    """Q of an unweighted graph."""
    values = np.full(graph.indices.size, 1 / graph.k)
    starts = np.arange(0, graph.indices.size + 1, graph.k)
    return scipy.sparse.csr_array((values, graph.indices.ravel(), starts), shape=(graph.n, graph.n))
