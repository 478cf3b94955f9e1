"""Class posteriors of MNIST, beside conjugate gradients on the same system and scikit-learn's LabelSpreading."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg
from inputs import full_only, graph, mnist_classes, mnist_labels, transition
from sklearn.semi_supervised import LabelSpreading

import ssdml_fast as sf

GAMMA, TOL = 0.99, 1e-6


def ours(graph, y):
    return lambda: sf.propagate_labels(graph, y, GAMMA, TOL).posteriors


def scipy_cg(graph, y):
    """The same system, class by class, in the symmetric form that conjugate gradients need."""
    edges = transition(graph)
    weights = edges + edges.T
    root = np.sqrt(weights.sum(1))
    matrix = scipy.sparse.eye_array(graph.n) - GAMMA * scipy.sparse.diags_array(1 / root) @ weights @ (
        scipy.sparse.diags_array(1 / root)
    )
    matrix = matrix.tocsr()

    def call():
        mass = np.empty((graph.n, 10))
        for c in range(10):
            solved, failed = scipy.sparse.linalg.cg(matrix, root * (y == c), rtol=1e-10)
            assert not failed
            mass[:, c] = solved / root
        mass /= mass.sum(0)
        return mass / mass.sum(1, keepdims=True)

    return call


def label_spreading(max_iter, tol):
    """scikit-learn's own normalisation, so close to these posteriors, not equal."""

    def method(graph, y):
        edges = transition(graph)
        weights, rows = (edges + edges.T).tocsr(), np.zeros((graph.n, 1))

        def call():
            model = LabelSpreading(kernel=lambda *_: weights, alpha=GAMMA, max_iter=max_iter, tol=tol)
            return model.fit(rows, y).label_distributions_

        return call

    return method


METHODS = {
    "ssdml_fast": ours,
    "scipy cg": scipy_cg,
    "sklearn LabelSpreading, 30 steps": label_spreading(30, 1e-3),
    "sklearn LabelSpreading, to 1e-6": label_spreading(10_000, 1e-6),
}


@pytest.mark.filterwarnings("ignore:max_iter=30 was reached")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", ["posteriors-mnist-9100-k10", *full_only(["posteriors-mnist-50000-k10"])])
def test_propagate_labels(race, shape, method):
    n = int(shape.split("-")[2])
    here, y, classes = graph("mnist", n, 784, 10), mnist_labels(n), mnist_classes(n)
    expected = ours(here, y)()

    def check(posteriors):
        right = [np.mean(p.argmax(1)[y < 0] == classes[y < 0]) for p in (posteriors, expected)]
        assert right[0] <= right[1] + 0.02
        if "LabelSpreading" not in method:
            np.testing.assert_allclose(posteriors, expected, rtol=0, atol=2 * TOL)

    race(METHODS[method](here, y), check)
