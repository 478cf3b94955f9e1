"""The figures agree with scikit-learn's, and with answers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

from ssdml_fast.evaluate import clustering_nmi, recall_at_k, score_embedding


def blobs(n=120, d=6, classes=4, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    return (rng.normal(size=(classes, d))[labels] + spread * rng.normal(size=(n, d))).astype(np.float32), labels


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(12, 150), st.integers(1, 8), st.floats(0.1, 3))
def test_recall_agrees_with_sklearn_neighbours(seed, n, d, spread):
    x, labels = blobs(n, d, spread=spread, seed=seed)
    neighbours = NearestNeighbors(algorithm="brute").fit(x.astype(np.float64)).kneighbors(n_neighbors=8)[1]
    hits = labels[neighbours] == labels[:, None]
    expected = {k: hits[:, :k].any(1).mean() for k in (1, 2, 4, 8)}
    assert recall_at_k(x, labels) == pytest.approx(expected, abs=1e-12)


def test_recall_leaves_the_point_itself_out_but_not_its_duplicate():
    labels = np.array([0, 1, 0, 1])
    x = np.array([[0.0], [0.0], [9.0], [9.5]])
    assert recall_at_k(x, labels, ks=(1, 3)) == {1: 0.0, 3: 1.0}


@pytest.mark.parametrize("spread", [0.2, 1.0])
def test_nmi_agrees_with_sklearn(spread):
    x, labels = blobs(spread=spread)
    labels = 10 * labels + 3  # class values need not be 0 … C - 1
    clusters = KMeans(4, n_init=10, random_state=0).fit_predict(x.astype(np.float64))
    assert clustering_nmi(x, labels) == pytest.approx(normalized_mutual_info_score(labels, clusters), abs=1e-9)


def test_nmi_is_one_for_separated_classes_and_small_for_noise():
    x, labels = blobs(n=200, spread=0.01)
    assert clustering_nmi(x, labels) == pytest.approx(1)
    noise = np.random.default_rng(0).normal(size=x.shape)
    assert clustering_nmi(noise, labels) < 0.2


def test_torch_and_numpy_give_the_same_figures():
    x, labels = blobs()
    assert score_embedding(torch.from_numpy(x), torch.from_numpy(labels)) == score_embedding(x, labels)
    assert list(score_embedding(x, labels)) == ["nmi", "recall@1", "recall@2", "recall@4", "recall@8"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1])}, "labels must have shape"),
        ({"labels": np.array([0, 1, -1, 0])}, r"labels must all be known .* found -1"),
        ({"labels": np.zeros(4)}, "labels must be of an integer type"),
        ({"embedding": np.array([[0.0], [1], [np.nan], [2]])}, "embedding must be finite"),
        ({"ks": (4,)}, r"ks must be in \[1, 3\]"),
        ({"ks": (0,)}, "ks must be in"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"embedding": np.arange(4.0)[:, None], "labels": np.array([0, 1, 0, 1]), "ks": (1,)} | change
    with pytest.raises((TypeError, ValueError), match=message):
        recall_at_k(**arguments)
