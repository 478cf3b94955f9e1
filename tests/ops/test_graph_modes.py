import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import LIBRARIES, METRICS, make_points, point_sets, random_neighbours, to_torch

import ssdml_fast as sf
from ssdml_fast import KnnGraph, reference


@st.composite
def cases(draw):
    """(graph, n, metric) of unit vectors, with ties, duplicates and several segments."""
    x, k, ptr = draw(point_sets(kinds=("gaussian", "grid", "duplicates", "clusters"), max_n=50, max_d=4))
    x = x + (x == 0).all(1, keepdims=True)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    metric = draw(st.sampled_from(METRICS))
    return reference.knn_graph(x, k, metric, ptr), draw(st.none() | st.integers(1, 5)), metric


# --- agrees with reference --------------------------------------------------------------------------------------------


@given(cases())
def test_agrees_with_twin(case):
    modes = sf.graph_modes(*case)
    assert modes.dtype == np.int64
    np.testing.assert_array_equal(modes, reference.graph_modes(*case))


# --- invariants -------------------------------------------------------------------------------------------------------


@given(cases())
def test_agrees_with_the_stationary_distribution_itself(case):
    """Found by solving p T = p, not by the closed form that the degrees are; components by powers of the matrix."""
    graph, _, metric = case
    if graph.ptr is not None or graph.n == 0:
        return
    cosine = {"sqeuclidean": 1 - graph.distances / 2, "euclidean": 1 - graph.distances**2 / 2}
    cosine |= {"cosine": 1 - graph.distances, "inner_product": -graph.distances}
    weights = np.zeros((graph.n, graph.n))
    for i, row in enumerate(graph.indices):
        for r, j in enumerate(row):
            if i in graph.indices[j]:
                weights[i, j] = max(float(cosine[metric][i, r]), 0) ** 3
    weights = np.where((weights > 0) & (weights.T > 0), weights, 0)
    reaches = np.linalg.matrix_power((weights > 0) + np.eye(graph.n), graph.n) > 0
    members = np.flatnonzero(reaches[reaches.sum(1).argmax()])
    modes = sf.graph_modes(graph, metric=metric)
    if len(members) == 1:
        assert len(modes) == 0
        return
    weights = weights[np.ix_(members, members)]
    transition = weights / weights.sum(1, keepdims=True)
    equations = np.vstack([transition.T - np.eye(len(members)), np.ones(len(members))])
    p = np.linalg.lstsq(equations, np.eye(len(members) + 1)[-1], rcond=None)[0]
    for i, member in enumerate(members):
        gap = p[i] - p[weights[i] > 0].max()
        if abs(gap) > 1e-7 * p[i]:  # rounding decides closer ones, in float32 distances too
            assert (member in modes) == (gap > 0)
    assert set(modes) <= set(members)


def test_modes_of_two_bumps_are_their_middles():
    """Points on an arc, dense around two angles: one mode close to each."""
    rng = np.random.default_rng(0)
    angles = np.sort(np.concatenate([rng.normal(0.3, 0.1, 150), rng.normal(0.9, 0.1, 150)]))
    x = np.stack([np.cos(angles), np.sin(angles), np.full(300, 0.2)], 1)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    first, second = sf.graph_modes(sf.knn_graph(x, 100), n=2)
    np.testing.assert_allclose(sorted([angles[first], angles[second]]), [0.3, 0.9], atol=0.1)


def test_the_highest_come_first_and_n_keeps_them():
    x = make_points("sphere", 400, 3, np.random.default_rng(0))
    graph = sf.knn_graph(x, 8)
    every = sf.graph_modes(graph)
    assert 5 < len(every) < 200 and len(set(every)) == len(every)
    np.testing.assert_array_equal(sf.graph_modes(graph, n=3), every[:3])
    np.testing.assert_array_equal(sf.graph_modes(graph, n=10**6), every)


def test_segments_are_graphs_of_their_own():
    rng = np.random.default_rng(0)
    x = make_points("sphere", 120, 3, rng)
    parts = [sf.graph_modes(sf.knn_graph(part, 5), n=4) for part in (x[:50], x[50:])]
    together = sf.graph_modes(sf.knn_graph(x, 5, ptr=np.array([0, 50, 50, 120])), n=4)
    np.testing.assert_array_equal(together, np.concatenate([parts[0], parts[1] + 50]))


def test_one_way_neighbours_and_obtuse_angles_are_no_edges():
    assert len(sf.graph_modes(KnnGraph(np.array([[1], [2], [0]]), np.full((3, 1), 0.1)))) == 0  # a one-way circle
    assert len(sf.graph_modes(KnnGraph(np.array([[1], [0]]), np.full((2, 1), 2.0)))) == 0  # at a right angle
    assert len(sf.graph_modes(KnnGraph(np.array([[1], [0]]), np.full((2, 1), 0.5)))) == 0  # equal: neither is higher
    star = KnnGraph(np.array([[1, 2], [0, 2], [0, 1]]), np.array([[0.1, 0.1], [0.1, 1.9], [0.1, 1.9]]))
    np.testing.assert_array_equal(sf.graph_modes(star), [0])


@pytest.mark.parametrize("seed", range(10))
def test_equal_degrees_are_equal_in_any_order_of_the_points(seed):
    """Two joined points with three leaves each, of the same weights in opposite order: neither is higher."""
    a, b, leaves, others = 0, 1, (2, 3, 4, 5, 6, 7), (8, 9, 10, 11)
    lengths = np.random.default_rng(seed).uniform(0.1, 0.6, 3)
    of_leaf = dict(zip(leaves, [*lengths, *lengths[::-1]], strict=True))
    rows = [{b: 0.05, **{leaf: of_leaf[leaf] for leaf in leaves[:3]}}, {a: 0.05, **{j: of_leaf[j] for j in leaves[3:]}}]
    rows += [{(a if i < 3 else b): of_leaf[leaf], 8: 0.7, 9: 0.8, 10: 0.9} for i, leaf in enumerate(leaves)]
    rows += [{a: 1.5, **{j: 0.1 for j in others if j != i}} for i in others]  # a smaller component, all alike
    ordered = [sorted(row.items(), key=lambda entry: entry[1]) for row in rows]
    graph = KnnGraph(
        np.array([[j for j, _ in row] for row in ordered]), np.array([[d for _, d in row] for row in ordered])
    )
    assert len(sf.graph_modes(graph, metric="cosine")) == 0


def test_modes_are_anchors():
    x = make_points("sphere", 100, 3, np.random.default_rng(0))
    graph = sf.knn_graph(x, 6)
    modes = sf.graph_modes(graph)
    affinity = sf.propagate_affinity(graph, np.arange(100) % 5 - 1)
    triplets = sf.mine_triplets(graph, affinity, anchors=modes)
    np.testing.assert_array_equal(triplets[::3, 0], modes)


# --- backends agree ---------------------------------------------------------------------------------------------------
# It runs on the host, without threads or instruction sets of its own.


# --- torch ------------------------------------------------------------------------------------------------------------


@given(cases())
def test_torch_equals_numpy(case):
    graph, n, metric = case
    modes = sf.graph_modes(to_torch(graph), n, metric)
    assert isinstance(modes, torch.Tensor) and modes.dtype == torch.int64
    np.testing.assert_array_equal(modes.numpy(), sf.graph_modes(graph, n, metric))


# --- errors -----------------------------------------------------------------------------------------------------------

INDICES = random_neighbours(np.array([0, 12]), 4, np.random.default_rng(0))
GRAPH = KnnGraph(INDICES, np.sort(np.random.default_rng(0).random((12, 4)), axis=1))


@pytest.mark.parametrize(
    "error, name, changed",
    [
        (TypeError, "graph", {"graph": INDICES}),
        (ValueError, "graph", {"graph": KnnGraph(INDICES)}),
        (ValueError, "n", {"n": 0}),
        (TypeError, "n", {"n": 2.0}),
        (ValueError, "metric", {"metric": "manhattan"}),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_refuses(refuses, library, error, name, changed):
    arguments = {"graph": GRAPH, **changed}
    refuses(error, name, sf.graph_modes, **LIBRARIES[library](arguments))


def test_refuses_a_graph_that_was_changed(refuses):
    graph = KnnGraph(INDICES.copy(), GRAPH.distances)
    graph.indices[3, 1] = 12
    refuses(ValueError, "graph.indices", sf.graph_modes, graph)
