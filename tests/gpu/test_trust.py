"""Values on a device that the caller has looked at are not looked at again, and then nothing waits for the device."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from on_device import DEVICE, OPERATIONS, gpu, on
from stand_in import installed, replace_arrays
from strategies import random_stiefel
from waits import waits

import ssdml_fast as sf
from ssdml_fast import EdgeAffinity, KnnGraph, _core
from ssdml_fast import _arrays as arrays
from ssdml_fast._run import mine_class_triplets as mining
from ssdml_fast.data.augment import cut_out, mix_channels, mix_up, random_affine

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


# --- a step of a training ---------------------------------------------------------------------------------------------

STEPS = ("cayley", "adam", "conjugate", "random negatives", "several losses", "autocast", "module")


def step_of(kind, device):
    """A step as a training takes it, by the operators that one may use; the classes are known on the host."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 48)
    images, network = torch.randn(48, 3, 8, 8, device=device), torch.nn.Linear(192, 6).to(device)
    metric = sf.nn.OrthogonalMetric(6, 3).to(device)
    plain = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    optimizer = (
        sf.optim.CayleyAdam(metric.parameters())
        if kind == "adam"
        else sf.optim.CayleySGD(metric.parameters(), 0.1, momentum=0.9)
    )
    criterion, weight = sf.nn.AngularLoss(), torch.rand(96, device=device)

    def step(seed):
        plain.zero_grad()
        changed = cut_out(mix_channels(random_affine(images, flip=True)), 4)
        changed, _ = mix_up(changed, torch.ones(48, 4, device=device))
        z = torch.nn.functional.normalize(network(changed.flatten(1)))
        fixed, L = z.detach(), metric.L
        triplets = mining.draw(classes, 96, seed, fixed, 0 if kind == "random negatives" else 5)
        if kind == "conjugate":
            with torch.no_grad():
                L.copy_(sf.riemannian_cg(L, fixed, triplets, iterations=3, reduction="mean").L)
        elif kind == "module":
            with torch.no_grad():
                grad = sf.angular_loss_and_grad(fixed, triplets, L, weight=weight)[2]
                L.copy_(sf.cayley_update(L, grad, 0.01))
        else:
            L.grad = sf.angular_loss_and_grad(fixed, triplets, L, reduction="mean")[2]
            optimizer.step()
        if kind == "several losses":
            loss = sf.angular_loss(z, triplets, L.detach(), reduction="none", weight=weight).square().mean()
        elif kind == "autocast":
            with torch.autocast(device, torch.bfloat16):
                loss = sf.angular_loss(z, triplets, L.detach(), reduction="mean")
        else:
            loss = criterion(z, triplets, L.detach())
        loss.backward()
        plain.step()
        return loss.detach()

    return step, [*network.parameters(), metric.L]


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_of_trusted_values_waits_for_nothing(on_stand_in, kind):
    taken = []
    for trust in (nullcontext, arrays.trusted):
        torch.manual_seed(0)
        step, parameters = step_of(kind, "cpu")
        with trust(), waits() as found:
            losses = [step(seed) for seed in range(2)]
        taken.append([*losses, *parameters])
        if trust is nullcontext:
            assert found
        else:
            adam = {"_local_scalar_dense"} if kind == "adam" else set()  # its count of steps is on the CPU
            assert set(found) <= adam
    for doubted, trusted in zip(*taken, strict=True):
        assert torch.equal(doubted, trusted)


class Kernels:
    """Answer no values, and ask for little memory."""

    def __getattr__(self, name):
        return lambda *arguments: 256 if name.endswith("_workspace") else None


@pytest.fixture
def nowhere():
    """The meta device as one with kernels: no value can be looked at there, and nothing mixed with others' memory."""

    @contextmanager
    def on_device(x):
        assert x.is_meta
        yield 0

    with pytest.MonkeyPatch.context() as patch:
        replace_arrays(patch, "is_cuda", lambda x: arrays.is_torch(x) and x.is_meta)
        replace_arrays(patch, "namespace", lambda x, name: torch if arrays.is_torch(x) else np)
        replace_arrays(patch, "address", lambda x: 0)
        replace_arrays(patch, "on_device", on_device)
        patch.setattr(_core, "cuda", Kernels)
        patch.setattr("ssdml_fast.optim.base.orthogonality_error", lambda L: 0.0)
        yield "meta"


@pytest.mark.parametrize("kind", [kind for kind in STEPS if kind != "autocast"])  # which that device has not
def test_all_of_a_step_stays_on_its_device(nowhere, kind):
    step, parameters = step_of(kind, nowhere)
    with arrays.trusted():
        losses = [step(seed) for seed in range(2)]
    assert all(value.is_meta for value in (*losses, *parameters))
    with pytest.raises((RuntimeError, NotImplementedError)):  # looks at values that are doubted
        step(2)


@gpu
@pytest.mark.parametrize("kind", STEPS)
def test_a_step_on_a_device_waits_for_nothing(kind):
    step, parameters = step_of(kind, DEVICE)
    with arrays.trusted():
        step(0)  # warm: memory is allocated, kernels are loaded
        torch.cuda.set_sync_debug_mode("error")
        try:
            losses = [step(seed) for seed in range(1, 4)]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite().all() for value in (*losses, *parameters))


@gpu
@pytest.mark.parametrize("kind", STEPS)
def test_a_step_returns_while_its_stream_is_busy(kind):
    """What torch does not know to wait: the kernels' own bindings, and copies from the host."""
    step, _ = step_of(kind, DEVICE)
    with arrays.trusted():
        for seed in range(3):
            step(seed)
        torch.cuda.synchronize()
        torch.cuda._sleep(1_000_000_000)  # cycles, most of a second, before the step on its own stream
        over = torch.cuda.current_stream().record_event()
        step(3)
        assert not over.query()
    torch.cuda.synchronize()


def test_triplets_of_a_trusted_embedding_that_is_not_finite_are_of_its_points(on_stand_in):
    classes, z = np.arange(30) % 3, torch.randn(30, 4)
    z[7] = torch.nan
    for wrong in (z, torch.full_like(z, torch.nan)):
        with arrays.trusted():
            triplets = mining.draw(classes, 500, 0, wrong, 5)
        assert (triplets >= 0).all() and (triplets < 30).all()
        anchors, positives, negatives = classes[triplets.T.numpy()]
        assert (anchors == positives).all() and (anchors != negatives).all()


# --- the gate ---------------------------------------------------------------------------------------------------------


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
