"""Columns divided among processes on CUDA: each finds what one process does there, to the last bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from on_device import FEW, on
from peers import Meeting, together
from strategies import graphs, labels

import ssdml_fast as sf
from ssdml_fast import _arrays as arrays
from ssdml_fast._run.affinity import propagate_affinity
from ssdml_fast._run.propagate_labels import propagate_labels


def affinity(graph, y, gamma, tol, peers=None):
    return propagate_affinity(graph.indices, graph.distances, graph.weights, y, gamma, tol, None, None, peers)


def posteriors(graph, y, gamma, tol, peers=None):
    return propagate_labels(graph.indices, graph.distances, graph.ptr, graph.weights, y, gamma, tol, None, None, peers)


def assert_divided(run, size, library, graph, y, gamma, tol):
    graph, y, meeting = on(library, graph), on(library, y), Meeting(size)
    *alone, iterations, bound = run(graph, y, gamma, tol)
    for found in together(size, lambda peers: run(graph, y, gamma, tol, peers=peers), meeting):
        assert found[-2:] == (iterations, bound)
        for each, right in zip(found, alone, strict=False):
            assert arrays.to_numpy(each).tobytes() == arrays.to_numpy(right).tobytes()
    return meeting.n_sent


@pytest.mark.parametrize("run", [affinity, posteriors])
@FEW
@given(st.data())
def test_peers_find_what_one_process_does(device_library, run, data):
    graph = data.draw(graphs(with_weights=True))
    y, size = data.draw(labels(graph.n)), data.draw(st.sampled_from((1, 2, 3)))
    assert_divided(run, size, device_library, graph, y, 0.9, 1e-6)


@pytest.mark.parametrize(
    ("dtype", "gamma", "tol"), [(np.float32, 0.99, 1e-6), (np.float32, 0.999, 3e-7), (np.float64, 0.99, 1e-9)]
)
def test_components_large_and_small_are_divided(device_library, dtype, gamma, tol):
    """With modes and without; of float32 columns, some are solved again; and more classes than a panel holds."""
    rng = np.random.default_rng(0)
    n, classes = 1300, 70
    graph = sf.knn_graph(rng.standard_normal((n, 3)).astype(dtype), 10, ptr=np.array([0, 30, 100, n]))
    y = np.where(rng.random(n) < 0.3, rng.integers(0, classes, n), -1)
    n_sent = assert_divided(affinity, 3, device_library, graph, y, gamma, tol)
    assert n * (2 * 10 + classes + 1) < n_sent < n * (2 * 10 + classes + 3)
    n_sent = assert_divided(posteriors, 3, device_library, graph, y, gamma, tol)
    assert n * classes < n_sent < 4 * n * classes
