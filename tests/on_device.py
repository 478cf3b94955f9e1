"""What the tests of CUDA share: arrays on a device or on a stand-in for one, and how their results are compared.

What needs no device runs on a stand-in too (stand_in.py), by the fixtures `device_library` and `stand_in` of
conftest.py; what does is marked `gpu`. native/sanitize_cuda.cpp runs the same kernels under sanitizers.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import settings
from strategies import random_stiefel

import ssdml_fast as sf
from ssdml_fast import EdgeAffinity, KnnGraph
from ssdml_fast import _arrays as arrays

gpu = pytest.mark.gpu
DEVICE = "cuda"
FEW = settings(max_examples=25)
MB = 2**20
OPERATIONS = (
    "knn_graph",
    "knn_search",
    "propagate_affinity",
    "propagate_labels",
    "mine_triplets",
    "mine_class_triplets",
    "angular_loss",
    "cayley_update",
    "riemannian_cg",
)


@functools.cache
def working_cupy():
    """CuPy, where it finds the libraries of CUDA that it loads when they are first needed."""
    cupy = pytest.importorskip("cupy")
    try:
        (cupy.ones((2, 2)) @ cupy.ones((2, 2))).max().get()
    except Exception as error:
        pytest.skip(f"CuPy does not work here: {error}")
    return cupy


CONVERT = {
    "stand-in": lambda x: torch.from_numpy(x.copy()),
    "torch": lambda x: torch.from_numpy(x.copy()).to(DEVICE),
    "cupy": lambda x: working_cupy().asarray(x),
}


def on(library, value):
    """The same arrays in `library`, also within a tuple, dict, KnnGraph or EdgeAffinity; other values as they are."""
    if isinstance(value, np.ndarray):
        return CONVERT[library](value)
    if isinstance(value, tuple):
        return tuple(on(library, entry) for entry in value)
    if isinstance(value, dict):
        return {name: on(library, entry) for name, entry in value.items()}
    if isinstance(value, (KnnGraph, EdgeAffinity)):
        fields = {f.name: on(library, getattr(value, f.name)) for f in dataclasses.fields(value)}
        return KnnGraph(**fields, _validated=True) if isinstance(value, KnnGraph) else EdgeAffinity(**fields)
    return value


def close(found, right, rtol):
    """Equal up to `rtol` of the largest entry."""
    found, right = arrays.to_numpy(found), arrays.to_numpy(right)
    assert found.dtype == right.dtype
    np.testing.assert_allclose(found, right, rtol=0, atol=rtol * max(1.0, np.abs(right).max(initial=0)))


def assert_equal(found, right):
    for ours, expected in zip(found, right, strict=True):
        assert torch.equal(ours, expected)


def precision(dtype):
    return 1e-5 if dtype in (np.float32, torch.float32) else 1e-12


def gaussian(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def orthonormal(*shape, dtype=torch.float32, seed=0):
    return torch.from_numpy(random_stiefel(shape, np.random.default_rng(seed))).to(DEVICE, dtype)


def partition(n, d, k):
    """Points, their graph, labels, affinities and triplets, on the device."""
    x = gaussian(n, d)
    graph = sf.knn_graph(x, k)
    y = torch.full((n,), -1, device=DEVICE)
    y[:100] = torch.arange(100, device=DEVICE) % 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.ConvergenceWarning)
        affinity = sf.propagate_affinity(graph, y, gamma=0.5, tol=1e-4)
    return x, graph, y, affinity, sf.mine_triplets(graph, affinity)


def peak(call):
    """Bytes that a call allocates at most, beyond what was there, its result included."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
