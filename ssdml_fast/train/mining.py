"""Chooses what a partition trains on: mini-batches of examples, and the triplets among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

import ssdml_fast as sf

from .config import Config
from .timing import StageTimes

TOLERANCE = 1e-4  # of propagated class probabilities, which are only ranked and compared

# Rows of a partition to embed, and what maps their (B, d) embeddings to (T, 3) triplets of positions among them.
Batch = tuple[Tensor, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Mined:
    """What one partition gives to train on.

    Attributes
    ----------
    batches : callable
        Given a random generator, yields the mini-batches of one pass.
    n_batches, n_triplets : int
        Mini-batches and triplets of one pass.
    propagated : (N,) int64 array
        The most probable label of each example.
    triplets : (T, 3) int32 or int64 tensor, optional
        All of them, where they are known before the mini-batches are.
    """

    batches: Callable[[np.random.Generator], Iterator[Batch]]
    n_batches: int
    n_triplets: int
    propagated: np.ndarray
    triplets: Tensor | None = None


def mine(z: Tensor, labels: np.ndarray, config: Config, share: float, times: StageTimes | None = None) -> Mined:
    """Build the graph of a partition, propagate its labels, and choose what to train on.

    Parameters
    ----------
    z : (N, d) float tensor
        l2-normalised features of the examples of the partition.
    labels : (N,) int64 array
        Their labels; -1 = unlabelled.
    config : Config
        `mining` decides what is chosen.
    share : float
        With mining ``"class"``, the share of each propagated class, the most confident, that is trained on.
    times : StageTimes, optional
        Told what the stages ``graph``, ``propagate`` and ``mine`` take.

    Returns
    -------
    Mined
    """
    times = times or StageTimes()
    with times.stage("graph"):
        graph = sf.knn_graph(z, config.neighbors)
    known = torch.from_numpy(labels)
    if config.mining == "neighborhood":
        with times.stage("propagate"):
            affinity = sf.propagate_affinity(graph, known, gamma=config.gamma)
        with times.stage("mine"):
            triplets = sf.mine_triplets(graph, affinity)
        mass = affinity.class_mass.numpy()
        shares = mass / np.maximum(mass.sum(0), np.finfo(mass.dtype).tiny)  # of each class's mass, as propagate_labels
        propagated = affinity.classes.numpy()[shares.argmax(1)]
        return Mined(
            partial(neighborhood_batches, triplets, config.batch_size),
            -(-len(triplets) // config.batch_size),
            len(triplets),
            np.where(labels >= 0, labels, propagated),
            triplets,
        )
    with times.stage("propagate"):
        posteriors = sf.propagate_labels(graph, known, gamma=config.gamma, tol=TOLERANCE).posteriors.numpy()
    classes = np.unique(labels[labels >= 0])
    posteriors[labels >= 0] = labels[labels >= 0, None] == classes  # a label is certain
    chosen = most_confident(posteriors, share)
    return Mined(
        partial(class_batches, chosen, torch.from_numpy(posteriors.argmax(1)), config),
        -(-len(chosen) // config.batch_size),
        len(chosen) * config.triplets_per_example,
        classes[posteriors.argmax(1)],
    )


def most_confident(posteriors: np.ndarray, share: float) -> np.ndarray:
    """Choose the most confident examples of each class, so that none is left out for being hard.

    Parameters
    ----------
    posteriors : (N, C) array
        Class probabilities; an example's class is its most probable one, its confidence that entry.
    share : float
        Of the examples of each class, in (0, 1], rounded up.

    Returns
    -------
    int64 array
        Ascending indices; the first of equals are taken.

    Examples
    --------
    >>> import numpy as np
    >>> most_confident(np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6]]), 0.5)
    array([0, 2])
    """
    classes, confidence = posteriors.argmax(1), posteriors.max(1)
    order = np.lexsort((-confidence, classes))  # by class, then by confidence
    sizes = np.bincount(classes, minlength=posteriors.shape[1])
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.ceil(share * sizes)[classes[order]]])


def neighborhood_batches(triplets: Tensor, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield mini-batches of `size` triplets in random order; each example in one is embedded once."""
    for batch in triplets[torch.from_numpy(rng.permutation(len(triplets)))].split(size):
        rows, batch = torch.unique(batch, return_inverse=True)
        yield rows, lambda z, batch=batch: batch  # type: ignore[misc]


def class_batches(chosen: np.ndarray, classes: Tensor, config: Config, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield mini-batches of the chosen examples in random order, which draw triplets by class as they are embedded.

    Parameters
    ----------
    chosen : int64 array
        Examples to train on.
    classes : (N,) int64 tensor
        Class of each example of the partition.
    config : Config
        `batch_size` examples, `triplets_per_example`, `hard_negatives`.
    rng : numpy.random.Generator
        Source of the order and of the triplets.

    Yields
    ------
    Batch
    """
    n_classes = int(classes.max()) + 1
    for rows in torch.from_numpy(rng.permutation(chosen)).split(config.batch_size):
        certain = torch.nn.functional.one_hot(classes[rows], n_classes).float()
        yield rows, partial(_draw, certain, config, int(rng.integers(2**63)))


def _draw(certain: Tensor, config: Config, seed: int, z: Tensor) -> Tensor:
    n_triplets = config.triplets_per_example * len(certain)
    hard = config.hard_negatives
    return sf.mine_class_triplets(certain, n_triplets, seed=seed, z=z if hard else None, n_nearest=max(hard, 1))
