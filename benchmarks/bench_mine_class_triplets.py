"""Triplets drawn by class: ours beside the same draw in NumPy, and pytorch-metric-learning's random triplets.

The peers' random numbers are others, so their triplets are held to the rule, ours to the twin's.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import ssdml_fast as sf

MIN_CONFIDENCE = 0.7
SHAPES = {  # points, classes, triplets: a partition of MNIST; CUB's training half
    "9100-C10-T45500": (9100, 10, 45_500),
    "5864-C100-T146600": (5864, 100, 146_600),
}


@functools.cache
def posteriors(shape):
    n, classes, _ = SHAPES[shape]
    return np.random.default_rng(0).dirichlet(np.full(classes, 1 / classes), n).astype(np.float32)


def ours(posteriors, n_triplets):
    return lambda: sf.mine_class_triplets(posteriors, n_triplets, MIN_CONFIDENCE)


def numpy_draw(posteriors, n_triplets):
    def call():
        rng = np.random.default_rng(0)
        points = np.flatnonzero(posteriors.max(1) >= MIN_CONFIDENCE)
        classes = posteriors[points].argmax(1)
        by_class = np.argsort(classes, kind="stable")
        points, classes = points[by_class], classes[by_class]
        sizes = np.bincount(classes, minlength=posteriors.shape[1])
        starts = np.cumsum(sizes) - sizes
        anchors = np.flatnonzero(sizes[classes] > 1)
        anchor = anchors[rng.integers(len(anchors), size=n_triplets)]
        start, size = starts[classes[anchor]], sizes[classes[anchor]]
        positive = start + (anchor - start + 1 + rng.integers(size - 1)) % size
        negative = (start + size + rng.integers(len(points) - size)) % len(points)
        return points[np.stack([anchor, positive, negative], 1)]

    return call


def pytorch_metric_learning(posteriors, n_triplets):
    """The same number of triplets for every anchor, up to a rest; the library draws from labels alone."""
    utils = pytest.importorskip("pytorch_metric_learning.utils.loss_and_miner_utils")

    def call():
        confidence, classes = torch.from_numpy(posteriors).max(1)
        points = torch.nonzero(confidence >= MIN_CONFIDENCE)[:, 0]
        drawn = utils.get_random_triplet_indices(classes[points], t_per_anchor=-(-n_triplets // len(points)))
        return points[torch.stack(drawn, 1)[:n_triplets]].numpy()

    return call


METHODS = {"ssdml_fast": ours, "numpy draw": numpy_draw, "pytorch-metric-learning": pytorch_metric_learning}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_mine_class_triplets(race, shape, method):
    x, n_triplets = posteriors(shape), SHAPES[shape][2]

    def check(triplets):
        assert len(triplets) == n_triplets
        assert (x.max(1)[triplets] >= MIN_CONFIDENCE).all()
        anchor, positive, negative = x.argmax(1)[triplets].T
        assert (anchor == positive).all() and (anchor != negative).all()
        assert (triplets[:, 0] != triplets[:, 1]).all()
        if method == "ssdml_fast":
            np.testing.assert_array_equal(triplets[:300], sf.reference.mine_class_triplets(x, 300, MIN_CONFIDENCE))

    race(METHODS[method](x, n_triplets), check)
