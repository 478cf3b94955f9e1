"""Affinities on CUDA: the CPU's within both error bounds, in the memory that is promised."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from on_device import FEW, MB, gpu, on, partition, peak
from stand_in import installed, shared_memory
from strategies import graphs, labels

import ssdml_fast as sf
from ssdml_fast import KnnGraph
from ssdml_fast import _arrays as arrays

# --- agrees with the CPU ----------------------------------------------------------------------------------------------


def assert_affinities_agree(library, graph, y, gamma=0.9, tol=1e-6):
    """Within both bounds, which are as good as was asked for; returns what was found."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.ConvergenceWarning)
        right = sf.propagate_affinity(graph, y, gamma, tol)
        found = sf.propagate_affinity(on(library, graph), on(library, y), gamma, tol)
    bound = right.error_bound + found.error_bound
    assert arrays.dtype_name(found.values) == arrays.dtype_name(right.values)
    assert found.error_bound < 2 * tol
    np.testing.assert_allclose(arrays.to_numpy(found.values), right.values, rtol=0, atol=bound)
    np.testing.assert_allclose(arrays.to_numpy(found.class_mass), right.class_mass, rtol=0, atol=bound)
    np.testing.assert_array_equal(arrays.to_numpy(found.classes), right.classes)
    assert arrays.device(found.classes) == arrays.device(on(library, y))
    return found


@FEW
@given(st.data())
def test_propagate_affinity(device_library, data):
    """Of every type, with weights, in segments and components, popular points and points that no edge leads to."""
    graph = data.draw(graphs(with_weights=True))
    assert_affinities_agree(device_library, graph, data.draw(labels(graph.n)))


LARGE = {
    "float32": (np.float32, 1300, 10, 0.99, 1e-6),
    "float32 that needs float64": (np.float32, 1300, 10, 0.999, 3e-7),
    "float64": (np.float64, 1100, 10, 0.99, 1e-9),
}


def large_component(case, weighted):
    """A component that is large enough to have its slow modes taken out, beside a small one."""
    dtype, n, k, gamma, tol = LARGE[case]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 3)).astype(dtype)
    graph = sf.knn_graph(x, k, ptr=np.array([0, 30, n]))
    if weighted:
        graph = dataclasses.replace(graph, weights=rng.random((n, k)).astype(dtype))
    y = rng.integers(0, 3, n)
    y[:60] = -1
    return graph, y, gamma, tol


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", LARGE)
def test_propagate_affinity_without_slow_modes(device_library, case, weighted):
    *operands, gamma, tol = large_component(case, weighted)
    found = assert_affinities_agree(device_library, *operands, gamma, tol)
    assert found.error_bound <= tol
    assert found.iterations < 0.2 * math.log(tol) / math.log(gamma)  # what it takes without modes


@pytest.mark.parametrize("has_modes", [True, False])
@pytest.mark.parametrize("case", LARGE)
def test_propagate_affinity_in_global_memory(stand_in, case, has_modes):
    """Panels do not fit into shared memory; the coefficients of modes do or do not."""
    *operands, gamma, tol = large_component(case, weighted=False)
    with installed(stand_in), shared_memory(stand_in, 10_500 if has_modes else 9_000):
        found = assert_affinities_agree("stand-in", *operands, gamma, tol)
    assert found.error_bound <= tol
    assert not has_modes or found.iterations < 0.2 * math.log(tol) / math.log(gamma)


# --- warnings and progress --------------------------------------------------------------------------------------------


def test_propagation_warns_where_rounding_allows_no_better(device_library):
    graph = KnnGraph(np.array([[1, 2], [0, 2], [0, 1], [2, 1]]), np.zeros((4, 2), np.float32))
    for propagate in (sf.propagate_affinity, sf.propagate_labels):
        with pytest.warns(sf.ConvergenceWarning, match="not to tol = 1e-12"):
            propagate(*on(device_library, (graph, np.array([0, 1, -1, -1]))), tol=1e-12)


def test_propagation_reports_progress_and_stops(device_library):
    x = np.random.default_rng(0).standard_normal((1100, 3)).astype(np.float32)
    graph, y = sf.knn_graph(x, 4), np.zeros(1100, np.int64)
    shares = []
    sf.propagate_affinity(*on(device_library, (graph, y)), progress=shares.append)
    assert shares and shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1

    def interrupt(share):
        raise KeyboardInterrupt

    for propagate in (sf.propagate_affinity, sf.propagate_labels):
        with pytest.raises(KeyboardInterrupt):
            propagate(*on(device_library, (graph, y)), progress=interrupt)


# --- memory -----------------------------------------------------------------------------------------------------------


@gpu
def test_memory_of_propagate_affinity():
    n, k, classes, modes = 20_000, 10, 10, 64
    _, graph, y, *_ = partition(n, 8, k)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    numbers = 15 * n + 9 * n * k + n * classes + 4 * n * modes + 33 * modes**2  # of 8 bytes at most
    used = peak(lambda: sf.propagate_affinity(graph, y, 0.5, 1e-3))
    assert used < 4 * n * (k + classes) + 8 * numbers + processors * 227 * 1024 + 4 * MB
