"""The figures agree with scikit-learn's, and with answers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score, silhouette_score
from sklearn.neighbors import NearestNeighbors

from ssdml_fast import evaluate
from ssdml_fast.evaluate import (
    FIGURES,
    clustering_nmi,
    map_at_r,
    recall_at_k,
    report_embedding,
    score_embedding,
    silhouette,
)


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


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(12, 90), st.integers(2, 6), st.floats(0.1, 3), st.integers(1, 400))
def test_map_at_r_agrees_with_its_definition_on_sklearns_neighbours(seed, n, classes, spread, at_once):
    x, labels = blobs(n, 5, classes, spread, seed)
    neighbours = NearestNeighbors(algorithm="brute").fit(x.astype(np.float64)).kneighbors(n_neighbors=n - 1)[1]
    expected = []
    for i in range(n):
        r = int((labels == labels[i]).sum()) - 1
        hits = labels[neighbours[i, :r]] == labels[i]
        if r:
            expected.append(sum(hits[: j + 1].mean() for j in range(r) if hits[j]) / r)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "FOUND_AT_ONCE", at_once)
        assert map_at_r(x, labels) == pytest.approx(np.mean(expected), abs=1e-12)


def test_map_at_r_agrees_with_pytorch_metric_learning():
    calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    pytest.importorskip("faiss")  # which it finds neighbours by
    x, labels = blobs(n=150)
    theirs = calculator.AccuracyCalculator(include=("mean_average_precision_at_r",), k="max_bin_count")
    found = theirs.get_accuracy(torch.from_numpy(x), torch.from_numpy(labels))["mean_average_precision_at_r"]
    assert map_at_r(x, labels) == pytest.approx(found, abs=1e-6)


def test_map_at_r_among_duplicates_and_lone_points():
    assert map_at_r(np.zeros((6, 2)), np.array([4, 4, 4, 4, 4, 4])) == 1
    x = np.array([[0.0], [0.0], [0.0], [0.0], [9.0]])  # all of the first four are neighbours of each other
    assert map_at_r(x, np.array([0, 0, 0, 0, 1])) == 1
    # eight duplicates are found in the order of their indices, the last four of them not among their own four nearest
    assert map_at_r(np.zeros((8, 1)), np.array([0, 0, 0, 0, 1, 1, 1, 1])) == 0.5
    with pytest.raises(ValueError, match="labels must give at least two points to one class"):
        map_at_r(x, np.arange(5))


def test_silhouette_is_sklearns_and_a_report_holds_all_figures():
    x, labels = blobs()
    figures = report_embedding(torch.from_numpy(x), torch.from_numpy(labels))
    assert figures["silhouette"] == silhouette(x, labels) == pytest.approx(silhouette_score(x.astype(float), labels))
    assert figures == score_embedding(x, labels) | {"map@r": map_at_r(x, labels), "silhouette": silhouette(x, labels)}


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_silhouette_needs_classes_to_compare(labels):
    with pytest.raises(
        ValueError, match=f"labels must hold at least two classes.* found {len(set(labels))} for 4 points"
    ):
        silhouette(np.arange(4.0)[:, None], np.array(labels))


@pytest.mark.parametrize(
    ("labels", "undefined"),
    [
        ([3] * 9, ["nmi", "silhouette"]),
        ([0, 1, 0, 1, 0, 1, 0, 1], ["recall@8"]),
        ([0, 1, 0, 1], ["recall@4", "recall@8"]),
        ([5, 2, 7], ["recall@4", "recall@8", "map@r", "silhouette"]),
        ([1, 1], ["nmi", "recall@2", "recall@4", "recall@8", "silhouette"]),
        ([1], list(FIGURES)),
        ([], list(FIGURES)),
    ],
)
def test_a_report_of_few_points_or_classes_has_the_figures_that_are_defined(labels, undefined):
    x = np.random.default_rng(0).normal(size=(len(labels), 2))
    figures = report_embedding(x, np.array(labels, int))
    assert tuple(figures) == FIGURES
    assert [name for name, value in figures.items() if value is None] == undefined
    if "recall@1" not in undefined:
        assert figures["recall@1"] == recall_at_k(x, np.array(labels), (1,))[1]
    if "map@r" not in undefined:
        assert figures["map@r"] == map_at_r(x, np.array(labels))


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
