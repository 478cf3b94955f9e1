"""sf.SSDML beside scikit-learn's neighbourhood components analysis, given the same labels, on scikit-learn's data.

What is timed is one ``fit``. Accuracies, of the nearest labelled sample on held-out thirds over eight splits, are
printed by ``python benchmarks/bench_estimator.py``.
"""

from __future__ import annotations

import functools
import statistics

import numpy as np
import pytest
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis
from sklearn.preprocessing import StandardScaler

import ssdml_fast as sf
from ssdml_fast.data import hide_labels

SHAPES = ("iris", "wine", "breast_cancer", "digits")
LABELS_PER_CLASS = 5
METHODS = {
    "features": None,
    "sklearn NCA": lambda: NeighborhoodComponentsAnalysis(random_state=0),
    "ssdml_fast": lambda: sf.SSDML(random_state=0),
    "ssdml_fast, 64 hidden units": lambda: sf.SSDML(hidden_units=64, random_state=0),
}


@functools.cache
def split(name, seed):
    """Standardised training samples, their classes, the few labels that are known, and the held-out samples."""
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    train, test, y_train, y_test = train_test_split(X, y, test_size=1 / 3, random_state=seed, stratify=y)
    scaler = StandardScaler().fit(train)
    few = hide_labels(y_train, LABELS_PER_CLASS, np.random.default_rng(seed))
    return scaler.transform(train), few, scaler.transform(test), y_test


def fit(method, train, few):
    """Fit an embedding; NCA takes the labelled samples alone."""
    known = few >= 0
    model = METHODS[method]()
    return model.fit(train[known], few[known]) if method == "sklearn NCA" else model.fit(train, few)


def accuracy(method, train, few, test, y_test):
    known = few >= 0
    embed = fit(method, train, few).transform if METHODS[method] else np.asarray
    return KNeighborsClassifier(1).fit(embed(train[known]), few[known]).score(embed(test), y_test)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["sklearn NCA", "ssdml_fast"])
def test_estimator(shape, method, race):
    train, few, test, y_test = split(shape, 0)

    def check(model):
        known = few >= 0
        nearest = KNeighborsClassifier(1).fit(model.transform(train[known]), few[known])
        chance = np.bincount(y_test).max() / len(y_test)
        assert nearest.score(model.transform(test), y_test) > chance + 0.1

    race(lambda: fit(method, train, few), check)


if __name__ == "__main__":
    for name in SHAPES:
        for method in METHODS:
            scores = [100 * accuracy(method, *split(name, seed)) for seed in range(8)]
            mean, deviation = statistics.mean(scores), statistics.stdev(scores)
            print(f"{name:14} {method:28} {mean:5.1f} ± {deviation:.1f} %", flush=True)
