import itertools
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.semi_supervised import LabelSpreading
from strategies import DTYPES, LIBRARIES, graphs, labels, make_points, random_neighbours, to_torch

import ssdml_fast as sf
from ssdml_fast import KnnGraph, _torch, reference
from ssdml_fast.exceptions import ConvergenceWarning


@st.composite
def cases(draw, **kwargs):
    """(graph, labels, gamma)"""
    graph = draw(graphs(with_weights=True, **kwargs))
    return graph, draw(labels(graph.n)), draw(st.sampled_from((0.99, 0.5, 0.9, 0.999)))


def propagate(*args, **kwargs):
    """The result, and whether it was within tol or said that it was not."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return sf.propagate_labels(*args, **kwargs), not caught


def exact(graph, y, gamma):
    """The twin's answer, in float64 whatever the precision of the graph."""
    return reference.propagate_labels(KnnGraph(graph.indices, None, graph.ptr, graph.weights), y, gamma)


def assert_within_bound(propagated, twin, tol=None):
    assert propagated.posteriors.shape == twin.posteriors.shape
    np.testing.assert_array_equal(propagated.classes, twin.classes)
    if tol is not None:
        assert 0 <= propagated.error_bound <= tol
    error = np.abs(propagated.posteriors - twin.posteriors)
    np.testing.assert_array_less(error, propagated.error_bound + 1e-9)  # the twin's own rounding, at distant points


# --- agrees with reference --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tol", [1e-2, 1e-6, 1e-9])
@given(cases())
def test_agrees_with_twin(isa, tol, case):
    graph, y, gamma = case
    propagated, reached = propagate(graph, y, gamma, tol)
    assert propagated.posteriors.dtype == (np.float64 if graph.distances is None else graph.distances.dtype)
    assert propagated.classes.dtype == np.int64
    assert reached == (propagated.error_bound <= tol)
    assert_within_bound(propagated, exact(graph, y, gamma))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, classes", [(300, 3), (600, 17)])
def test_reaches_tol(isa, n, classes, dtype):
    rng = np.random.default_rng(n)
    graph = reference.knn_graph(make_points("gaussian", n, 4, rng).astype(dtype), 8)
    y = np.where(rng.random(n) < 0.2, rng.integers(0, classes, n), -1)
    assert_within_bound(sf.propagate_labels(graph, y, tol=1e-6), exact(graph, y, 0.99), 1e-6)


def test_is_label_spreading_but_for_the_weights_of_labels():
    """scikit-learn's normalised Laplacian weighs labels by D^-1/2 and leaves class mass alone: where every point has
    the same degree and the classes the same mass, nothing is left of that."""
    indices = (np.arange(40)[:, None] + np.array([1, 39, 2, 38])) % 40
    y = np.full(40, -1)
    y[[0, 20]] = 3, 8
    matrix = scipy.sparse.csr_array((np.ones(160), (np.repeat(np.arange(40), 4), indices.ravel())))
    spreading = LabelSpreading(kernel=lambda *_: matrix, alpha=0.9, max_iter=10_000, tol=1e-12).fit(np.eye(40), y)
    propagated = sf.propagate_labels(KnnGraph(indices), y, gamma=0.9, tol=1e-9)
    np.testing.assert_array_equal(propagated.classes, spreading.classes_)
    np.testing.assert_allclose(propagated.posteriors, spreading.label_distributions_, rtol=0, atol=1e-8)


# --- invariants -------------------------------------------------------------------------------------------------------


@given(cases())
def test_rows_are_probabilities(case):
    graph, y, gamma = case
    propagated, _ = propagate(graph, y, gamma)
    assert (propagated.posteriors >= 0).all()
    if len(propagated.classes):
        np.testing.assert_allclose(propagated.posteriors.sum(1), 1, rtol=1e-6)


@given(cases(with_distances=False), st.integers(0, 2**32 - 1))
def test_permutation_equivariance(case, seed):
    graph, y, gamma = case
    order = np.random.default_rng(seed).permutation(graph.n)
    if graph.ptr is not None:
        graph = KnnGraph(graph.indices, weights=graph.weights)
    weights = None if graph.weights is None else graph.weights[order]
    indices = np.argsort(order)[graph.indices[order]].reshape(-1, graph.k)
    permuted, _ = propagate(KnnGraph(indices, weights=weights), y[order], gamma, tol=1e-8)
    propagated, _ = propagate(graph, y, gamma, tol=1e-8)
    error = np.abs(permuted.posteriors - propagated.posteriors[order])
    np.testing.assert_array_less(error, propagated.error_bound + permuted.error_bound + 1e-15)


@given(cases(with_distances=False))
def test_segments_are_separate_calls(case):
    graph, y, gamma = case
    propagated, _ = propagate(graph, y, gamma, tol=1e-8)
    for low, high in itertools.pairwise([0, graph.n] if graph.ptr is None else graph.ptr):
        weights = None if graph.weights is None else graph.weights[low:high]
        part = KnnGraph(graph.indices[low:high] - low, weights=weights)
        alone, _ = propagate(part, y[low:high], gamma, tol=1e-8)
        columns = np.isin(propagated.classes, alone.classes)
        mine = propagated.posteriors[low:high]
        labelled = np.flatnonzero(~np.isclose(mine, 1 / max(len(propagated.classes), 1)).all(1))
        error = np.abs(mine[labelled][:, columns] - alone.posteriors[labelled])
        np.testing.assert_array_less(error, propagated.error_bound + alone.error_bound + 1e-15)


def test_undecided_where_no_label_is_connected():
    rng = np.random.default_rng(0)
    graph = KnnGraph(random_neighbours(np.array([0, 20, 45]), 4, rng))
    y = np.full(45, -1)
    y[[3, 10, 11]] = 5, 2, 9
    propagated = sf.propagate_labels(graph, y)
    np.testing.assert_array_equal(propagated.posteriors[20:], 1 / 3)
    assert (propagated.labels[20:] == 2).all() and propagated.labels[3] == 5
    np.testing.assert_array_equal(sf.propagate_labels(graph, np.full(45, 7)).posteriors, 1)
    propagated = sf.propagate_labels(graph, np.full(45, -1))
    assert propagated.posteriors.shape == (45, 0)
    with pytest.raises(ValueError, match="at least one labelled point"):
        propagated.labels  # noqa: B018


def test_a_popular_class_does_not_swallow_the_others():
    """Class mass normalisation: ten labels of one class weigh no more than one of the other."""
    x = np.concatenate([np.linspace(0, 1, 50), np.linspace(1.05, 2.05, 50)])[:, None]
    y = np.full(100, -1)
    y[5:50:5], y[75] = 0, 1
    guess = sf.propagate_labels(sf.knn_graph(x, 6), y).labels
    assert (guess[:45] == 0).all() and (guess[55:] == 1).all()


def test_says_so_where_rounding_keeps_it_above_tol():
    graph = KnnGraph(random_neighbours(np.array([0, 30]), 4, np.random.default_rng(0)))
    y = np.arange(30) % 3
    with pytest.warns(ConvergenceWarning, match="posteriors are known to .* not to tol = 1e-300"):
        propagated = sf.propagate_labels(graph, y, tol=1e-300)
    assert propagated.error_bound < 1e-9
    assert_within_bound(propagated, exact(graph, y, 0.99))


# --- backends agree ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [2, 3])
def test_same_bits_for_any_thread_count(isa, num_threads):
    rng = np.random.default_rng(5)
    graph = KnnGraph(random_neighbours(np.array([0, 2500]), 7, rng))
    y = np.where(rng.random(2500) < 0.2, rng.integers(0, 19, 2500), -1)
    one, several = (sf.propagate_labels(graph, y, num_threads=threads) for threads in (1, num_threads))
    np.testing.assert_array_equal(several.posteriors, one.posteriors)
    assert (several.iterations, several.error_bound) == (one.iterations, one.error_bound)


def test_progress_ends_the_work():
    class Stop(Exception):
        pass

    def progress(share):
        assert 0 <= share <= 1
        raise Stop

    rows = np.arange(300_000)[:, None]
    graph = KnnGraph((rows + np.array([1, 2])) % len(rows))
    with pytest.raises(Stop):
        sf.propagate_labels(graph, np.where(rows[:, 0] % 1000 == 0, rows[:, 0] % 3, -1), gamma=0.999, progress=progress)


# --- torch ------------------------------------------------------------------------------------------------------------


@given(cases())
def test_torch_equals_numpy(case):
    graph, y, gamma = case
    propagated, _ = propagate(to_torch(graph), torch.from_numpy(y), gamma)
    expected, _ = propagate(graph, y, gamma)
    for name in ("posteriors", "classes"):
        np.testing.assert_array_equal(getattr(propagated, name).numpy(), getattr(expected, name))
    if len(expected.classes):
        np.testing.assert_array_equal(propagated.labels.numpy(), expected.labels)


def test_registered_operator_and_compiling():
    graph, y = to_torch(GRAPH), to_torch(Y)
    operator = _torch.ops.propagate_labels.default
    torch.library.opcheck(operator, (graph.indices, None, None, None, y, 0.9, 1e-6, None))

    def posteriors(x, y):
        return sf.propagate_labels(sf.knn_graph(x, 3), y, gamma=0.9).posteriors.sum(0)

    x = torch.randn(12, 2)
    compiled = torch.compile(posteriors, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), posteriors(x, y))


# --- errors -----------------------------------------------------------------------------------------------------------

GRAPH = KnnGraph(random_neighbours(np.array([0, 12]), 3, np.random.default_rng(0)))
Y = np.array([0, 1, 2, 0] + 8 * [-1])


@pytest.mark.parametrize(
    "error, name, changed",
    [
        (TypeError, "graph", {"graph": GRAPH.indices}),
        (TypeError, "labels", {"labels": Y.tolist()}),
        (TypeError, "labels", {"labels": Y.astype(float)}),
        (ValueError, "labels", {"labels": Y[:-1]}),
        (ValueError, "labels", {"labels": Y - 1}),
        (ValueError, "gamma", {"gamma": 1.0}),
        (ValueError, "tol", {"tol": 0}),
        (ValueError, "num_threads", {"num_threads": 0}),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_refuses(refuses, library, error, name, changed):
    refuses(error, name, sf.propagate_labels, **LIBRARIES[library]({"graph": GRAPH, "labels": Y, **changed}))


def test_refuses_more_points_than_can_be_numbered():
    """Before any is looked at: here all of them are one, which is why there is memory for them."""
    n = 2**31
    indices, labels = np.broadcast_to(np.zeros((1, 1), np.int64), (n, 1)), np.broadcast_to(np.int64(-1), (n,))
    for convert in (np.asarray, torch.from_numpy):
        graph = KnnGraph(convert(indices), _validated=True)
        with pytest.raises(ValueError, match=r"graph must have fewer than 2\*\*31 points, found 2147483648"):
            sf.propagate_labels(graph, convert(labels))


def test_refuses_progress_that_cannot_be_called(refuses):
    refuses(TypeError, "progress", sf.propagate_labels, GRAPH, Y, progress=3)
