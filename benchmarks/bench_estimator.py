"""sf.SSDML beside metric-learn's and scikit-learn's metric learners, given the same labels, on scikit-learn's data.

What is timed is one ``fit``. ``python benchmarks/bench_estimator.py [SEED ...]`` prints, over splits and choices of
labels by those seeds, the accuracy of the nearest labelled sample on held-out thirds, that of scikit-learn's label
spreading in each embedding, NMI of k-means there, and seconds. metric-learn's learners see the labelled samples alone,
as they have no use for others.
"""

from __future__ import annotations

import functools
import sys
import time
import warnings

import numpy as np
import pytest
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.semi_supervised import LabelSpreading

import ssdml_fast as sf
from ssdml_fast.data import hide_labels
from ssdml_fast.evaluate import clustering_nmi

metric_learn = pytest.importorskip("metric_learn", reason="needs metric-learn: pip install 'ssdml-fast[bench]'")

SHAPES = ("iris", "wine", "breast_cancer", "digits")
LABELS_PER_CLASS = 5
SEEDS = range(10)
METHODS = {
    "features": FunctionTransformer,
    "sklearn NCA": lambda: NeighborhoodComponentsAnalysis(random_state=0),
    "metric-learn NCA": lambda: metric_learn.NCA(random_state=0),
    "metric-learn LMNN": lambda: metric_learn.LMNN(random_state=0),
    "metric-learn ITML": lambda: metric_learn.ITML_Supervised(random_state=0),
    "ssdml_fast": lambda: sf.SSDML(random_state=0),
    "ssdml_fast, 64 hidden units": lambda: sf.SSDML(hidden_units=64, random_state=0),
}


def _renamed(check):
    """Let metric-learn 0.7 call a check of scikit-learn 1.8 or newer, which renamed an argument."""

    @functools.wraps(check)
    def call(*args, force_all_finite=True, **settings):
        return check(*args, ensure_all_finite=force_all_finite, **settings)

    return call


for name in ("check_array", "check_X_y"):
    setattr(metric_learn._util, name, _renamed(getattr(metric_learn._util, name)))


@functools.cache
def split(name, seed):
    """Standardised training samples, the few labels that are known, and the held-out samples with their labels."""
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    train, test, y_train, y_test = train_test_split(X, y, test_size=1 / 3, random_state=seed, stratify=y)
    scaler = StandardScaler().fit(train)
    few = hide_labels(y_train, LABELS_PER_CLASS, np.random.default_rng(seed))
    return scaler.transform(train), few, scaler.transform(test), y_test


def fit(method, train, few):
    """Fit an embedding: ours to all samples, the others to the labelled ones."""
    known = few >= 0
    ours = method.startswith("ssdml_fast")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers that have not converged after their own limit
        return METHODS[method]().fit(*((train, few) if ours else (train[known], few[known])))


def nearest(model, train, few, test, y_test):
    """Accuracy of the nearest labelled sample."""
    known = few >= 0
    classifier = KNeighborsClassifier(1).fit(model.transform(train[known]), few[known])
    return classifier.score(model.transform(test), y_test)


def spread(model, train, few, test, y_test):
    """Accuracy of label spreading, which sees the unlabelled samples in any embedding."""
    classifier = LabelSpreading(kernel="knn", n_neighbors=10).fit(model.transform(train), few)
    return classifier.score(model.transform(test), y_test)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["sklearn NCA", "metric-learn NCA", "ssdml_fast"])
def test_estimator(shape, method, race):
    parts = split(shape, 0)
    train, few, _, y_test = parts

    def check(model):
        assert nearest(model, *parts) > np.bincount(y_test).max() / len(y_test) + 0.1

    race(lambda: fit(method, train, few), check)


def main(seeds):
    for shape in SHAPES:
        for method in METHODS:
            rows = []
            for seed in seeds:
                parts = split(shape, seed)
                began = time.perf_counter()
                try:
                    model = fit(method, *parts[:2])
                except ValueError as error:  # ITML's matrix may lose its definiteness
                    print(f"{shape}, seed {seed}: {method} failed: {error}", flush=True)
                    continue
                seconds = time.perf_counter() - began
                figures = (
                    nearest(model, *parts),
                    spread(model, *parts),
                    clustering_nmi(model.transform(parts[2]), parts[3]),
                )
                rows.append([*(100 * figure for figure in figures), seconds])
            (near, spreading, nmi, _), deviation = np.mean(rows, 0), np.std(rows, 0, ddof=1)[0]
            print(
                f"{shape:14} {method:28} nearest {near:5.1f} ± {deviation:4.1f} %  spread {spreading:5.1f} %  "
                f"NMI {nmi:5.1f} %  {np.median(rows, 0)[3]:.3f} s",
                flush=True,
            )


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or SEEDS)
