import functools
import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import DTYPES, LAYOUTS, LIBRARIES, graphs, labels, make_points, random_neighbours, relayout, to_torch

import ssdml_fast as sf
from ssdml_fast import KnnGraph, _torch, reference
from ssdml_fast.exceptions import ConvergenceWarning


@st.composite
def cases(draw, **kwargs):
    """(graph, labels, gamma)"""
    graph = draw(graphs(with_weights=True, **kwargs))
    return graph, draw(labels(graph.n)), draw(st.sampled_from((0.99, 0.5, 0.9, 0.01, 0.999)))


def closed_form(graph, y, gamma):
    """W on the edges as the paper prints it: (1 - gamma) (I - gamma Q)^-1 W0, symmetrised, with W0 written out."""
    n, k = graph.indices.shape
    transition, initial = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        transition[i, graph.indices[i]] = 1 / k if graph.weights is None else shares(graph.weights[i])
        for j in range(n):
            if i == j:
                initial[i, j] = 1
            elif y[i] >= 0 and y[j] >= 0:
                initial[i, j] = 1 if y[i] == y[j] else -1
    propagated = (1 - gamma) * scipy.linalg.solve(np.eye(n) - gamma * transition, initial)
    return np.take_along_axis((propagated + propagated.T) / 2, graph.indices, axis=1)


def shares(weights):
    return weights.astype(np.float64) / weights.astype(np.float64).sum()


def exact(graph, y, gamma):
    """The twin's answer, in float64 whatever the precision of the graph."""
    return reference.propagate_affinity(KnnGraph(graph.indices, None, graph.ptr, graph.weights), y, gamma)


def rows(x, which):
    return None if x is None else x[which]


def rounding(values):
    """What one rounding to the dtype of `values` may add to an error bound."""
    return np.finfo(values.dtype).eps * np.abs(values) + 1e-14


# --- agrees with reference --------------------------------------------------------------------------------------------


@given(cases())
def test_twin_agrees_with_the_closed_form(case):
    graph, y, gamma = case
    if graph.n:
        np.testing.assert_allclose(exact(graph, y, gamma).values, closed_form(graph, y, gamma), rtol=0, atol=1e-12)


@given(cases())
def test_agrees_with_twin(isa, case):
    graph, y, gamma = case
    affinity, twin = sf.propagate_affinity(graph, y, gamma), exact(graph, y, gamma)
    dtype = np.float64 if graph.distances is None else graph.distances.dtype
    assert affinity.values.dtype == affinity.class_mass.dtype == dtype
    assert affinity.values.shape == graph.indices.shape
    np.testing.assert_array_equal(affinity.classes, twin.classes)
    assert affinity.classes.dtype == np.int64
    assert affinity.class_mass.shape == twin.class_mass.shape
    assert isinstance(affinity.iterations, int) and isinstance(affinity.error_bound, float)
    assert_within_bound(affinity, twin, 1e-6)


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6, 1e-8])
@given(cases(with_distances=False))
def test_error_bound_holds_and_reaches_tol(isa, tol, case):
    graph, y, gamma = case
    assert_within_bound(sf.propagate_affinity(graph, y, gamma, tol=tol), exact(graph, y, gamma), tol)


@given(cases(with_distances=False))
def test_error_bound_holds_where_rounding_keeps_it_above_tol(isa, case):
    graph, y, gamma = case
    if graph.n == 0:
        return
    with pytest.warns(ConvergenceWarning, match="not to tol = 1e-300"):
        affinity = sf.propagate_affinity(graph, y, gamma, tol=1e-300)
    np.testing.assert_array_less(np.abs(affinity.values - exact(graph, y, gamma).values), affinity.error_bound + 1e-13)
    assert affinity.error_bound < 1e-9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, k", [(400, 10), (520, 10), (259, 50), (743, 50), (257, 1)])
def test_agrees_with_twin_beyond_one_panel(isa, n, k, dtype):
    rng = np.random.default_rng(n)
    graph = reference.knn_graph(make_points("gaussian", n, 8, rng).astype(dtype), k)
    y = np.where(rng.random(n) < 0.1, rng.integers(0, 10, n), -1)
    assert_within_bound(sf.propagate_affinity(graph, y), exact(graph, y, 0.99), 1e-6)


def circulant(n, k):
    """Eigenvalues all over the unit disc, for which relaxation diverges."""
    return (np.arange(n)[:, None] + np.array([1, 2, 5, 70, 300, 301])[:k]) % n


@functools.cache  # the twin's graph takes seconds
def chain(n, k):
    """The slowest mixing there is: neighbours on a line."""
    return reference.knn_graph(np.random.default_rng(0).random((n, 1)), k).indices


def popular(n, k):
    """All point at a tenth; nobody points at the others."""
    return random_neighbours(np.array([0, n]), k, np.random.default_rng(0), 0.1)


@functools.cache  # the twin's graph takes seconds
def clustered(n, k):
    rng = np.random.default_rng(0)
    centres = 2 * rng.standard_normal((12, 6))
    return reference.knn_graph(centres[rng.integers(0, 12, n)] + rng.standard_normal((n, 6)), k).indices


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0.999, 0.9])
@pytest.mark.parametrize("neighbours", [circulant, chain, popular, clustered])
@pytest.mark.parametrize("dtype, n", [(np.float64, 700), (np.float32, 2100)])
def test_error_bound_holds_with_slow_modes(dtype, n, neighbours, gamma, weighted):
    rng = np.random.default_rng(1)
    indices = neighbours(n, 6)
    weights = rng.random(indices.shape) ** 4 + 1e-3 if weighted else None
    graph = KnnGraph(indices, np.zeros(indices.shape, dtype), weights=weights)
    y = np.where(rng.random(n) < 0.05, rng.integers(0, 3, n), -1)
    twin = exact(graph, y, gamma)
    for tol in (1e-2, 1e-3, 1e-4, 1e-6):  # the larger, the fewer points are relaxed
        assert_within_bound(sf.propagate_affinity(graph, y, gamma, tol), twin, tol)


def tributaries(n, k):
    """Each points to the k before it: no cycle but among the first k + 1, and nobody points to the last."""
    before = np.arange(n)[:, None] - 1 - np.arange(k)
    return np.where(before >= 0, before, np.arange(n)[:, None] + 1 + np.arange(k))


def rings(n, k):
    """Three components, in which all are equally popular and every column follows from others."""
    third, place = divmod(np.arange(n)[:, None], n // 3)
    return third * (n // 3) + (place + 1 + np.arange(k)) % (n // 3)


def pairs(n, k):
    """Two and two point to each other, and all else to a few."""
    rng = np.random.default_rng(0)
    few = np.stack([rng.choice(np.delete(np.arange(12), i) if i < 12 else 12, k - 1, replace=False) for i in range(n)])
    partner = np.arange(n) ^ 1
    few[:12][few[:12] == partner[:12, None]] = 12
    return np.column_stack([partner, few])


@pytest.mark.parametrize("labelled", [0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("neighbours", [tributaries, rings, pairs])
def test_error_bound_holds_where_columns_follow_from_others(neighbours, k, weighted, labelled):
    large = 1536 if neighbours is rings else 600  # but for pairs, components too large to be solved directly
    for n, least in ((300, 1e-11), (large, 1e-9)):
        rng = np.random.default_rng(k)
        indices = neighbours(n, k)
        graph = KnnGraph(indices, weights=rng.random(indices.shape) ** 4 + 1e-3 if weighted else None)
        y = np.where(rng.random(n) < labelled, rng.integers(0, 3, n), -1)
        for gamma in (0.99, 0.3):
            twin = exact(graph, y, gamma)
            for tol in (1e-6, least):
                assert_within_bound(sf.propagate_affinity(graph, y, gamma, tol), twin, tol)


@pytest.mark.parametrize("neighbours, n, k", [(tributaries, 600, 8), (rings, 1536, 1), (tributaries, 600, 1)])
def test_a_tighter_tolerance_is_no_further_off(isa, neighbours, n, k):
    """Where slow modes nearly coincide, so that no column is solved with them."""
    graph = KnnGraph(neighbours(n, k))
    bounds = [sf.propagate_affinity(graph, np.full(n, -1), 0.99, tol).error_bound for tol in (1e-9, 1e-10)]
    assert bounds[0] <= 1e-9
    assert bounds[1] <= 1e-10


def most_direct(k, tol=1e-6):
    """Points of the largest component that is solved by its dense matrix, which takes no iterations."""
    return min(max(320 + 8 * k, 511), 1024 if tol < 1e-5 else 511)


def components(sizes, k, rng):
    """(N, k) neighbours in connected components: the next point, around the last one, and others at random."""
    parts = []
    for n in sizes:
        others = 2 + np.argsort(rng.random((n, n - 2)), axis=1)[:, : k - 1]
        parts.append((np.arange(n)[:, None] + np.column_stack([np.ones(n, int), others])) % n)
    return np.concatenate(parts) + np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)[:, None]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0.999, 0.5])
@pytest.mark.parametrize("k", [1, 10, 50])
@pytest.mark.parametrize("direct", [True, False])
def test_error_bound_holds_on_both_sides_of_the_direct_limit(isa, direct, k, gamma, weighted):
    rng = np.random.default_rng(k)
    for tol, labelled in itertools.product((1e-3, 1e-7), (0, 0.1)):
        n = most_direct(k, tol) + (not direct)
        indices = components([n], k, rng)
        graph = KnnGraph(indices, weights=rng.random(indices.shape) ** 4 + 1e-3 if weighted else None)
        y = np.where(rng.random(n) < labelled, rng.integers(0, 3, n), -1)
        affinity = sf.propagate_affinity(graph, y, gamma, tol)
        assert_within_bound(affinity, exact(graph, y, gamma), tol)
        assert (affinity.iterations == 0) == direct


@given(case=cases())
@settings(max_examples=8)
def test_agrees_with_twin_in_a_component_that_is_not_solved_directly(isa, case):
    small, y, gamma = case
    assume(small.n > 0)
    n, k, rng = most_direct(small.k) + 1, small.k, np.random.default_rng(0)
    large = small.n + components([n], k, rng)
    large[0, 0] = 0  # which joins the drawn points to it, or some of them
    weights = None if small.weights is None else np.concatenate([small.weights, np.ones((n, k), small.weights.dtype)])
    graph = KnnGraph(np.concatenate([small.indices, large]), weights=weights)
    y = np.concatenate([y, rng.choice([-1, *y], n)])
    affinity = sf.propagate_affinity(graph, y, gamma)
    assert_within_bound(affinity, exact(graph, y, gamma), 1e-6)
    assert affinity.iterations > 0


@pytest.mark.parametrize("declared, weighted, dtype", [(False, False, np.float64), (True, True, np.float32)])
def test_error_bound_holds_for_components_of_mixed_sizes(isa, declared, weighted, dtype):
    graph, y = mixed(7, declared, weighted, dtype)
    affinity = sf.propagate_affinity(graph, y)
    assert_within_bound(affinity, exact(graph, y, 0.99), 1e-6)
    assert affinity.iterations > 0  # of the larger ones


def mixed(k, declared=False, weighted=False, dtype=np.float64):
    """(graph, labels) of many small components, the largest that is solved directly, and one that is not."""
    rng = np.random.default_rng(k)
    sizes = rng.permutation([*range(k + 1, k + 30), 100, 100, most_direct(k), most_direct(k) + 1])
    indices = components(sizes, k, rng)
    weights = rng.choice((0.0, 1e-3, 1.0), indices.shape) + np.eye(1, k) if weighted else None
    ptr = np.cumsum([0, *sizes]) if declared else None
    y = np.where(rng.random(len(indices)) < 0.2, rng.integers(0, 9, len(indices)), -1)
    return KnnGraph(indices, np.zeros(indices.shape, dtype), ptr, weights), y


@pytest.mark.parametrize("labelled", [0, 0.2])
@pytest.mark.parametrize("n", [30, 300])
def test_small_components_reach_a_tiny_tolerance(isa, n, labelled):
    rng = np.random.default_rng(n)
    graph = KnnGraph(components([n], 10, rng))
    y = np.where(rng.random(n) < labelled, rng.integers(0, 3, n), -1)
    affinity = sf.propagate_affinity(graph, y, 0.999, tol=1e-12)
    assert_within_bound(affinity, exact(graph, y, 0.999), 1e-12)


def test_rounding_keeps_large_components_above_a_tolerance(isa):
    graph = KnnGraph(components([most_direct(5) + 1], 5, np.random.default_rng(0)))
    y = np.where(np.arange(graph.n) < 20, np.arange(graph.n) % 3, -1)
    with pytest.warns(ConvergenceWarning, match="not to tol = 1e-300"):
        affinity = sf.propagate_affinity(graph, y, tol=1e-300)
    np.testing.assert_array_less(np.abs(affinity.values - exact(graph, y, 0.99).values), affinity.error_bound + 1e-13)
    assert affinity.error_bound < 1e-9


def test_slow_modes_leave_few_sweeps(isa):
    graph = KnnGraph(clustered(1500, 10))
    affinity = sf.propagate_affinity(graph, np.full(1500, -1))
    assert affinity.iterations < 60  # the series alone takes a thousand


@given(cases(with_distances=False), st.sampled_from((2.0**-20, 0.5, 2.0**20)))
def test_only_ratios_of_weights_matter(case, factor):
    graph, y, gamma = case
    weights = np.ones(graph.indices.shape) if graph.weights is None else graph.weights
    scaled = KnnGraph(graph.indices, None, graph.ptr, weights * factor)
    np.testing.assert_allclose(
        sf.propagate_affinity(scaled, y, gamma, tol=1e-9).values,
        sf.propagate_affinity(graph, y, gamma, tol=1e-9).values,
        rtol=0,
        atol=3e-9,
    )


def assert_within_bound(affinity, twin, tol):
    assert 0 <= affinity.error_bound <= tol
    error = np.abs(affinity.values - twin.values)
    np.testing.assert_array_less(error, affinity.error_bound + rounding(twin.values.astype(affinity.values.dtype)))
    mass_error = np.abs(affinity.class_mass - twin.class_mass)
    np.testing.assert_array_less(mass_error, tol + rounding(twin.class_mass.astype(affinity.class_mass.dtype)))


# --- invariants -------------------------------------------------------------------------------------------------------


@given(cases())
def test_class_mass_is_a_share_of_the_walk(case):
    graph, y, gamma = case
    affinity = sf.propagate_affinity(graph, y, gamma)
    total = affinity.class_mass.sum(1)
    assert (affinity.class_mass >= 0).all()
    assert (total <= 1 + 1e-6).all()
    if (y >= 0).all():
        np.testing.assert_allclose(total, 1, rtol=0, atol=2e-6)


@given(cases())
def test_both_directions_of_an_edge_agree(case):
    graph, y, gamma = case
    affinity = sf.propagate_affinity(graph, y, gamma)
    dense = np.full((graph.n, graph.n), np.nan)
    np.put_along_axis(dense, graph.indices, affinity.values, axis=1)
    both = ~np.isnan(dense) & ~np.isnan(dense.T)
    np.testing.assert_allclose(dense[both], dense.T[both], rtol=0, atol=2 * affinity.error_bound)
    assert (np.abs(affinity.values) <= 1 + 1e-6).all()


@given(cases(with_distances=False), st.integers(0, 2**32 - 1))
def test_permutation_equivariance(case, seed):
    graph, y, gamma = case
    if graph.ptr is not None:
        graph = KnnGraph(graph.indices, weights=graph.weights)
    order = np.random.default_rng(seed).permutation(graph.n)
    place = np.argsort(order)
    permuted = sf.propagate_affinity(
        KnnGraph(place[graph.indices[order]].reshape(-1, graph.k), weights=rows(graph.weights, order)),
        y[order],
        gamma,
        tol=1e-8,
    )
    affinity = sf.propagate_affinity(graph, y, gamma, tol=1e-8)
    np.testing.assert_allclose(permuted.values, affinity.values[order], rtol=0, atol=2e-8)
    np.testing.assert_allclose(permuted.class_mass, affinity.class_mass[order], rtol=0, atol=2e-8)


@given(cases(with_distances=False))
def test_segments_are_separate_calls(case):
    graph, y, gamma = case
    ptr = np.array([0, graph.n]) if graph.ptr is None else graph.ptr
    affinity = sf.propagate_affinity(graph, y, gamma, tol=1e-8)
    for low, high in itertools.pairwise(ptr):
        part = KnnGraph(graph.indices[low:high] - low, weights=rows(graph.weights, slice(low, high)))
        alone = sf.propagate_affinity(part, y[low:high], gamma, tol=1e-8)
        np.testing.assert_allclose(affinity.values[low:high], alone.values, rtol=0, atol=2e-8)
        columns = np.isin(affinity.classes, alone.classes)
        np.testing.assert_allclose(affinity.class_mass[low:high, columns], alone.class_mass, rtol=0, atol=2e-8)
        assert not affinity.class_mass[low:high, ~columns].any()  # no walk leaves its segment


def test_no_mass_from_another_component():
    rng = np.random.default_rng(0)
    graph = KnnGraph(random_neighbours(np.array([0, 20, 45]), 4, rng))  # two components, not declared as segments
    y = np.full(45, -1)
    y[[3, 30]] = 5, 2
    affinity = sf.propagate_affinity(graph, y)
    np.testing.assert_array_equal(affinity.classes, [2, 5])
    assert not affinity.class_mass[:20, 0].any() and not affinity.class_mass[20:, 1].any()
    assert affinity.class_mass[3, 1] > 0 and affinity.class_mass[30, 0] > 0


def test_without_labels_there_is_no_class():
    graph = KnnGraph(random_neighbours(np.array([0, 30]), 4, np.random.default_rng(0)))
    affinity = sf.propagate_affinity(graph, np.full(30, -1))
    assert affinity.class_mass.shape == (30, 0) and affinity.classes.shape == (0,)
    assert (affinity.values >= 0).all()


@given(cases())
def test_label_values_are_only_names(case):
    graph, y, gamma = case
    renamed = np.where(y >= 0, 3 * y + 1000, -1)
    affinity, other = sf.propagate_affinity(graph, y, gamma), sf.propagate_affinity(graph, renamed, gamma)
    np.testing.assert_array_equal(other.values, affinity.values)
    np.testing.assert_array_equal(other.class_mass, affinity.class_mass)
    np.testing.assert_array_equal(other.classes, 3 * affinity.classes + 1000)


@given(cases(), st.sampled_from(LAYOUTS[:5]), st.sampled_from((np.int64, np.int32, np.int8)))
def test_any_layout_and_integer_type_of_labels(case, layout, dtype):
    graph, y, gamma = case
    y = np.where(y > 100, y % 100, y)
    laid_out = relayout(y.astype(dtype), layout)
    before = laid_out.tobytes()
    other, affinity = sf.propagate_affinity(graph, laid_out, gamma), sf.propagate_affinity(graph, y, gamma)
    np.testing.assert_array_equal(other.values, affinity.values)
    assert laid_out.tobytes() == before


# --- backends agree ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@given(cases())
def test_same_bits_for_any_thread_count(isa, num_threads, case):
    graph, y, gamma = case
    affinity = sf.propagate_affinity(graph, y, gamma, num_threads=num_threads)
    assert_identical(affinity, sf.propagate_affinity(graph, y, gamma))


@pytest.mark.parametrize("n", [700, 4500])
def test_same_bits_for_any_thread_count_beyond_one_panel(isa, n):
    rng = np.random.default_rng(5)
    indices = random_neighbours(np.array([0, 700]), 7, rng, 0.5) if n == 700 else clustered(n, 7)
    graph = KnnGraph(indices, np.zeros((n, 7), np.float32))
    y = np.where(rng.random(n) < 0.8, rng.integers(0, 9, n), -1)
    alone = sf.propagate_affinity(graph, y, num_threads=1)
    for num_threads in (1, 2, 3):
        assert_identical(sf.propagate_affinity(graph, y, num_threads=num_threads), alone)


@pytest.mark.parametrize("num_threads", [2, 3])
def test_same_bits_for_any_thread_count_and_many_components(isa, num_threads):
    graph, y = mixed(7)
    affinity = sf.propagate_affinity(graph, y, num_threads=num_threads)
    assert_identical(affinity, sf.propagate_affinity(graph, y, num_threads=1))


def assert_identical(affinity, other):
    np.testing.assert_array_equal(affinity.values, other.values)
    np.testing.assert_array_equal(affinity.class_mass, other.class_mass)
    np.testing.assert_array_equal(affinity.classes, other.classes)
    assert (affinity.iterations, affinity.error_bound) == (other.iterations, other.error_bound)


# --- torch ------------------------------------------------------------------------------------------------------------


@given(cases())
def test_torch_equals_numpy(case):
    graph, y, gamma = case
    affinity = sf.propagate_affinity(to_torch(graph), torch.from_numpy(y), gamma)
    expected = sf.propagate_affinity(graph, y, gamma)
    for name in ("values", "class_mass", "classes"):
        assert isinstance(getattr(affinity, name), torch.Tensor)
        np.testing.assert_array_equal(getattr(affinity, name).numpy(), getattr(expected, name))
    assert (affinity.iterations, affinity.error_bound) == (expected.iterations, expected.error_bound)


def test_registered_operator():
    operator = _torch.ops.propagate_affinity.default
    graph, y = to_torch(GRAPH), to_torch(Y)
    distances = torch.rand(graph.indices.shape).sort().values
    torch.library.opcheck(operator, (graph.indices, None, None, None, y, 0.9, 1e-6, None))
    torch.library.opcheck(operator, (graph.indices, distances, torch.tensor([0, 12]), distances + 1, y, 0.9, 1e-6, 1))


def test_compiles_as_one_graph():
    def mass_of_neighbours(x, y):
        graph = sf.knn_graph(x, 3)
        affinity = sf.propagate_affinity(graph, y, gamma=0.9)
        return affinity.values.sum(1), affinity.class_mass[graph.indices].sum((0, 1))

    x, y = torch.randn(12, 2), to_torch(Y)
    compiled = torch.compile(mass_of_neighbours, fullgraph=True, backend="aot_eager")
    for ours, expected in zip(compiled(x, y), mass_of_neighbours(x, y), strict=True):
        torch.testing.assert_close(ours, expected)


# --- errors -----------------------------------------------------------------------------------------------------------

GRAPH = KnnGraph(random_neighbours(np.array([0, 12]), 3, np.random.default_rng(0)))
Y = np.array([0, 1, 2, 0] + 8 * [-1])


@pytest.mark.parametrize(
    "error, name, changed",
    [
        (TypeError, "graph", {"graph": GRAPH.indices}),
        (TypeError, "graph", {"graph": None}),
        (TypeError, "labels", {"labels": Y.tolist()}),
        (TypeError, "labels", {"labels": None}),
        (TypeError, "labels", {"labels": Y.astype(float)}),
        (TypeError, "labels", {"labels": Y.astype(complex)}),
        (TypeError, "labels", {"labels": Y > 0}),
        (ValueError, "labels", {"labels": Y[:, None]}),
        (ValueError, "labels", {"labels": Y[:-1]}),
        (ValueError, "labels", {"labels": Y - 1}),
        (ValueError, "labels", {"labels": np.full(12, 2**63, np.uint64)}),
        (ValueError, "gamma", {"gamma": 0}),
        (ValueError, "gamma", {"gamma": 1.0}),
        (ValueError, "gamma", {"gamma": -0.5}),
        (ValueError, "gamma", {"gamma": np.nan}),
        (TypeError, "gamma", {"gamma": "0.9"}),
        (TypeError, "gamma", {"gamma": None}),
        (ValueError, "tol", {"tol": 0}),
        (ValueError, "tol", {"tol": -1e-6}),
        (ValueError, "tol", {"tol": np.nan}),
        (ValueError, "tol", {"tol": np.inf}),
        (TypeError, "tol", {"tol": None}),
        (ValueError, "num_threads", {"num_threads": 0}),
        (TypeError, "num_threads", {"num_threads": 2.0}),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_refuses(refuses, library, error, name, changed):
    refuses(error, name, sf.propagate_affinity, **LIBRARIES[library]({"graph": GRAPH, "labels": Y, **changed}))


def test_refuses_mixed_libraries(refuses):
    refuses(TypeError, "labels", sf.propagate_affinity, GRAPH, torch.from_numpy(Y))
    refuses(TypeError, "labels", sf.propagate_affinity, to_torch(GRAPH), Y)


@pytest.mark.parametrize("library", LIBRARIES)
def test_refuses_weights_that_became_negative(refuses, library):
    graph = LIBRARIES[library](KnnGraph(GRAPH.indices, weights=np.ones(GRAPH.indices.shape)))
    graph.weights[2, 1] = -1
    refuses(ValueError, "weights", sf.propagate_affinity, graph, LIBRARIES[library](Y))


@pytest.mark.parametrize("n_labelled", [10, 500])
def test_works_in_a_forked_child(holds_in_a_forked_child, n_labelled):
    graph = sf.knn_graph(make_points("gaussian", 500, 5, np.random.default_rng(0)), 5)
    y = np.where(np.arange(500) < n_labelled, np.arange(500) % 3, -1)
    expected = sf.propagate_affinity(graph, y, num_threads=2)  # starts threads that the child will not have
    holds_in_a_forked_child(
        lambda: np.array_equal(sf.propagate_affinity(graph, y, num_threads=2).values, expected.values)
    )


def test_refuses_more_points_than_can_be_numbered():
    """Before any is looked at: here all of them are one, which is why there is memory for them."""
    n = 2**31
    indices, labels = np.broadcast_to(np.zeros((1, 1), np.int64), (n, 1)), np.broadcast_to(np.int64(-1), (n,))
    for convert in (np.asarray, torch.from_numpy):
        graph = KnnGraph(convert(indices), _validated=True)
        with pytest.raises(ValueError, match=r"graph must have fewer than 2\*\*31 points, found 2147483648"):
            sf.propagate_affinity(graph, convert(labels))


def test_refuses_progress_that_cannot_be_called(refuses):
    refuses(TypeError, "progress", sf.propagate_affinity, GRAPH, Y, progress=3)
