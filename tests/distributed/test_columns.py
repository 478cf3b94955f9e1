"""Columns divided among processes: each finds what one process does, to the last bit."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import Meeting, together
from strategies import graphs, labels, make_points

import ssdml_fast as sf
from ssdml_fast import reference
from ssdml_fast._run.affinity import propagate_affinity
from ssdml_fast._run.propagate_labels import propagate_labels

SIZES = [1, 2, 3, 7]


def affinity(graph, y, gamma=0.99, tol=1e-6, progress=None, peers=None):
    return propagate_affinity(graph.indices, graph.distances, graph.weights, y, gamma, tol, 1, progress, peers)


def posteriors(graph, y, gamma=0.99, tol=1e-6, progress=None, peers=None):
    return propagate_labels(graph.indices, graph.distances, graph.ptr, graph.weights, y, gamma, tol, 1, progress, peers)


def same(found, expected):
    for each, right in zip(found, expected, strict=True):
        assert type(each) is type(right)
        np.testing.assert_array_equal(each, right)
        if isinstance(right, np.ndarray):
            assert each.dtype == right.dtype and each.tobytes() == right.tobytes()


def assert_divided(run, size, *problem):
    """All peers find what one process does; what one rank of them sends."""
    alone, meeting = run(*problem), Meeting(size)
    for each in together(size, lambda peers: run(*problem, peers=peers), meeting):
        same(each, alone)
    return meeting.n_sent


@st.composite
def problems(draw):
    graph = draw(graphs(with_weights=True))
    return (
        graph,
        draw(labels(graph.n)),
        draw(st.sampled_from((0.99, 0.5, 0.01, 0.999))),
        draw(st.sampled_from((1e-6, 1e-3))),
    )


@pytest.mark.parametrize("run", [affinity, posteriors])
@given(problems(), st.sampled_from(SIZES))
def test_peers_find_what_one_process_does(run, problem, size):
    assert_divided(run, size, *problem)


def labelled(n, share, classes, rng):
    return np.where(rng.random(n) < share, rng.integers(0, classes, n), -1)


LARGE = {
    "one large component": (2600, None),
    "small and large": (3500, [0, 30, 30, 1400, 1500, 1520, 2950, 3500]),
    "many small components": (3000, np.arange(0, 3001, 60)),
    "uneven small components": (2000, [0, 500, *range(520, 1500, 20), 1990, 2000]),
}


def partitioned(what, dtype, weighted):
    n, ptr = LARGE[what]
    rng = np.random.default_rng(n)
    graph = sf.knn_graph(
        make_points("gaussian", n, 6, rng).astype(dtype), 8, ptr=None if ptr is None else np.array(ptr)
    )
    if weighted:
        graph = sf.KnnGraph(graph.indices, graph.distances, graph.ptr, weights=rng.random(graph.indices.shape) + 0.1)
    return graph, rng


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("dtype, weighted", [(np.float32, False), (np.float64, True)])
@pytest.mark.parametrize("what", LARGE)
def test_components_large_and_small_are_divided(what, dtype, weighted, size):
    graph, rng = partitioned(what, dtype, weighted)
    y = labelled(graph.n, 0.1, 20, rng)
    n_sent = assert_divided(affinity, size, graph, y)
    assert 0 < n_sent < graph.n * (8 * 20 + 2 * 21)
    n_sent = assert_divided(posteriors, size, graph, y)
    assert 20 * graph.n < n_sent < 50 * graph.n


@pytest.mark.parametrize("run", [affinity, posteriors])
@pytest.mark.parametrize("what", LARGE)
def test_work_is_divided_evenly(run, what):
    graph, rng = partitioned(what, np.float32, False)
    y, meeting = labelled(graph.n, 0.1, 32, rng), Meeting(3)
    together(3, lambda peers: run(graph, y, peers=peers), meeting)
    assert max(meeting.n_own) < 0.55 * sum(meeting.n_own)  # there are four panels of classes


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_or_everything_is_labelled(share):
    graph, rng = partitioned("small and large", np.float32, False)
    y = labelled(graph.n, share, 3, rng)
    assert_divided(affinity, 3, graph, y)
    assert_divided(posteriors, 3, graph, y)


def test_columns_that_float32_cannot_solve_are_solved_again_alike():
    """Each decision to solve again is everybody's, and so are the panels that it puts together."""
    graph, rng = partitioned("one large component", np.float32, False)
    y = labelled(graph.n, 0.05, 4, rng)
    for tol in (3e-7, 1e-12):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sf.exceptions.ConvergenceWarning)
            assert_divided(affinity, 3, graph, y, 0.999, tol)


@pytest.mark.parametrize("size", [2, 7])
def test_the_bound_holds(size):
    graph, rng = partitioned("uneven small components", np.float64, True)
    y = labelled(graph.n, 0.1, 20, rng)
    exact = reference.propagate_affinity(graph, y, 0.99)
    for values, mass, _, _, bound in together(size, lambda peers: affinity(graph, y, peers=peers)):
        assert bound <= 1e-6
        assert np.abs(values - exact.values).max() <= bound + 1e-12
        assert np.abs(mass - exact.class_mass).max() <= bound + 1e-12


@pytest.mark.parametrize("run", [affinity, posteriors])
@pytest.mark.parametrize("what", ["one large component", "many small components"])
def test_peers_say_how_far_they_are(run, what):
    graph, rng = partitioned(what, np.float32, False)
    y = labelled(graph.n, 0.1, 20, rng)
    shares = [[], [], []]
    together(3, lambda peers: run(graph, y, progress=shares[peers.rank].append, peers=peers))
    for said in shares:
        assert said == sorted(said) and said[-1] == 1.0 and min(said) >= 0


@pytest.mark.parametrize("run", [affinity, posteriors])
def test_what_an_exchange_raises_ends_the_kernel(run):
    class Gone:
        rank, size = 1, 2

        def sum(self, numbers):
            raise ConnectionError("gone")

        max = sum

    graph, rng = partitioned("small and large", np.float32, False)
    with pytest.raises(ConnectionError, match="gone"):
        run(graph, labelled(graph.n, 0.1, 20, rng), peers=Gone())


@pytest.mark.parametrize("run", [affinity, posteriors])
def test_a_peer_that_is_stopped_exchanges_no_more(run):
    class Unheard:
        rank, size, n_exchanges = 0, 2, 0

        def sum(self, numbers):
            self.n_exchanges += 1

        max = sum

    def stop(share):
        stopped.append(peers.n_exchanges)
        raise InterruptedError

    graph, rng = partitioned("one large component", np.float64, True)
    peers, stopped = Unheard(), []
    with pytest.raises(InterruptedError):
        run(graph, labelled(graph.n, 0.1, 20, rng), 0.9999, 1e-12, progress=stop, peers=peers)
    assert stopped == [peers.n_exchanges]
