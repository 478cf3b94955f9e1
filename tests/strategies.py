"""Hypothesis strategies for what the operations take.

Sizes and kinds are drawn by hypothesis, so that a failure shrinks to a small example of the plainest kind that still
fails; the entries come from a NumPy generator whose seed is drawn, which is much faster than drawing each of them.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import ssdml_fast.reference as reference
from ssdml_fast import EdgeAffinity, KnnGraph

METRICS = ("sqeuclidean", "euclidean", "cosine", "inner_product")
DTYPES = (np.float64, np.float32)
KINDS = ("gaussian", "grid", "duplicates", "collinear", "constant", "clusters", "sphere", "zeros among")
LAYOUTS = ("C", "Fortran", "strided", "reversed", "read-only", "broadcast rows")

seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(DTYPES)


def relayout(x, layout):
    """The same entries in another memory layout ("broadcast rows" repeats the first row by a zero stride)."""
    if layout == "Fortran":
        return np.asfortranarray(x)
    if layout == "strided":
        wide = np.zeros(tuple(2 * s for s in x.shape), x.dtype)
        every_other = wide[tuple(slice(None, None, 2) for _ in x.shape)]
        every_other[...] = x
        return every_other
    if layout == "reversed":
        back = tuple(slice(None, None, -1) for _ in x.shape)
        return x[back].copy()[back]
    if layout == "broadcast rows" and len(x):
        return as_strided(x, x.shape, (0, *x.strides[1:]))
    x = x.copy()
    x.flags.writeable = layout != "read-only"
    return x


def to_torch(value):
    """The same arrays as torch tensors, also within a dict, a KnnGraph or an EdgeAffinity; other values as they are."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        return {name: to_torch(entry) for name, entry in value.items()}
    if isinstance(value, (KnnGraph, EdgeAffinity)):
        return dataclasses.replace(value, **to_torch(vars(value)))
    return value


LIBRARIES = {"numpy": lambda value: value, "torch": to_torch}  # how NumPy arguments become those of a library


def make_points(kind, n, d, rng):
    """(n, d) float64 points of one of KINDS."""
    x = rng.standard_normal((n, d))
    if kind == "grid":  # many exact ties, and distances that every summation order gets exactly
        x = rng.integers(-2, 3, (n, d)).astype(float)
    elif kind == "duplicates" and n:
        x = x[rng.integers(0, (n + 2) // 3, n)]
    elif kind == "collinear":
        x = rng.integers(-n, n + 1, (n, 1)) * x[:1] if n else x
    elif kind == "constant":
        x = np.full((n, d), 0.1)
    elif kind == "clusters":
        x = x + 1000 * rng.integers(0, 3, (n, 1))
    elif kind == "sphere":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    elif kind == "zeros among":
        x = x * rng.integers(0, 2, (n, 1))
    return x


@st.composite
def segments(draw, k, max_segments=4, max_size=30):
    """Boundaries of up to `max_segments` segments, each empty or of more than k points."""
    sizes = st.just(0) | st.integers(k + 1, max(k + 1, max_size))
    return np.cumsum([0, *draw(st.lists(sizes, max_size=max_segments))])


@st.composite
def point_sets(draw, kinds=KINDS, max_n=70, max_d=40, with_ptr=True):
    """(x, k, ptr): points with a valid number of neighbours, k = N - 1 and N = 0 among them."""
    k = draw(st.integers(1, 12) | st.integers(1, max_n - 1))
    if with_ptr and draw(st.booleans()):
        ptr = draw(segments(k))
        n = int(ptr[-1])
    else:
        ptr, n = None, draw(st.sampled_from((0, k + 1)) | st.integers(k + 1, max_n))
    d = draw(st.integers(1, max_d))
    kind = draw(st.sampled_from(kinds))
    rng = np.random.default_rng(draw(seeds))
    return make_points(kind, n, d, rng).astype(draw(dtypes)), k, ptr


@st.composite
def labels(draw, n):
    """(n,) labels: none at all, one class, isolated classes, all labelled, some; numbered from 0 or large with gaps."""
    rng = np.random.default_rng(draw(seeds))
    kind = draw(st.sampled_from(("none", "one class", "one each", "all", "some")))
    classes = {"none": 1, "one class": 1, "one each": max(n, 1)}.get(kind, draw(st.integers(2, 5)))
    y = rng.permutation(n) if kind == "one each" else rng.integers(0, classes, n)
    if draw(st.booleans()):
        y = 7 * y + draw(st.sampled_from((3, 10**12)))
    labelled = {"none": 0.0, "all": 1.0}.get(kind, draw(st.sampled_from((0.1, 0.5, 1.0))))
    return np.where(rng.random(n) < labelled, y, -1)


@st.composite
def graphs(draw, max_n=40, max_k=10, with_distances=None, with_weights=False):
    """KnnGraphs: of points, or of random neighbour lists (some point at by nobody, some in several components)."""
    if draw(st.booleans()):
        x, k, ptr = draw(point_sets(max_n=max_n, max_d=4))
        graph = reference.knn_graph(x, k, "sqeuclidean", ptr)
        return graph if with_distances in (None, True) else KnnGraph(graph.indices, None, ptr)
    k = draw(st.integers(1, max_k))
    bounds = draw(segments(k, max_size=max_n // 2))
    rng = np.random.default_rng(draw(seeds))
    popular = draw(st.sampled_from((1.0, 0.5, 0.0)))  # share of the points that may be pointed at (at least k + 1)
    indices = random_neighbours(bounds, k, rng, popular)
    distances = None
    if with_distances or (with_distances is None and draw(st.booleans())):
        distances = np.sort(rng.integers(0, 3, indices.shape), axis=1).astype(draw(dtypes))  # with ties
    declared = draw(st.booleans())  # otherwise one segment of several components
    weights = None
    if with_weights and draw(st.booleans()):
        weights = rng.choice((0.0, 1e-3, 1.0, 3.0), indices.shape).astype(draw(dtypes))
        weights[:, :1] += weights.sum(1, keepdims=True) == 0
    return KnnGraph(indices, distances, bounds if declared else None, weights)


def random_neighbours(bounds, k, rng, popular=1.0):
    """(N, k) random distinct neighbours within segments, among the first `popular` share of each."""
    rows = []
    for low, high in itertools.pairwise(bounds):
        targets = low + max(k + 1, int(popular * (high - low)))
        for i in range(low, high):
            candidates = np.delete(np.arange(low, targets), i - low) if i < targets else np.arange(low, targets)
            rows.append(rng.choice(candidates, k, replace=False))
    return np.array(rows, np.int64).reshape(-1, k)


@st.composite
def losses(draw, max_n=20, max_d=12, max_t=40, scales=(1.0, 1e-3, 1e3)):
    """(z, triplets, L): embeddings, triplets with repeated indices and possibly none, and a (d, l) matrix."""
    n, d = draw(st.integers(1, max_n)), draw(st.integers(1, max_d))
    width = draw(st.integers(1, d))
    count = draw(st.integers(0, max_t))
    rng, dtype = np.random.default_rng(draw(seeds)), draw(dtypes)
    z = (draw(st.sampled_from(scales)) * rng.standard_normal((n, d))).astype(dtype)
    return z, rng.integers(0, n, (count, 3)), random_stiefel((d, width), rng, dtype)


@st.composite
def stiefel_points(draw, max_d=40, batched=True):
    """(L, grad): one matrix or a batch of orthonormal columns, square, tall or a single column, with a gradient."""
    d = draw(st.integers(1, max_d))
    width = draw(st.sampled_from((1, d, (d + 1) // 2)) | st.integers(1, d))
    batch = draw(st.lists(st.integers(0, 3), max_size=2)) if batched else []
    rng, dtype = np.random.default_rng(draw(seeds)), draw(dtypes)
    shape = (*batch, d, width)
    return random_stiefel(shape, rng, dtype), rng.standard_normal(shape).astype(dtype)


def random_stiefel(shape, rng, dtype=np.float64):
    """A random (..., d, l) matrix with orthonormal columns."""
    return orthonormalised(rng.standard_normal(shape)).astype(dtype)


def orthonormalised(x):
    """The columns of x (..., d, l) made orthonormal in their order: Gram-Schmidt, twice.

    In sums of NumPy's own, as no input may depend on the processor for which a BLAS chose its products, nor on how many
    threads it shares them among.
    """
    q = np.zeros(x.shape)
    for j in range(x.shape[-1]):
        column = x[..., j].astype(np.float64)
        for _ in range(2):
            along = (q[..., :j] * column[..., None]).sum(-2, keepdims=True)
            column = column - (q[..., :j] * along).sum(-1)
        q[..., j] = column / np.sqrt((column**2).sum(-1, keepdims=True))
    return q


def drift(L):
    """Largest |L'L - I|."""
    L = L.astype(np.float64)
    return np.abs(np.swapaxes(L, -1, -2) @ L - np.eye(L.shape[-1])).max(initial=0)
