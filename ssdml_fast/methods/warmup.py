"""The warm-up: classing the labelled examples alone, before there is a graph worth propagating on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.augment import mix_up
from ..models.metric import MetricModel
from ..train.aid import Aid
from ..train.method import Batch, Leg, Method, TrainingSet, Work
from .settings import WarmupSettings

PART = 250  # mini-batches between two validations
RAMP = 50.0  # mini-batches in which the step grows to its size: full ones harm small untrained weights
BEFORE = 2**31  # in place of the round, in the seeds
SCALE = 16.0  # of the cosines: embeddings have length 1 at most, which is too short for a softmax to be sure
SHORT = 0.1  # of the directions' entries at first: the shorter, the faster steps of a given length turn them


class Warmup(Method):
    """Lowers the cross-entropy of a softmax on the embeddings of labelled examples.

    What precedes other methods; they may go on with its softmax by :meth:`softmax_loss`.
    """

    Settings = WarmupSettings
    numbers: Tensor  # of the classes, 0 … C - 1, by example

    def __init__(self, settings: WarmupSettings, model: MetricModel, data: TrainingSet, seed: int) -> None:
        super().__init__(settings, model, data, seed)
        data.require_classes()
        self.softmax = CosineSoftmax(model.dim, len(data.classes), seed)
        self.register_buffer("numbers", torch.from_numpy(np.searchsorted(data.classes, data.labels)), persistent=False)

    def legs(self) -> list[Leg]:
        """Return parts of at most PART mini-batches."""
        sizes = [min(PART, self.settings.warmup - first) for first in range(0, self.settings.warmup, PART)]
        return [
            Leg("warm-up", (BEFORE, i), round=0, rate=self.settings.warmup_rate, weight=size, ramp=RAMP, validations=1)
            for i, size in enumerate(sizes)
        ]

    def prepare(self, leg: Leg, aid: Aid) -> Work:
        """Nothing but to draw mini-batches."""
        n_batches = int(leg.weight)
        batches = partial(labelled_batches, self.data.labelled, aid.config.batch_size, n_batches)
        return Work(lambda rng: map(Batch, batches(rng)), n_batches, {"triplets": 0})

    def loss(self, batch: Batch, aid: Aid) -> Tensor:
        """How far the softmax is from telling the classes; it moves the head too."""
        return self.softmax_loss(batch.rows, aid, aid.head)

    def softmax_loss(self, rows: Tensor, aid: Aid, head: Callable[[Tensor], Tensor]) -> Tensor:
        """How far the softmax is from telling the classes of labelled examples, augmented and mixed up."""
        images, classes = aid.augment(aid.images(rows)), self.numbers[aid.send(rows)]
        if self.settings.mixup:
            shares = F.one_hot(classes, len(self.data.classes)).to(images)
            images, classes = mix_up(images, shares, self.settings.mixup)
        return self.softmax(head(aid.forward(images)), aid.send(classes))


class CosineSoftmax(nn.Module):
    """Cross-entropy of a softmax on scaled products of embeddings with one direction per class, without biases.

    Only the embedding is of use afterwards; its examples of a class lie along one direction, as k-means and nearest
    neighbours like them. Source: Wang et al., "NormFace", ACM Multimedia 2017.

    Parameters
    ----------
    dim : int
        Dimension of the embedding.
    n_classes : int
        Number of classes.
    seed : int
        Decides the directions to begin with.

    Examples
    --------
    >>> import torch
    >>> softmax = CosineSoftmax(dim=2, n_classes=3, seed=0)
    >>> softmax(torch.zeros(4, 2), torch.tensor([0, 1, 2, 0])).item() == torch.tensor(3.0).log().item()
    True
    """

    def __init__(self, dim: int, n_classes: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.directions = nn.Parameter(SHORT * torch.randn(dim, n_classes, generator=generator))

    def forward(self, y: Tensor, classes: Tensor) -> Tensor:
        """Mean loss of (B, dim) embeddings of known classes, as (B,) of 0 … n_classes - 1 or (B, n_classes) shares."""
        return F.cross_entropy(SCALE * y @ F.normalize(self.directions, dim=0), classes)


def labelled_batches(labelled: np.ndarray, size: int, n_batches: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield mini-batches of labelled examples in random order, none twice in a pass.

    What does not fill a last mini-batch waits for another pass's order.

    Parameters
    ----------
    labelled : int64 array
        Indices of the labelled examples.
    size : int
        Examples per mini-batch, or all labelled ones where they are fewer.
    n_batches : int
        Mini-batches to yield.
    rng : numpy.random.Generator
        Source of the random order.

    Yields
    ------
    int64 tensor
        Indices of examples.
    """
    size = min(size, len(labelled))
    while True:
        order = torch.from_numpy(rng.permutation(labelled))
        for batch in order[: len(order) // size * size].split(size):
            if n_batches == 0:
                return
            yield batch
            n_batches -= 1
