"""Values on a device that the caller has looked at are not looked at again, and then nothing waits for the device."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from on_device import OPERATIONS, on
from stand_in import installed
from strategies import random_stiefel
from waits import waits

import ssdml_fast as sf
from ssdml_fast import EdgeAffinity, KnnGraph
from ssdml_fast import _arrays as arrays

NEEDS_THE_HOST = ("propagate_affinity", "propagate_labels", "mine_class_triplets")  # sizes, error bounds


@pytest.fixture
def on_stand_in(stand_in):
    """Values that are wrong might leave a device unusable."""
    with installed(stand_in):
        yield


def wrongs():
    """A call of each operation with values that it refuses, and that read no memory which is not theirs."""
    rng = np.random.default_rng(0)
    x, L = torch.from_numpy(rng.standard_normal((60, 5))), torch.from_numpy(random_stiefel((5, 2), rng))
    triplets, nan = torch.from_numpy(rng.integers(0, 60, (40, 3))), torch.full((60, 5), torch.nan, dtype=torch.float64)
    graph, labels = sf.knn_graph(x, 4), torch.full((60,), -1)
    labels[:3] = torch.tensor([0, 1, -2])
    values = torch.full((60, 4), torch.inf, dtype=torch.float64)
    indices, descending = graph.indices.clone(), graph.distances.flip(1)
    indices[7] = 7
    return {
        "knn_graph": lambda: sf.knn_graph(nan, 4),
        "knn_search": lambda: sf.knn_search(x, nan, 4),
        "KnnGraph.indices": lambda: KnnGraph(indices),
        "KnnGraph.distances": lambda: KnnGraph(graph.indices, descending),
        "KnnGraph.weights": lambda: KnnGraph(graph.indices, weights=-graph.distances),
        "KnnGraph.ptr": lambda: KnnGraph(graph.indices, ptr=torch.tensor([0, 90, 60])),
        "propagate_affinity": lambda: sf.propagate_affinity(graph, labels, gamma=0.5),
        "propagate_labels": lambda: sf.propagate_labels(graph, labels, gamma=0.5),
        "mine_triplets": lambda: sf.mine_triplets(graph, EdgeAffinity(values, None, None, 0, 0.0)),
        "mine_class_triplets": lambda: sf.mine_class_triplets(nan.softmax(1), 20),
        "angular_loss": lambda: sf.angular_loss(nan, triplets, L),
        "angular_loss.weight": lambda: sf.angular_loss(x, triplets, L, weight=nan.ravel()[:40]),
        "angular_loss_and_grad": lambda: sf.angular_loss_and_grad(x, triplets, nan[:5, :2]),
        "cayley_update": lambda: sf.cayley_update(2 * L, L, 0.1),
        "cayley_update.grad": lambda: sf.cayley_update(L, nan[:5, :2], 0.1),
        "qr_retraction": lambda: sf.qr_retraction(2 * L, L),
        "polar_retraction": lambda: sf.polar_retraction(2 * L, L),
        "riemannian_cg": lambda: sf.riemannian_cg(2 * L, x, triplets, iterations=1),
    }


NAMES = tuple(wrongs())


def test_every_operation_has_a_wrong_call():
    assert set(OPERATIONS) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_on_the_cpu_trust_changes_nothing(name):
    with arrays.trusted(), pytest.raises(ValueError, match="must"):
        wrongs()[name]()


@pytest.mark.parametrize("name", NAMES)
def test_on_a_device_trusted_values_are_not_looked_at(on_stand_in, name):
    call = wrongs()[name]
    with pytest.raises(ValueError, match="must"):
        call()
    with arrays.trusted():
        call()
    with pytest.raises(ValueError, match="must"):
        call()


def rights(z, L, triplets):
    """A call of each operation that looks at nothing but what its checks do."""
    graph = sf.knn_graph(z, 4)
    affinity = EdgeAffinity(torch.rand(60, 4, dtype=z.dtype), None, None, 0, 0.0)
    labels, posteriors = torch.arange(60) % 3 - 1, torch.rand(60, 3)
    return {
        "knn_graph": lambda: sf.knn_graph(z, 4).indices,
        "knn_search": lambda: sf.knn_search(z[:9], z, 4).indices,
        "KnnGraph": lambda: KnnGraph(graph.indices, graph.distances).indices,
        "propagate_affinity": lambda: sf.propagate_affinity(graph, labels, gamma=0.5).values,
        "propagate_labels": lambda: sf.propagate_labels(graph, labels, gamma=0.5).posteriors,
        "mine_triplets": lambda: sf.mine_triplets(graph, affinity),
        "mine_class_triplets": lambda: sf.mine_class_triplets(posteriors, 50, z=z),
        "angular_loss": lambda: sf.angular_loss(z, triplets, L),
        "cayley_update": lambda: sf.cayley_update(L, L, 0.1),
        "riemannian_cg": lambda: sf.riemannian_cg(L, z, triplets, iterations=2, reduction="mean").L,
    }


@pytest.mark.parametrize("name", ["KnnGraph", *OPERATIONS])
def test_nothing_waits_for_trusted_values(on_stand_in, name):
    rng = np.random.default_rng(0)
    z, L = torch.from_numpy(rng.standard_normal((60, 5))), torch.from_numpy(random_stiefel((5, 2), rng))
    call = rights(z, L, torch.from_numpy(rng.integers(0, 60, (40, 3))))[name]
    with waits() as doubted:
        right = call()
    with arrays.trusted(), waits() as trusted:
        found = call()
    assert torch.equal(found, right)
    assert len(trusted) < len(doubted) and (not trusted or name in NEEDS_THE_HOST)


def test_trust_ends_where_it_began(device_library):
    x = on(device_library, np.zeros(3))
    with arrays.trusted():
        with pytest.raises(ZeroDivisionError), arrays.trusted():
            assert arrays.is_trusted(x) and not arrays.is_trusted(np.zeros(3))
            raise ZeroDivisionError
        assert arrays.is_trusted(x)
        elsewhere = ThreadPoolExecutor(1).submit(arrays.is_trusted, x).result()
        assert not elsewhere  # another thread's values are its own
    assert not arrays.is_trusted(x)
