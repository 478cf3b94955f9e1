import copy
import dataclasses
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import kneighbors_graph
from strategies import DTYPES, LAYOUTS, LIBRARIES, graphs, make_points, point_sets, relayout, to_torch

import ssdml_fast as sf
from ssdml_fast import EdgeAffinity, KnnGraph, LabelPosteriors, reference

INDICES = np.array([[1, 2], [2, 0], [0, 1], [4, 5], [5, 3], [3, 4]])
DISTANCES = np.array([[0.5, 1.0]] * 6)
PTR = np.array([0, 3, 3, 6])


def with_entry(x, where, value):
    x = x.copy()
    x[where] = value
    return x


# --- KnnGraph ---------------------------------------------------------------------------------------------------------


@given(graphs())
def test_accepts_every_valid_graph(graph):
    again = KnnGraph(graph.indices, graph.distances, graph.ptr)
    for name in ("indices", "distances", "ptr"):
        assert getattr(again, name) is getattr(graph, name)  # nothing to convert: no copy
    assert (again.n, again.k) == graph.indices.shape


@given(graphs(), st.sampled_from(LAYOUTS[:5]), st.sampled_from((np.int64, np.int32, np.uint8, np.uint64)))
def test_any_layout_and_integer_type(graph, layout, dtype):
    distances = None if graph.distances is None else relayout(graph.distances, layout)
    again = KnnGraph(relayout(graph.indices.astype(dtype), layout), distances, graph.ptr)
    np.testing.assert_array_equal(again.indices, graph.indices)
    assert again.indices.dtype == np.int64 and again.indices.flags.c_contiguous
    assert again.distances is None or again.distances.flags.c_contiguous


def test_repr_and_sizes():
    graph = KnnGraph(INDICES, DISTANCES, PTR)
    assert repr(graph) == "KnnGraph(n=6, k=2, segments=3)"
    assert repr(KnnGraph(INDICES)) == "KnnGraph(n=6, k=2, segments=1)"
    assert repr(KnnGraph(np.zeros((0, 4), np.int64))) == "KnnGraph(n=0, k=4, segments=1)"


def test_is_frozen():
    with pytest.raises(AttributeError):
        KnnGraph(INDICES).indices = INDICES


def test_compares_and_hashes_by_identity():
    graph, twin = KnnGraph(INDICES), KnnGraph(INDICES.copy())  # arrays have no single truth value, and no hash
    assert graph == graph and graph != twin and len({graph, twin}) == 2


@pytest.mark.parametrize("change", [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))])
def test_copies_and_pickles(change):
    graph = change(KnnGraph(INDICES, DISTANCES, PTR))
    for ours, expected in zip((graph.indices, graph.distances, graph.ptr), (INDICES, DISTANCES, PTR), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    "error, name, changed",
    [
        (TypeError, "indices", {"indices": INDICES.tolist()}),
        (TypeError, "indices", {"indices": INDICES.astype(float)}),
        (TypeError, "indices", {"indices": INDICES > 1}),
        (ValueError, "indices", {"indices": INDICES[0]}),
        (ValueError, "indices", {"indices": INDICES[:, :0], "distances": None}),
        (ValueError, "indices", {"indices": with_entry(INDICES, (0, 1), 6), "ptr": None}),
        (ValueError, "indices", {"indices": with_entry(INDICES, (5, 0), -1), "ptr": None}),
        (ValueError, "indices", {"indices": with_entry(INDICES, (2, 0), 2)}),
        (ValueError, "indices", {"indices": with_entry(INDICES, (2, 0), 1)}),
        (ValueError, "indices", {"indices": with_entry(INDICES, (2, 0), 3)}),  # of the other segment
        (ValueError, "indices", {"indices": with_entry(INDICES, (3, 0), 2)}),
        (TypeError, "distances", {"distances": DISTANCES.tolist()}),
        (TypeError, "distances", {"distances": DISTANCES.astype(int)}),
        (TypeError, "distances", {"distances": DISTANCES.astype(complex)}),
        (ValueError, "distances", {"distances": DISTANCES[:-1]}),
        (ValueError, "distances", {"distances": DISTANCES[:, :1]}),
        (ValueError, "distances", {"distances": DISTANCES[0]}),
        (ValueError, "distances", {"distances": DISTANCES[:, ::-1].copy()}),
        (ValueError, "distances", {"distances": with_entry(DISTANCES, (4, 1), 0.25)}),
        (ValueError, "distances", {"distances": with_entry(DISTANCES, (4, 1), np.nan)}),
        (ValueError, "distances", {"distances": with_entry(DISTANCES, (4, 1), np.inf)}),
        (TypeError, "weights", {"weights": DISTANCES.tolist()}),
        (TypeError, "weights", {"weights": DISTANCES.astype(int)}),
        (ValueError, "weights", {"weights": DISTANCES[:-1]}),
        (ValueError, "weights", {"weights": DISTANCES[0]}),
        (ValueError, "weights", {"weights": with_entry(DISTANCES, (4, 1), np.nan)}),
        (ValueError, "weights", {"weights": with_entry(DISTANCES, (4, 1), np.inf)}),
        (ValueError, "weights", {"weights": with_entry(DISTANCES, (4, 1), -1e-9)}),
        (ValueError, "weights", {"weights": with_entry(DISTANCES, (4, slice(None)), 0.0)}),
        (TypeError, "ptr", {"ptr": PTR.tolist()}),
        (TypeError, "ptr", {"ptr": PTR.astype(float)}),
        (ValueError, "ptr", {"ptr": PTR[None]}),
        (ValueError, "ptr", {"ptr": PTR[:-1]}),
        (ValueError, "ptr", {"ptr": PTR[1:]}),
        (ValueError, "ptr", {"ptr": np.array([0, 4, 3, 6])}),
        (ValueError, "ptr", {"ptr": np.zeros(0, np.int64)}),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_refuses(refuses, library, error, name, changed):
    refuses(
        error, name, KnnGraph, **LIBRARIES[library]({"indices": INDICES, "distances": DISTANCES, "ptr": PTR, **changed})
    )


def test_messages_say_where():
    with pytest.raises(ValueError, match=r"found 3 at indices\[2, 0\]"):
        KnnGraph(with_entry(INDICES, (2, 0), 3), None, PTR)
    with pytest.raises(ValueError, match=r"found nan at distances\[4, 1\]"):
        KnnGraph(INDICES, with_entry(DISTANCES, (4, 1), np.nan))
    with pytest.raises(ValueError, match=r"found -1.0 at weights\[4, 1\]"):
        KnnGraph(INDICES, weights=with_entry(DISTANCES, (4, 1), -1.0))
    with pytest.raises(ValueError, match=r"weights\[4\] all 0"):
        KnnGraph(INDICES, weights=with_entry(DISTANCES, 4, 0.0))
    with pytest.raises(ValueError, match="row 4"):
        KnnGraph(INDICES, with_entry(DISTANCES, (4, 1), 0.25))


# --- from_scipy -------------------------------------------------------------------------------------------------------


@given(point_sets(with_ptr=False, max_n=40))
def test_from_scipy_of_sklearn(case):
    x, k, _ = case
    if len(x) == 0:
        return
    matrix = kneighbors_graph(x, k, mode="distance")
    before = matrix.copy()
    graph = KnnGraph.from_scipy(matrix)
    assert (graph.n, graph.k) == (len(x), k)
    for i in range(len(x)):
        row = matrix[[i]].tocoo()
        expected = sorted(zip(row.data, row.col, strict=True))
        assert list(zip(graph.distances[i], graph.indices[i], strict=True)) == expected
    assert (matrix != before).nnz == 0 and matrix.nnz == before.nnz


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil"])
def test_from_scipy_gives_back_a_graph(form, dtype):
    x = make_points("duplicates", 60, 4, np.random.default_rng(0)).astype(dtype)
    ptr = np.array([0, 20, 60])
    graph = reference.knn_graph(x, 5, ptr=ptr)
    rows = np.repeat(np.arange(60), 5)
    distances = graph.distances if form != "lil" else graph.distances + 1  # lil drops explicit zeros
    matrix = scipy.sparse.coo_array((distances.ravel(), (rows, graph.indices.ravel())), (60, 60)).asformat(form)
    again = KnnGraph.from_scipy(matrix, ptr)
    np.testing.assert_array_equal(again.indices, graph.indices)
    np.testing.assert_array_equal(again.distances, distances)
    assert again.distances.dtype == dtype
    np.testing.assert_array_equal(again.ptr, ptr)


def test_from_scipy_of_no_points():
    assert KnnGraph.from_scipy(scipy.sparse.csr_array((0, 0))).n == 0


def test_from_scipy_converts_integer_weights():
    graph = KnnGraph.from_scipy(scipy.sparse.csr_array(np.array([[0, 2, 1], [2, 0, 3], [1, 3, 0]])))
    np.testing.assert_array_equal(graph.distances, [[1.0, 2.0], [2.0, 3.0], [1.0, 3.0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_from_scipy_takes_weights_largest_first(dtype):
    matrix = scipy.sparse.csr_array(np.array([[0, 2, 5], [2, 0, 2], [7, 3, 0]], dtype))
    graph = KnnGraph.from_scipy(matrix, np.array([0, 3]), entries="weights")
    np.testing.assert_array_equal(graph.indices, [[2, 1], [0, 2], [0, 1]])
    np.testing.assert_array_equal(graph.weights, [[5, 2], [2, 2], [7, 3]])
    assert graph.distances is None and graph.weights.dtype == (np.float64 if dtype == np.int64 else dtype)


def test_from_scipy_refuses(refuses):
    refuses(ValueError, "entries", KnnGraph.from_scipy, scipy.sparse.csr_array((0, 0)), entries="similarities")
    refuses(
        ValueError,
        "weights",
        KnnGraph.from_scipy,
        scipy.sparse.csr_array(np.array([[0, -1], [1, 0]])),
        entries="weights",
    )
    refuses(TypeError, "matrix", KnnGraph.from_scipy, np.eye(3))
    refuses(ValueError, "matrix", KnnGraph.from_scipy, scipy.sparse.csr_array((3, 4)))
    refuses(
        ValueError, "matrix", KnnGraph.from_scipy, scipy.sparse.csr_array(np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]]))
    )
    refuses(ValueError, "indices", KnnGraph.from_scipy, scipy.sparse.csr_array(np.eye(3)))
    refuses(ValueError, "distances", KnnGraph.from_scipy, scipy.sparse.csr_array(np.array([[0, np.nan], [1, 0]])))
    refuses(
        ValueError, "ptr", KnnGraph.from_scipy, scipy.sparse.csr_array(np.array([[0.0, 1], [1, 0]])), np.array([0, 1])
    )


# --- EdgeAffinity -----------------------------------------------------------------------------------------------------


def test_repr_of_affinity():
    affinity = EdgeAffinity(np.zeros((6, 2)), np.zeros((6, 3)), np.arange(3), iterations=7, error_bound=5e-7)
    assert repr(affinity) == "EdgeAffinity(n=6, k=2, classes=3, iterations=7, error_bound=5e-07)"


def test_repr_of_posteriors():
    propagated = LabelPosteriors(np.eye(3)[[2, 0]], np.array([4, 5, 9]), iterations=7, error_bound=5e-7)
    assert repr(propagated) == "LabelPosteriors(n=2, classes=3, iterations=7, error_bound=5e-07)"
    np.testing.assert_array_equal(propagated.labels, [9, 4])


# --- torch ------------------------------------------------------------------------------------------------------------


def test_torch_in_torch_out():
    graph = KnnGraph(to_torch(INDICES), to_torch(DISTANCES), to_torch(PTR))
    for name in ("indices", "distances", "ptr"):
        assert isinstance(getattr(graph, name), torch.Tensor)
    assert (graph.n, graph.k, repr(graph)) == (6, 2, "KnnGraph(n=6, k=2, segments=3)")
    assert KnnGraph(to_torch(INDICES).int()).indices.dtype == torch.int64


def test_torch_graph_travels_through_the_operations():
    graph = sf.knn_graph(torch.randn(20, 3), 4)
    affinity = sf.propagate_affinity(graph, torch.arange(20) % 3)
    assert isinstance(sf.mine_triplets(graph, affinity), torch.Tensor)


def test_refuses_mixed_libraries(refuses):
    refuses(TypeError, "distances", KnnGraph, to_torch(INDICES), DISTANCES)
    refuses(TypeError, "distances", KnnGraph, INDICES, to_torch(DISTANCES))
    refuses(TypeError, "ptr", KnnGraph, INDICES, DISTANCES, to_torch(PTR))


# --- from a search of a set in itself ---------------------------------------------------------------------------------


def test_from_search_takes_what_faiss_answers():
    faiss = pytest.importorskip("faiss")
    x = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
    x[7] = x[5] = x[3]  # faiss may answer any of these as the first
    distances, indices = faiss.knn(x, x, 9)
    graph, exact = KnnGraph.from_search(indices, distances), sf.knn_graph(x, 8)
    np.testing.assert_allclose(graph.distances, exact.distances, atol=1e-5)
    assert (graph.indices == exact.indices).mean() > 0.99  # the rest are ties within faiss's rounding


def test_from_search_without_self_leaves_out_the_last():
    graph = KnnGraph.from_search(np.array([[1, 2], [0, 2], [2, 1]]), np.array([[1.0, 4.0], [1.0, 2.0], [0.0, 2.0]]))
    np.testing.assert_array_equal(graph.indices, [[1], [0], [1]])


def test_from_search_without_self_leaves_out_the_farthest_wherever_it_stands():
    graph = KnnGraph.from_search(np.array([[1, 2, 3]] + [[0, 1, 2, 3][:3]] * 3), np.array([[9.0, 2.0, 1.0]] * 4))
    np.testing.assert_array_equal(graph.indices[0], [3, 2])


def test_replacing_indices_validates_them():
    graph = KnnGraph(np.array([[1], [0]]))
    with pytest.raises(ValueError, match="indices"):
        dataclasses.replace(graph, indices=np.array([[7], [0]]))


def test_indices_changed_behind_its_back_are_refused():
    graph = KnnGraph(np.array([[1], [0]]))
    affinity = sf.propagate_affinity(graph, np.array([0, -1]))
    graph.indices[0] = 10**12
    with pytest.raises(ValueError, match=r"graph\.indices"):
        sf.propagate_affinity(graph, np.array([0, -1]))
    with pytest.raises(ValueError, match=r"graph\.indices"):
        sf.mine_triplets(graph, affinity)


def test_from_search_sorts_by_distance_then_index():
    graph = KnnGraph.from_search(torch.tensor([[3, 2, 0, 1]] * 4), torch.tensor([[1.0, 1.0, 0.0, 0.5]] * 4))
    assert isinstance(graph.indices, torch.Tensor)
    assert graph.indices[0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "indices", "distances"),
    [
        ("indices", [[0, -1], [1, 0]], [[0.0, 1.0], [0.0, 1.0]]),  # faiss's mark of a neighbour not found
        ("indices", [[0, 0], [1, 0]], [[0.0, 1.0], [0.0, 1.0]]),
        ("indices", [[0], [1]], [[0.0], [0.0]]),
        ("distances", [[0, 1], [1, 0]], [[0.0, np.nan], [0.0, 1.0]]),
        ("distances", [[0, 1], [1, 0]], [[0.0], [0.0]]),
    ],
)
def test_from_search_refuses(name, indices, distances):
    with pytest.raises(ValueError, match=name):
        KnnGraph.from_search(np.array(indices), np.array(distances))
