"""Chooses the triplets of a partition from what its labels propagate to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import ssdml_fast as sf

from .config import Config


def mine(z: Tensor, labels: np.ndarray, config: Config, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Build the graph of a partition, propagate its labels, and choose triplets.

    Parameters
    ----------
    z : (N, d) float tensor
        l2-normalised features of the examples of the partition.
    labels : (N,) int64 array
        Their labels; -1 = unlabelled.
    config : Config
        `mining` decides what is chosen.
    rng : numpy.random.Generator
        Source of the random choice among the propagated classes.

    Returns
    -------
    triplets : (T, 3) int64 array
        Anchor, positive, negative: rows of `z`.
    from_neighborhoods : int
        How many of them :func:`ssdml_fast.mine_triplets` chose; they come first.
    """
    graph = sf.knn_graph(z, config.neighbors)
    affinity = sf.propagate_affinity(graph, torch.from_numpy(labels), gamma=config.gamma)
    neighborhood = sf.mine_triplets(graph, affinity).numpy()
    if config.mining == "neighborhood":
        return neighborhood, len(neighborhood)

    posteriors = class_posteriors(affinity.class_mass.numpy(), affinity.classes.numpy(), labels)
    min_confidence = float(np.quantile(posteriors.max(1), 1 - config.confident))
    near = correct_triplets(neighborhood, posteriors, min_confidence, rng)
    n_drawn = config.triplets_per_example * len(labels)
    drawn = sf.mine_class_triplets(posteriors, n_drawn, min_confidence, int(rng.integers(2**63)))
    return np.concatenate([near, drawn]), len(near)


def class_posteriors(class_mass: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Turn propagated class mass into class probabilities.

    Each class's mass is first divided by its total over the partition (class-mass normalisation, Zhu et al. 2003), so
    that a class whose labelled examples happen to be popular neighbours does not swallow the others.

    Parameters
    ----------
    class_mass : (N, C) array
        :attr:`ssdml_fast.EdgeAffinity.class_mass`, entries at least 0.
    classes : (C,) int64 array
        The label that each column stands for, ascending.
    labels : (N,) int64 array
        -1 = unlabelled. A labelled example gets probability 1 for its own class.

    Returns
    -------
    (N, C) float64 array
        Rows sum to 1. A point that no label reaches gets equal probabilities.
    """
    mass = class_mass.astype(np.float64)
    mass = mass / np.maximum(mass.sum(0), np.finfo(np.float64).tiny)
    total = mass.sum(1, keepdims=True)
    posteriors = np.where(total > 0, mass / np.where(total > 0, total, 1), 1 / len(classes))
    labelled = labels >= 0
    posteriors[labelled] = labels[labelled, None] == classes
    return posteriors


def correct_triplets(
    triplets: np.ndarray, posteriors: np.ndarray, min_confidence: float, rng: np.random.Generator
) -> np.ndarray:
    """Make neighbourhood triplets agree with the propagated classes.

    Triplets of a confident anchor and a positive of its class stay. Of their negatives, those of the anchor's own class
    (nearly all, once the network separates the classes, and what makes the paper's recipe collapse) are replaced by
    confident points drawn uniformly from the other classes.

    Parameters
    ----------
    triplets : (T, 3) int64 array
        Anchor, positive, negative, from :func:`ssdml_fast.mine_triplets`.
    posteriors : (N, C) array
        Class probabilities of each point; a point's class is its most probable one.
    min_confidence : float
        Least probability of its class that makes a point confident.
    rng : numpy.random.Generator
        Source of the replacements.

    Returns
    -------
    (T', 3) int64 array
        The triplets that stay, in order, every positive of its anchor's class and every negative of another. Empty if
        all confident points are of one class.
    """
    classes = posteriors.argmax(1)
    confident = posteriors.max(1) >= min_confidence
    anchor, positive, _ = triplets.T
    kept = triplets[confident[anchor] & (classes[anchor] == classes[positive])]

    pool = np.flatnonzero(confident)
    pool = pool[np.argsort(classes[pool], kind="stable")]  # each class is one run of consecutive positions
    sizes = np.bincount(classes[pool], minlength=posteriors.shape[1])
    if sizes.max() == len(pool):
        return np.empty((0, 3), np.int64)
    ends = np.cumsum(sizes)
    wrong = classes[kept[:, 2]] == classes[kept[:, 0]]
    own = classes[kept[wrong, 0]]
    kept[wrong, 2] = pool[(ends[own] + rng.integers(len(pool) - sizes[own])) % len(pool)]  # a circle without own run
    return kept
