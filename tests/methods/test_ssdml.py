"""What SSDML mines a partition for, the mini-batches that it is trained by, and what moves L."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from trainings import TINY, Pixels, SmallNet, assert_same, digits, engine, train

import ssdml_fast as sf
from ssdml_fast.data.digits import load_digits
from ssdml_fast.methods.graph import undecided
from ssdml_fast.methods.ssdml import SSDML, most_confident
from ssdml_fast.models.metric import untrained
from ssdml_fast.models.seeded import seeded
from ssdml_fast.runs.folder import RunFolder


def posterior_matrices():
    return st.tuples(st.integers(1, 60), st.integers(1, 6), st.integers(0, 2**31)).map(
        lambda s: np.random.default_rng(s[2]).dirichlet(np.full(s[1], 0.3), s[0])
    )


@given(posterior_matrices(), st.floats(0.01, 1))
def test_the_most_confident_of_each_class_are_chosen(posteriors, share):
    chosen = most_confident(posteriors, share)
    assert (np.diff(chosen) > 0).all()
    classes, confidence = posteriors.argmax(1), posteriors.max(1)
    for c in range(posteriors.shape[1]):
        members, kept = np.flatnonzero(classes == c), chosen[classes[chosen] == c]
        assert len(kept) == np.ceil(share * len(members))
        left = np.setdiff1d(members, kept)
        assert not len(left) or confidence[left].max() <= confidence[kept].min()


def partition(mining, **settings):
    """What 200 digits are mined for by their pixels, beside those, their labels, and how triplets are drawn."""
    data = load_digits(0)
    images, labels = data.images[:200], data.labels[:200]
    settings = {"mining": mining, "neighbors": 6, "batch_size": 30, "confident": 0.5, "confident_last": 0.5} | settings
    made = engine(settings, Pixels(), ((images, labels), (images, np.abs(labels))))
    (_, leg), *_ = made.plan
    work = made.method.prepare(leg, made.aid)
    z, members = F.normalize(torch.from_numpy(images).flatten(1)), torch.from_numpy(made.method.members(leg))
    batches = list(work.batches(np.random.default_rng(0)))
    assert len(batches) == work.n_batches
    drawn = [made.method.triplets(batch.extra, z[batch.rows], made.aid) for batch in batches]
    assert sorted(members.tolist()) == list(range(200))
    return z[members], labels[members], members, work, [batch.rows for batch in batches], drawn


def test_neighborhood_mining_is_the_papers():
    z, labels, members, work, batches, drawn = partition("neighborhood")
    graph = sf.knn_graph(z, 6)
    paper = sf.mine_triplets(graph, sf.propagate_affinity(graph, torch.from_numpy(labels), gamma=0.9))
    assert work.record == {"triplets": len(paper)}
    seen = []
    for rows, triplets in zip(batches, drawn, strict=True):
        assert len(rows.unique()) == len(rows)
        assert len(triplets) == 30 or rows is batches[-1]
        seen += rows[triplets].tolist()
    paper = members[paper].tolist()
    assert seen != paper and sorted(seen) == sorted(paper)


@pytest.mark.parametrize("hard", [0, 1])
def test_class_mining_draws_among_confident_examples_of_a_batch(hard):
    z, labels, members, work, batches, drawn = partition("class", triplets_per_example=4, hard_negatives=hard)
    graph = sf.knn_graph(z, 6)
    posteriors = sf.propagate_labels(graph, torch.from_numpy(labels), gamma=0.9, tol=1e-4).posteriors.numpy()
    posteriors[labels >= 0] = labels[labels >= 0, None] == np.unique(labels[labels >= 0])
    chosen = most_confident(posteriors, 0.5)
    assert work.record == {"triplets": 4 * len(chosen)}
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.sort(members[chosen]))
    place = torch.empty(200, dtype=torch.int64)
    place[members] = torch.arange(200)
    rows, triplets = place[batches[0]], drawn[0]
    assert len(triplets) == 4 * 30
    classes = torch.from_numpy(posteriors.argmax(1))[rows]
    anchor, positive, negative = classes[triplets.T]
    assert (anchor == positive).all() and (anchor != negative).all()
    if hard:
        distances = torch.cdist(z[rows], z[rows])
        distances[classes[:, None] == classes] = torch.inf
        nearest = distances[triplets[:, 0], triplets[:, 2]]
        np.testing.assert_allclose(nearest, distances[triplets[:, 0]].min(1).values, rtol=1e-5)


@pytest.mark.parametrize("mining", ["class", "neighborhood"])
def test_labels_that_are_known_are_propagated_as_they_are(mining):
    _, labels, members, work, *_ = partition(mining)
    rows, propagated = work.propagated
    np.testing.assert_array_equal(rows, members)
    np.testing.assert_array_equal(propagated[labels >= 0], labels[labels >= 0])
    assert (propagated >= -1).all() and propagated.dtype == np.int64


def islands():
    """Ninety points around three labelled pairs, and thirty far from all that is labelled."""
    of = np.repeat(np.arange(4), 30)
    corners = np.array([[0, 0], [30, 0], [0, 30], [300, 300]], np.float32)
    points = corners[of] + np.random.default_rng(0).normal(size=(120, 2)).astype(np.float32)
    labels = np.where((np.arange(120) % 30 < 2) & (of < 3), of, -1)
    return points, labels, of


class AsTheyAre(nn.Module):
    def forward(self, points):
        return points


@pytest.mark.parametrize("mining", ["class", "neighborhood"])
def test_what_no_label_reaches_has_no_class(mining):
    points, labels, of = islands()
    settings = {"mining": mining, "neighbors": 5, "metric_dim": 2, "confident": 1.0, "confident_last": 1.0}
    made = engine(settings, AsTheyAre(), ((points, labels), (points, of)))
    (_, leg), *_ = made.plan
    work = made.method.prepare(leg, made.aid)
    rows, propagated = work.propagated
    np.testing.assert_array_equal(propagated, np.where(of < 3, of, -1)[rows])
    made.keep_propagated(1, rows, propagated)
    np.testing.assert_array_equal(made.propagated[0], np.where((of < 3) & (labels < 0), of, -1))
    trained_on = np.unique(np.concatenate([batch.rows for batch in work.batches(np.random.default_rng(0))]))
    assert trained_on.tolist() == list(range(90 if mining == "class" else 120))  # neighbourhoods need no class


def test_a_tie_of_classes_is_not_taken_for_none():
    points = np.array(
        [[0, 0], [2, 0], [1, 0], [50, 0], [51, 0], [52, 0]], np.float32
    )  # the third between the first two
    for labels in (np.array([0, 1, -1, -1, -1, -1]), np.array([4, -1, -1, -1, -1, -1])):
        graph = sf.knn_graph(points, 2)
        posteriors = sf.propagate_labels(graph, labels).posteriors
        assert (posteriors[2] == posteriors[2, 0]).all()
        assert undecided(posteriors, graph, labels).tolist() == [False] * 3 + [True] * 3


def test_a_row_of_zeros_has_no_class_and_is_never_chosen():
    posteriors = np.array([[0.9, 0.1], [0.0, 0.0], [0.3, 0.7], [0.0, 0.0], [0.6, 0.4], [0.0, 0.0]])
    assert most_confident(posteriors, 1.0).tolist() == [0, 2, 4]
    assert most_confident(posteriors, 0.5).tolist() == [0, 2]  # of two, not of five


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (
            np.arange(120),
            {},
            r"^train labels must give at least two examples to one class, .* each of the 120 examples",
        ),
        (None, {"batch_size": 2}, r"^batch_size must be at least 3 with mining 'class', .* found 2$"),
        (np.where(np.arange(120) < 2, 7, -1), {}, r"^train labels must hold at least two classes besides -1, found cl"),
        (None, {"neighbors": 120}, r"^neighbors must be less than the examples of a partition, 120, found 120$"),
    ],
)
def test_what_can_give_no_triplets_is_named_before_anything_is_written(labels, settings, message, tmp_path):
    points, few, of = islands()
    data = (points, few if labels is None else labels), (points, of)
    with pytest.raises(ValueError, match=message):
        train({"metric_dim": 2} | settings, AsTheyAre(), data, run=RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mining", ["class", "neighborhood"])
@pytest.mark.parametrize("n_labels", [1, 2])
def test_a_label_of_some_classes_is_enough(mining, n_labels):
    points, _, of = islands()
    labels = np.where((np.arange(120) % 30 < n_labels) & (of < 2), of, -1)  # two classes have none
    settings = {"mining": mining, "metric_dim": 2, "rounds": 1, "warmup": 5, "softmax_weight": 1.0}
    result = train(settings, nn.Linear(2, 2), ((points, labels), (points, of)))
    assert result.stopped == "finished" and all(np.isfinite(record["score"]) for record in result.history)


# --- what moves L -----------------------------------------------------------------------------------------------------


def test_what_moves_L_decides_whether_it_stays_orthogonal():
    for update in ("conjugate", "unconstrained"):
        result = train(TINY | {"rounds": 1, "metric_update": update})
        errors = [record["orthogonality_error"] for record in result.history]
        assert result.best["score"] > result.history[0]["score"]
        assert max(errors) <= 1e-5 if update == "conjugate" else errors[-1] > 1e-3


def test_L_of_a_pass_is_solved_on_all_its_triplets(monkeypatch):
    solved, solve = [], SSDML.solve
    monkeypatch.setattr(
        SSDML, "solve", lambda self, z, t, aid: solved.append((len(z), len(t))) or solve(self, z, t, aid)
    )
    settings = {"mining": "neighborhood", "metric_update": "partition", "rounds": 1, "metric_dim": 16, "max_epochs": 2}
    result = train(settings | {"average": 0.0, "epochs": 2, "neighbors": 10, "learning_rate": 1e-9})
    assert solved == [(400, 2000)] * 2
    start = untrained(seeded(SmallNet, 0), digits()[0][0], 16, 0).metric.L
    assert result.history[-1]["orthogonality_error"] <= 1e-5 and (result.model.metric.L - start).abs().max() > 1e-2


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_beyond_31_bits_stay_themselves(tmp_path):
    """In what is propagated and stored; and only their order counts."""
    (images, labels), (val_images, val_labels) = digits()
    far = np.where(labels < 0, -1, labels + 2**40)
    near, large = RunFolder(tmp_path / "near"), RunFolder(tmp_path / "far")
    once = TINY | {"rounds": 1}
    one = train(once, run=near)
    other = train(once, data=((images, far), (val_images, val_labels + 2**40)), run=large)
    assert_same(one, other)
    few = near.read_propagated()
    np.testing.assert_array_equal(large.read_propagated(), np.where(few < 0, -1, few.astype(np.int64) + 2**40))


# --- mini-batches of one ----------------------------------------------------------------------------------------------


class Normalising(nn.Module):
    """Batch normalisation refuses a mini-batch of one."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16))
        self.seen = []

    def forward(self, images):
        self.seen += [len(images)] * self.training
        return self.layers(images)


@pytest.mark.parametrize("mining", ["class", "neighborhood"])
def test_no_single_example_is_left_to_a_mini_batch(mining):
    (images, labels), val = digits()
    everything = {"rounds": 1, "metric_dim": 4, "mining": mining, "confident": 1.0, "confident_last": 1.0, "epochs": 1}
    data = (images[:201], labels[:201]), val
    network = seeded(Normalising, 0)
    settings = everything | {"batch_size": 100, "warmup": 2, "softmax_weight": 0.5}
    assert train(settings, network, data).stopped == "finished"
    assert min(network.seen) > 1
    if mining == "class":
        assert network.seen == [100, 100, 100, 100, 101, 100]  # the warm-up; mini-batches and their labelled ones
