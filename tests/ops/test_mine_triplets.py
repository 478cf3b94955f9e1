import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import LAYOUTS, LIBRARIES, graphs, labels, random_neighbours, relayout, seeds, to_torch
from threadpoolctl import threadpool_limits

import ssdml_fast as sf
from ssdml_fast import EdgeAffinity, KnnGraph, _torch, reference


def affinity_of(values):
    """An EdgeAffinity of these values, which is all that mining looks at."""
    n = len(values)
    return EdgeAffinity(values, np.zeros((n, 0), values.dtype), np.zeros(0, np.int64), iterations=0, error_bound=0.0)


@st.composite
def cases(draw):
    """(graph, affinity, anchors): affinities with ties and both zeros; anchors in any order, repeated or None."""
    graph = draw(graphs(max_k=13))
    rng = np.random.default_rng(draw(seeds))
    dtype = np.float64 if graph.distances is None else graph.distances.dtype
    values = rng.integers(-2, 3, graph.indices.shape) * rng.choice([-0.0, 0.125, 1.0])
    if draw(st.booleans()):
        values = rng.standard_normal(graph.indices.shape)
    anchors = None
    if graph.n and draw(st.booleans()):
        anchors = rng.integers(0, graph.n, draw(st.integers(0, 2 * graph.n)))
    return graph, affinity_of(values.astype(dtype)), anchors


# --- agrees with reference --------------------------------------------------------------------------------------------


@given(cases())
def test_agrees_with_twin(isa, case):
    graph, affinity, anchors = case
    triplets = sf.mine_triplets(graph, affinity, anchors)
    assert triplets.dtype == np.int64
    np.testing.assert_array_equal(triplets, reference.mine_triplets(graph, affinity, anchors))


@pytest.mark.parametrize("k", [1, 2, 15, 16, 17, 33, 64, 129, 1100])
def test_agrees_with_twin_for_wide_rows(isa, k):
    rng = np.random.default_rng(k)
    indices = random_neighbours(np.array([0, max(150, k + 1)]), k, rng)
    graph = KnnGraph(indices, np.sort(rng.integers(0, 4, indices.shape).astype(float), axis=1))
    affinity = affinity_of(rng.integers(-3, 4, indices.shape).astype(float))
    np.testing.assert_array_equal(sf.mine_triplets(graph, affinity), reference.mine_triplets(graph, affinity))


@given(graphs(max_k=6), st.data())
def test_agrees_with_twin_on_propagated_affinities(graph, data):
    affinity = sf.propagate_affinity(graph, data.draw(labels(graph.n)))
    np.testing.assert_array_equal(sf.mine_triplets(graph, affinity), reference.mine_triplets(graph, affinity))


# --- invariants -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, k, count", [(9100, 10, 45_500), (5864, 50, 146_600), (8054, 50, 201_350)])
def test_counts_of_the_paper(n, k, count):
    rng = np.random.default_rng(0)
    offsets = 1 + rng.permutation(n - 1)[:k]
    graph = KnnGraph((np.arange(n)[:, None] + offsets) % n)
    triplets = sf.mine_triplets(graph, affinity_of(rng.random((n, k))))
    assert triplets.shape == (count, 3)
    np.testing.assert_array_equal(triplets[:, 0], np.repeat(np.arange(n), k // 2))


@given(cases())
def test_the_rule(case):
    """Positives are the higher-affinity half, negatives the lower, both in descending order; none is used twice."""
    graph, affinity, anchors = case
    half = graph.k // 2
    anchors = np.arange(graph.n) if anchors is None else anchors
    triplets = sf.mine_triplets(graph, affinity, anchors)
    assert triplets.shape == (len(anchors) * half, 3)
    for a, of_anchor in zip(anchors, triplets.reshape(len(anchors), half, 3), strict=True):
        value = dict(zip(graph.indices[a], affinity.values[a], strict=True))
        assert (of_anchor[:, 0] == a).all()
        ranked = np.concatenate([of_anchor[:, 1], of_anchor[:, 2]])
        assert len(set(ranked)) == 2 * half and set(ranked) <= set(graph.indices[a])
        unused = [value[j] for j in set(graph.indices[a]) - set(ranked)]  # the median of odd k
        values = [value[j] for j in ranked]
        assert values == sorted(values, reverse=True)
        assert len(unused) == graph.k % 2
        assert not half or all(values[half - 1] >= v >= values[half] for v in unused)


def test_equal_affinities_fall_to_the_smaller_distance_then_index():
    indices = np.array([[4, 3, 2, 1], [0, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 4], [0, 1, 2, 3]])
    distances = np.array([[1.0, 1.0, 2.0, 2.0]] * 5)
    equal = affinity_of(np.full((5, 4), 0.25))
    anchor = np.array([0])
    by_distance = sf.mine_triplets(KnnGraph(indices, distances), equal, anchor)  # 3 4 | 1 2
    np.testing.assert_array_equal(by_distance, [[0, 3, 1], [0, 4, 2]])
    by_index = sf.mine_triplets(KnnGraph(indices), equal, anchor)  # 1 2 | 3 4
    np.testing.assert_array_equal(by_index, [[0, 1, 3], [0, 2, 4]])


def test_zeros_of_either_sign_are_equal():
    graph = KnnGraph(np.array([[1, 2], [0, 2], [0, 1]]))
    affinity = affinity_of(np.array([[-0.0, 0.0], [0.0, -0.0], [-0.0, 0.0]]))
    np.testing.assert_array_equal(sf.mine_triplets(graph, affinity), [[0, 1, 2], [1, 0, 2], [2, 0, 1]])


@given(cases())
def test_anchors_select_from_all(case):
    graph, affinity, anchors = case
    if anchors is None:
        return
    every = sf.mine_triplets(graph, affinity).reshape(graph.n, graph.k // 2, 3)
    np.testing.assert_array_equal(sf.mine_triplets(graph, affinity, anchors), every[anchors].reshape(-1, 3))


@given(cases(), st.sampled_from(LAYOUTS[:5]))
def test_any_layout(case, layout):
    graph, affinity, anchors = case
    laid_out = None if anchors is None else relayout(anchors.astype(np.int32), layout)
    other = dataclasses.replace(affinity, values=relayout(affinity.values, layout))
    np.testing.assert_array_equal(sf.mine_triplets(graph, other, laid_out), sf.mine_triplets(graph, affinity, anchors))


# --- backends agree ---------------------------------------------------------------------------------------------------
# The instruction sets are held to the twin, bit for bit, above.


def test_same_triplets_for_any_thread_count(isa):
    rng = np.random.default_rng(0)
    graph = KnnGraph(random_neighbours(np.array([0, 9000]), 9, rng, popular=0.01))
    affinity = affinity_of(rng.integers(0, 30, graph.indices.shape).astype(np.float32))
    with threadpool_limits(1):
        alone = sf.mine_triplets(graph, affinity)
    with threadpool_limits(3):
        np.testing.assert_array_equal(sf.mine_triplets(graph, affinity), alone)


# --- torch ------------------------------------------------------------------------------------------------------------


@given(cases())
def test_torch_equals_numpy(case):
    graph, affinity, anchors = case
    triplets = sf.mine_triplets(to_torch(graph), to_torch(affinity), to_torch(anchors))
    assert isinstance(triplets, torch.Tensor) and triplets.dtype == torch.int64
    np.testing.assert_array_equal(triplets.numpy(), sf.mine_triplets(graph, affinity, anchors))


def test_registered_operator():
    operator = _torch.ops.mine_triplets.default
    indices, values = to_torch(GRAPH.indices), to_torch(AFFINITY.values)
    distances = torch.rand(indices.shape, dtype=torch.float64).sort().values
    torch.library.opcheck(operator, (indices, None, values, None, None))
    torch.library.opcheck(operator, (indices, distances, values, torch.tensor([5, 2, 2]), 2))


def test_compiles_as_one_graph():
    def mine(x, y):
        graph = sf.knn_graph(x, 5)
        return sf.mine_triplets(graph, sf.propagate_affinity(graph, y))

    x, y = torch.randn(20, 3), torch.arange(20) % 4 - 1
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, y), mine(x, y))


# --- errors -----------------------------------------------------------------------------------------------------------

GRAPH = KnnGraph(random_neighbours(np.array([0, 12]), 4, np.random.default_rng(0)))
AFFINITY = affinity_of(np.random.default_rng(0).random((12, 4)))


@pytest.mark.parametrize(
    "error, name, changed",
    [
        (TypeError, "graph", {"graph": GRAPH.indices}),
        (TypeError, "affinity", {"affinity": AFFINITY.values}),
        (TypeError, "affinity", {"affinity": None}),
        (ValueError, "affinity.values", {"affinity": affinity_of(AFFINITY.values[:-1])}),
        (ValueError, "affinity.values", {"affinity": affinity_of(AFFINITY.values[:, :-1].copy())}),
        (TypeError, "affinity.values", {"affinity": affinity_of(AFFINITY.values.astype(int))}),
        (ValueError, "affinity.values", {"affinity": affinity_of(np.full((12, 4), np.nan))}),
        (TypeError, "anchors", {"anchors": [0, 1]}),
        (TypeError, "anchors", {"anchors": np.array([0.0])}),
        (TypeError, "anchors", {"anchors": np.ones(12, bool)}),
        (ValueError, "anchors", {"anchors": np.array([[0]])}),
        (ValueError, "anchors", {"anchors": np.array([3, 12])}),
        (ValueError, "anchors", {"anchors": np.array([3, -1])}),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_refuses(refuses, library, error, name, changed):
    refuses(error, name, sf.mine_triplets, **LIBRARIES[library]({"graph": GRAPH, "affinity": AFFINITY, **changed}))


def test_refuses_mixed_libraries(refuses):
    graph, affinity = to_torch(GRAPH), to_torch(AFFINITY)
    refuses(TypeError, "affinity", sf.mine_triplets, GRAPH, affinity)
    refuses(TypeError, "affinity", sf.mine_triplets, graph, AFFINITY)
    refuses(TypeError, "anchors", sf.mine_triplets, graph, affinity, np.array([0]))
