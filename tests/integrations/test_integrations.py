"""Our parts within other libraries: pytorch-metric-learning's losses, miners and wrappers, and arrays by DLPack."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers
from strategies import seeds

import ssdml_fast as sf
from ssdml_fast.integrations.pytorch_metric_learning import AffinityMiner, AngularLoss


def batch(seed=0, n=24, d=6, classes=4):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, d, generator=generator, dtype=torch.float64).requires_grad_()
    return embeddings, torch.randint(classes, (n,), generator=generator)


# ---- pytorch-metric-learning: the loss


@given(seeds, st.sampled_from((0.3, 1.0, 4.0)))
def test_equals_the_librarys_angular_loss_where_both_formulas_are_the_same(seed, scale):
    """Unit vectors, 30 degrees, one negative per pair: two classes, of which one has a single point."""
    embeddings = torch.nn.functional.normalize(batch(seed, n=5)[0])
    labels = torch.tensor([0, 0, 1, 0, 0])
    theirs = losses.AngularLoss(alpha=30)(embeddings, labels)
    torch.testing.assert_close(AngularLoss(alpha=30)(embeddings, labels), theirs)
    torch.testing.assert_close(AngularLoss(alpha=30)(scale * embeddings, labels), theirs)  # it normalises all points
    assert abs(AngularLoss(alpha=45)(embeddings, labels) - losses.AngularLoss(alpha=45)(embeddings, labels)) > 1e-3


@given(seeds, st.sampled_from((20.0, 30.0, 40.0, 60.0)))
def test_exponents_differ_by_the_constant_that_the_library_leaves_out(seed, alpha):
    z = torch.nn.functional.normalize(batch(seed, n=3)[0].detach())
    t = np.tan(np.radians(alpha)) ** 2
    ours = AngularLoss(alpha, reducer=reducers.DoNothingReducer())(z, None, tuple(torch.tensor([[0], [1], [2]])))
    exponent = ours["loss"]["losses"].expm1().log()
    theirs = 4 * t * (z[0] + z[1]) @ z[2] - 2 * (1 + t) * z[0] @ z[1]
    torch.testing.assert_close(exponent[0], theirs + 2 - 6 * t, rtol=1e-6, atol=1e-6)


def test_all_triplets_of_the_labels_by_default():
    embeddings, labels = batch(n=8, classes=3)
    triplets = [
        (a, p, n)
        for a in range(8)
        for p in range(8)
        for n in range(8)
        if a != p and labels[a] == labels[p] != labels[n]
    ]
    z = torch.nn.functional.normalize(embeddings)
    expected = sf.angular_loss(z, torch.tensor(triplets), torch.eye(6, dtype=z.dtype), 40.0, "mean")
    torch.testing.assert_close(AngularLoss()(embeddings, labels), expected)


@pytest.mark.parametrize(
    "miner",
    [
        miners.TripletMarginMiner(margin=0.3),
        miners.BatchHardMiner(),
        miners.MultiSimilarityMiner(),
        miners.AngularMiner(angle=10),
        miners.BatchEasyHardMiner(),
        AffinityMiner(k=6),
    ],
    ids=lambda miner: type(miner).__name__,
)
def test_accepts_what_miners_return(miner):
    embeddings, labels = batch()
    indices = miner(embeddings, labels)
    loss = AngularLoss()(embeddings, labels, indices)
    assert AngularLoss()(embeddings, indices_tuple=indices) == loss  # the tuple says all
    loss.backward()
    assert loss > 0 and embeddings.grad.abs().sum() > 0


@pytest.mark.parametrize("miner", [None, miners.TripletMarginMiner(margin=0.5)], ids=["all pairs", "triplets"])
def test_works_with_cross_batch_memory(miner):
    """The same triplets as a loss of the library's own takes from its memory, and gradients for the batch alone."""
    ours, reference = AngularLoss(), losses.TripletMarginLoss()
    seen = {}
    for loss in (ours, reference):
        wrapped = losses.CrossBatchMemory(loss, 6, memory_size=48, miner=miner)
        loss.register_forward_pre_hook(lambda module, inputs: seen.setdefault(module, []).append(inputs[2]))
        for seed in range(4):
            embeddings, labels = batch(seed)
            value = wrapped(embeddings, labels)
            value.backward()
            assert value > 0 and embeddings.grad.abs().sum() > 0
    for mine, theirs in zip(seen[ours], seen[reference], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_reference_embeddings_are_other_rows():
    (embeddings, labels), (others, other_labels) = batch(0, n=5), batch(1, n=7)
    indices = tuple(torch.tensor(column) for column in ([0, 4, 2], [6, 1, 0], [3, 2, 5]))
    loss = AngularLoss(reducer=reducers.DoNothingReducer())(embeddings, labels, indices, others, other_labels)
    z, ref = (torch.nn.functional.normalize(x).detach().numpy() for x in (embeddings, others))
    a, p, n = z[indices[0]], ref[indices[1]], ref[indices[2]]
    t = np.tan(np.radians(40)) ** 2
    m = ((a - p) ** 2).sum(1) - 4 * t * ((n - (a + p) / 2) ** 2).sum(1)
    np.testing.assert_allclose(loss["loss"]["losses"].detach(), np.log1p(np.exp(m)))


@pytest.mark.parametrize(
    "reducer",
    [reducers.MeanReducer(), reducers.AvgNonZeroReducer(), reducers.ThresholdReducer(low=0.1), reducers.SumReducer()],
    ids=lambda reducer: type(reducer).__name__,
)
def test_reducers_see_a_loss_per_triplet(reducer):
    embeddings, labels = batch()
    indices = miners.TripletMarginMiner(margin=0.5)(embeddings, labels)
    each = AngularLoss(reducer=reducers.DoNothingReducer())(embeddings, labels, indices)["loss"]["losses"].detach()
    assert each.shape == indices[0].shape
    expected = {"SumReducer": each.sum(), "ThresholdReducer": each[each > 0.1].mean()}
    loss = AngularLoss(reducer=reducer)(embeddings, labels, indices)
    torch.testing.assert_close(loss.detach(), expected.get(type(reducer).__name__, each.mean()))


def test_normalises_as_the_distance_says_and_regularises():
    embeddings, labels = batch()
    raw = AngularLoss(distance=distances.LpDistance(normalize_embeddings=False))
    unit = torch.nn.functional.normalize(embeddings)
    torch.testing.assert_close(raw(unit, labels), AngularLoss()(embeddings, labels))
    assert abs(raw(embeddings, labels) - AngularLoss()(embeddings, labels)) > 1e-3
    regularised = AngularLoss(embedding_regularizer=regularizers.LpRegularizer(), embedding_reg_weight=0.5)
    norms = embeddings.norm(dim=1).mean()
    torch.testing.assert_close(regularised(embeddings, labels), AngularLoss()(embeddings, labels) + 0.5 * norms)


def test_learns_a_metric():
    embeddings, labels = batch()
    metric = sf.nn.OrthogonalMetric(6, 3, dtype=torch.float64)
    loss = AngularLoss(alpha=35.0, metric=metric)
    indices = miners.TripletMarginMiner(margin=0.5)(embeddings, labels)
    value = loss(embeddings, labels, indices)
    z = torch.nn.functional.normalize(embeddings)
    torch.testing.assert_close(value, sf.angular_loss(z, torch.stack(indices, 1), metric.L, 35.0, "mean"))
    value.backward()
    assert metric.L.grad.abs().sum() > 0 and list(loss.parameters()) == [metric.L]


def test_no_triplets_cost_nothing():
    embeddings, labels = batch(n=4, classes=1)
    loss = AngularLoss()(embeddings, labels)
    assert loss == 0
    loss.backward()
    none = torch.empty(0, dtype=torch.int64)
    assert AngularLoss()(embeddings, labels, (none, none, none)) == 0


# ---- pytorch-metric-learning: the miner


def test_mines_as_the_functions_do():
    embeddings, labels = batch(n=40)
    labels[::3] = -1
    graph = sf.knn_graph(torch.nn.functional.normalize(embeddings.detach()), 8)
    expected = sf.mine_triplets(graph, sf.propagate_affinity(graph, labels, 0.9))
    miner = AffinityMiner(k=8, gamma=0.9)
    assert torch.equal(torch.stack(miner(embeddings, labels), 1), expected)
    assert (miner.k, miner.gamma) == (8, 0.9)
    raw = AffinityMiner(k=8, gamma=0.9, distance=distances.LpDistance(normalize_embeddings=False))
    graph = sf.knn_graph(embeddings.detach(), 8)
    expected = sf.mine_triplets(graph, sf.propagate_affinity(graph, labels, 0.9))
    assert torch.equal(torch.stack(raw(embeddings, labels), 1), expected)


@pytest.mark.parametrize(
    "loss",
    [losses.TripletMarginLoss(), losses.MultiSimilarityLoss(), losses.ContrastiveLoss(), losses.CircleLoss(),
     losses.NTXentLoss(), losses.AngularLoss(), AngularLoss()],
    ids=lambda loss: f"{type(loss).__module__.split('.')[0]} {type(loss).__name__}",
)  # fmt: skip
def test_losses_accept_what_it_mines(loss):
    embeddings, labels = batch(n=40)
    loss(embeddings, labels, AffinityMiner(k=8)(embeddings, labels)).backward()
    assert embeddings.grad.abs().sum() > 0


@pytest.mark.parametrize("n, expected", [(0, 0), (1, 0), (2, 0), (3, 3), (5, 10)])
def test_small_batches_have_fewer_neighbours(n, expected):
    embeddings, labels = batch(n=n)
    assert [len(column) for column in AffinityMiner(k=20)(embeddings, labels)] == [expected] * 3


# ---- pytorch-metric-learning: errors


@pytest.mark.parametrize("kind", [AngularLoss, AffinityMiner])
@pytest.mark.parametrize(
    ("error", "distance"),
    [
        (TypeError, distances.CosineSimilarity()),
        (TypeError, distances.SNRDistance()),
        (ValueError, distances.LpDistance(p=1)),
        (ValueError, distances.LpDistance(power=2)),
    ],
)
def test_refuses_other_distances(kind, error, distance):
    with pytest.raises(error, match="distance must"):
        kind(distance=distance)


def test_refuses_bad_settings_and_calls(refuses):
    refuses(ValueError, "alpha", AngularLoss, 90.0)
    refuses(ValueError, "k", AffinityMiner, 1)
    refuses(ValueError, "gamma", AffinityMiner, 10, 1.0)
    embeddings, labels = batch()
    refuses(ValueError, "ref_emb", AffinityMiner(), embeddings, labels, embeddings.clone(), labels)
    refuses(ValueError, "labels", AffinityMiner(), embeddings, labels - 2)
    refuses(ValueError, "labels", AngularLoss(), embeddings)


# ---- arrays of other libraries


def results(library):
    """Everything that the operations return, from the same points."""
    x = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    labels = np.arange(30) % 4 - 1
    if library == "torch":
        x, labels = torch.from_numpy(x), torch.from_numpy(labels)
    graph = sf.knn_graph(x, 4)
    affinity = sf.propagate_affinity(graph, labels)
    posteriors = affinity.class_mass / affinity.class_mass.sum(0)
    return {
        "indices": graph.indices,
        "distances": graph.distances,
        "values": affinity.values,
        "class_mass": affinity.class_mass,
        "classes": affinity.classes,
        "triplets": sf.mine_triplets(graph, affinity),
        "class triplets": sf.mine_class_triplets(posteriors, 10),
        "modes": sf.graph_modes(graph),
        "search": sf.knn_search(x, x, 2).distances,
        "L": sf.cayley_update(x[:, :2] * 0 + _eye(x), x[:, :2], 0.1),
    }


def _eye(x):
    return torch.eye(30, 2) if isinstance(x, torch.Tensor) else np.eye(30, 2, dtype=np.float32)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_results_are_handed_over_by_dlpack_without_a_copy(library):
    for name, array in results(library).items():
        as_numpy, as_torch = np.from_dlpack(array), torch.from_dlpack(array)
        np.testing.assert_array_equal(as_numpy, np.asarray(array), err_msg=name)
        address = array.data_ptr() if library == "torch" else array.ctypes.data
        assert as_numpy.ctypes.data == as_torch.data_ptr() == address, name


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_jax_reads_results_by_dlpack(library):
    jax = pytest.importorskip("jax", minversion="0.10")
    shared = 0
    with jax.enable_x64(True):  # for indices and class triplets
        for name, array in results(library).items():
            taken = jax.numpy.from_dlpack(array)
            np.testing.assert_array_equal(np.asarray(taken), np.asarray(array), err_msg=name)
            address = array.data_ptr() if library == "torch" else array.ctypes.data
            if address % 64 == 0:  # JAX copies what is aligned to less
                assert taken.unsafe_buffer_pointer() == address, name
                shared += 1
    assert library == "numpy" or shared  # torch aligns what it allocates
