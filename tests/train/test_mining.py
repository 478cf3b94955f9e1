"""What a partition is mined for, and the mini-batches that it is trained by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import ssdml_fast as sf
from ssdml_fast.data.digits import load_digits
from ssdml_fast.train import Config
from ssdml_fast.train.mining import mine, most_confident
from ssdml_fast.train.warmup import warmup_batches


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
    """What 200 digits are mined for, beside their features and labels."""
    data = load_digits(0)
    members = np.arange(200)
    z = F.normalize(torch.from_numpy(data.images[members]).flatten(1))
    labels = data.labels[members]
    config = Config(mining=mining, neighbors=6, batch_size=30, **settings)
    return z, labels, mine(z, labels, config, share=0.5)


def test_neighborhood_mining_is_the_papers():
    z, labels, mined = partition("neighborhood")
    graph = sf.knn_graph(z, 6)
    paper = sf.mine_triplets(graph, sf.propagate_affinity(graph, torch.from_numpy(labels), gamma=0.9)).numpy()
    batches = list(mined.batches(np.random.default_rng(0)))
    assert (len(batches), mined.n_triplets) == (mined.n_batches, len(paper))
    seen = []
    for rows, draw in batches:
        assert len(rows.unique()) == len(rows)
        triplets = draw(z[rows])
        assert len(triplets) == 30 or rows is batches[-1][0]
        seen += rows[triplets].tolist()
    assert seen != paper.tolist() and sorted(seen) == sorted(paper.tolist())


@pytest.mark.parametrize("hard", [0, 1])
def test_class_mining_draws_among_confident_examples_of_a_batch(hard):
    z, labels, mined = partition("class", triplets_per_example=4, hard_negatives=hard)
    graph = sf.knn_graph(z, 6)
    posteriors = sf.propagate_labels(graph, torch.from_numpy(labels), gamma=0.9, tol=1e-4).posteriors.numpy()
    posteriors[labels >= 0] = labels[labels >= 0, None] == np.unique(labels[labels >= 0])
    classes, chosen = posteriors.argmax(1), most_confident(posteriors, 0.5)
    batches = list(mined.batches(np.random.default_rng(0)))
    assert (len(batches), mined.n_triplets) == (mined.n_batches, 4 * len(chosen))
    np.testing.assert_array_equal(np.sort(np.concatenate([rows for rows, _ in batches])), chosen)
    rows, draw = batches[0]
    triplets = draw(z[rows])
    assert len(triplets) == 4 * 30
    anchor, positive, negative = classes[rows][triplets.T]
    assert (anchor == positive).all() and (anchor != negative).all()
    if hard:
        distances = torch.cdist(z[rows], z[rows]).numpy()
        distances[classes[rows][:, None] == classes[rows]] = np.inf
        nearest = distances[triplets[:, 0], triplets[:, 2]]
        np.testing.assert_allclose(nearest, distances[triplets[:, 0]].min(1), rtol=1e-5)


def test_warm_up_batches_go_through_all_labelled_examples_in_turn():
    labels = np.array([-1, 0, 1, -1, 0, 1, 0, -1])
    batches = list(warmup_batches(labels, 2, 5, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [2] * 5
    for first in (0, 2):
        assert len(torch.cat(batches[first : first + 2]).unique()) == 4
    assert (labels[torch.cat(batches)] >= 0).all()
    (batch,) = warmup_batches(labels, 100, 1, np.random.default_rng(0))
    assert sorted(batch.tolist()) == [1, 2, 4, 5, 6]
