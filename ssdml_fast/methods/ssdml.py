"""SSDML: triplets from propagated affinities or classes, and an angular loss under an orthogonal metric L."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ssdml_fast as sf

from .._run.mine_class_triplets import draw
from ..graph import KnnGraph
from ..models.metric import MetricModel
from ..nn import OrthogonalMetric
from ..optim import CayleySGD
from ..train.aid import Aid
from ..train.batches import batch_sizes
from ..train.config import Config
from ..train.method import Batch, Leg, TrainingSet, Work
from .graph import GraphMethod, undecided
from .settings import SSDMLSettings
from .warmup import labelled_batches

TOLERANCE = 1e-4  # of propagated class probabilities, which are only ranked and compared
CG_ITERATIONS = 10  # at once, as in the paper


@dataclass(frozen=True)
class Mined:
    """Triplets of a mini-batch, as positions among its rows; None: to be drawn by the rows' classes and a seed."""

    triplets: Tensor | None = None
    classes: Tensor | None = None
    seed: int = 0


class SSDML(GraphMethod):
    """Lowers the angular loss of triplets that are mined from a partition's graph, with L orthogonal throughout.

    Source: Dutta, Harandi, Sekhar, "Semi-Supervised Metric Learning: A Deep Resurrection", AAAI 2021.
    """

    Settings = SSDMLSettings

    def __init__(self, settings: SSDMLSettings, model: MetricModel, data: TrainingSet, seed: int) -> None:
        super().__init__(settings, model, data, seed)
        if settings.mining == "class" and len(data.classes) == len(data):
            raise ValueError(
                "train labels must give at least two examples to one class, or leave some unlabelled, with mining "
                f"'class', found a class of its own for each of the {len(data)} examples"
            )

    def check(self, config: Config) -> None:
        """Refuse mini-batches in which there can be no triplet."""
        if self.settings.mining == "class" and config.batch_size < 3:
            raise ValueError(
                "batch_size must be at least 3 with mining 'class', which draws triplets within mini-batches, found "
                f"{config.batch_size}"
            )

    def head_optimizer(self, head: nn.Module, config: Config) -> torch.optim.Optimizer:
        """Cayley steps, or such as do not keep L orthogonal."""
        is_orthogonal = self.settings.metric_update != "unconstrained"
        return CayleySGD(head.parameters(), config.metric_step, stiefel=is_orthogonal)

    # --- what a partition trains on -----------------------------------------------------------------------------------

    def mine(self, leg: Leg, members: np.ndarray, z: Tensor, graph: KnnGraph, aid: Aid) -> Work:
        """Propagate the labels, and take the triplets of each neighbourhood or the confidently classed examples."""
        of_neighborhoods = self.settings.mining == "neighborhood"
        return (self.mine_neighborhoods if of_neighborhoods else self.mine_classes)(leg, members, graph, aid)

    def mine_neighborhoods(self, leg: Leg, members: np.ndarray, graph: KnnGraph, aid: Aid) -> Work:
        """The paper's triplets: each example with the two halves of its neighbourhood, by affinity."""
        size, labels = aid.config.batch_size, self.data.labels[members]
        with aid.stage("propagate"):
            known = aid.send(torch.from_numpy(labels))
            affinity = sf.distributed.propagate_affinity(graph, known, gamma=self.settings.gamma)
        with aid.stage("mine"):
            triplets = sf.mine_triplets(graph, affinity)
        mass = affinity.class_mass.cpu().numpy()
        shares = mass / np.maximum(mass.sum(0), np.finfo(mass.dtype).tiny)  # of each class's mass, as propagate_labels
        propagated = np.where(mass.any(1), affinity.classes.cpu().numpy()[shares.argmax(1)], -1)
        propagated = np.where(labels >= 0, labels, propagated)
        n_batches = -(-len(triplets) // size)
        batches = partial(neighborhood_batches, members, triplets.cpu(), size)
        return Work(
            self.beside_softmax(batches, n_batches, size), n_batches, {"triplets": len(triplets)},
            (members, propagated), (members, triplets),
        )  # fmt: skip

    def mine_classes(self, leg: Leg, members: np.ndarray, graph: KnnGraph, aid: Aid) -> Work:
        """The most confident examples of each propagated class; their triplets are drawn as they are embedded."""
        settings, size, labels = self.settings, aid.config.batch_size, self.data.labels[members]
        with aid.stage("propagate"):
            known = aid.send(torch.from_numpy(labels))
            found = sf.distributed.propagate_labels(graph, known, gamma=settings.gamma, tol=TOLERANCE)
            posteriors = found.posteriors.cpu().numpy()
        classes = np.unique(labels[labels >= 0])
        posteriors[labels >= 0] = labels[labels >= 0, None] == classes  # a label is certain
        unknown = undecided(posteriors, graph, labels)
        posteriors[unknown] = 0
        chosen = most_confident(posteriors, self.share(leg))
        sizes = batch_sizes(len(chosen), size)
        n_batches = len(sizes)
        batches = partial(class_batches, members, chosen, torch.from_numpy(posteriors.argmax(1)), sizes)
        return Work(
            self.beside_softmax(batches, n_batches, size), n_batches,
            {"triplets": len(chosen) * settings.triplets_per_example},
            (members, np.where(unknown, -1, classes[posteriors.argmax(1)])),
        )  # fmt: skip

    def share(self, leg: Leg) -> float:
        """Share of each class, the most confident, that a partition trains on."""
        first, last = self.settings.confident, self.settings.confident_last
        done = leg.position[0] * self.per_round + leg.position[1]
        return first + (last - first) * done / max(self.n_partitions - 1, 1)

    def beside_softmax(self, batches: Any, n_batches: int, size: int) -> Any:
        """Give each mini-batch labelled examples beside its own, where the softmax goes on."""
        if not self.settings.softmax_weight:
            return batches

        def both(rng: np.random.Generator) -> Iterator[Batch]:
            labelled = labelled_batches(self.data.labelled, size, n_batches, rng)
            for batch in batches(rng):
                yield Batch(batch.rows, batch.extra, beside=next(labelled))

        return both

    # --- what is lowered ----------------------------------------------------------------------------------------------

    def begin_pass(self, work: Work, aid: Aid) -> None:
        """Solve for L on all triplets of a pass, with `metric_update` as ``"partition"``."""
        if self.settings.metric_update == "partition":
            members, triplets = work.state
            z = aid.features(members, average=False)
            with aid.stage("train"):
                self.solve(z, triplets, aid)

    def loss(self, batch: Batch, aid: Aid) -> Tensor | None:
        """Move L along the loss of a mini-batch; with that L, return the loss, and the softmax's on labelled ones."""
        z, alpha = aid.embed(batch.rows), self.settings.alpha
        with aid.stage("mine"):
            triplets = self.triplets(batch.extra, z.detach(), aid)
        if len(triplets) == 0:
            return None
        self.move_metric(z.detach(), triplets, aid)
        L = metric_of(aid).detach()
        loss = sf.angular_loss(z, triplets, L, alpha, reduction="mean")
        if batch.beside is None:
            return loss
        return loss + self.settings.softmax_weight * self.warmup.softmax_loss(batch.beside, aid, lambda z: z @ L)

    def triplets(self, mined: Mined, z: Tensor, aid: Aid) -> Tensor:
        """Triplets of a mini-batch, (T, 3) positions among its rows."""
        if mined.triplets is not None:
            return aid.send(mined.triplets)
        assert mined.classes is not None
        n_triplets = self.settings.triplets_per_example * len(z)
        return draw(mined.classes, n_triplets, mined.seed, z, self.settings.hard_negatives)

    def move_metric(self, z: Tensor, triplets: Tensor, aid: Aid) -> None:
        """Move L along the loss of a mini-batch, as `metric_update` says."""
        update, L = self.settings.metric_update, metric_of(aid)
        if update == "conjugate":
            self.solve(z, triplets, aid)
        elif update != "partition":
            _, _, gradient = sf.angular_loss_and_grad(z, triplets, L, self.settings.alpha, reduction="mean")
            aid.move_head([gradient])

    @torch.no_grad()
    def solve(self, z: Tensor, triplets: Tensor, aid: Aid) -> None:
        """Move L by Riemannian conjugate gradients on points that stay."""
        L = metric_of(aid)
        L.copy_(sf.riemannian_cg(L, z, triplets, self.settings.alpha, CG_ITERATIONS, reduction="mean").L)


def metric_of(aid: Aid) -> Tensor:
    """L as it is now."""
    assert isinstance(aid.head, OrthogonalMetric)
    return aid.head.L


def most_confident(posteriors: np.ndarray, share: float) -> np.ndarray:
    """Choose the most confident examples of each class, so that none is left out for being hard.

    Parameters
    ----------
    posteriors : (N, C) array
        Class probabilities; an example's class is its most probable one, its confidence that entry. A row of zeros has
        no class.
    share : float
        Of the examples of each class, in (0, 1], rounded up.

    Returns
    -------
    int64 array
        Ascending indices; the first of equals are taken, and none without a class.

    Examples
    --------
    >>> import numpy as np
    >>> most_confident(np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6]]), 0.5)
    array([0, 2])
    """
    classes, confidence = posteriors.argmax(1), posteriors.max(1)
    order = np.lexsort((-confidence, classes))  # by class, then by confidence
    order = order[confidence[order] > 0]
    sizes = np.bincount(classes[order], minlength=posteriors.shape[1])
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.ceil(share * sizes)[classes[order]]])


def neighborhood_batches(members: np.ndarray, triplets: Tensor, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield mini-batches of `size` triplets of a partition in random order; each example in one is embedded once."""
    of_all = torch.from_numpy(members)
    for batch in triplets[torch.from_numpy(rng.permutation(len(triplets)))].split(size):
        rows, batch = torch.unique(batch, return_inverse=True)
        yield Batch(of_all[rows], Mined(triplets=batch))


def class_batches(
    members: np.ndarray, chosen: np.ndarray, classes: Tensor, sizes: list[int], rng: np.random.Generator
) -> Iterator[Batch]:
    """Yield mini-batches of a partition's chosen examples in random order, with the class of each."""
    of_all = torch.from_numpy(members)
    for rows in torch.from_numpy(rng.permutation(chosen)).split(sizes):
        yield Batch(of_all[rows], Mined(classes=classes[rows], seed=int(rng.integers(2**63))))
