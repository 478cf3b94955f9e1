"""A method as a user would write it: a contrastive loss on labelled examples, with a margin that is learnt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ssdml_fast.train import Aid, Batch, Leg, Method, Settings, Work, batch_sizes, setting


@dataclass(frozen=True)
class ContrastiveSettings(Settings):
    """Settings of the contrastive loss."""

    parts: int = setting(2, "Legs.", least=1)
    margin: float = setting(0.5, "Distance that is far enough, to begin with.", within="(0, 2]")


class Contrastive(Method):
    """Pulls examples of a class together, and pushes others further apart than a margin.

    Source: Hadsell, Chopra, LeCun, CVPR 2006.
    """

    Settings = ContrastiveSettings

    def __init__(self, settings, model, data, seed):
        super().__init__(settings, model, data, seed)
        data.require_classes()
        self.margin = nn.Parameter(torch.tensor(settings.margin))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("labels", torch.from_numpy(data.labels), persistent=False)

    def legs(self):
        return [Leg("pairs", (i,), passes=2, round=i + 1) for i in range(self.settings.parts)]

    def prepare(self, leg, aid):
        labelled = torch.from_numpy(self.data.labelled)
        sizes = batch_sizes(len(labelled), aid.config.batch_size)

        def batches(rng: np.random.Generator) -> Iterator[Batch]:
            order = torch.from_numpy(rng.permutation(len(labelled)))
            return map(Batch, labelled[order].split(sizes))

        return Work(batches, len(sizes), {"kind": "pairs"})

    def loss(self, batch: Batch, aid: Aid) -> Tensor | None:
        y, labels = aid.head(aid.embed(batch.rows)), self.labels[aid.send(batch.rows)]
        self.seen += len(labels)
        distance = torch.cdist(y, y)
        same = labels[:, None] == labels
        return torch.where(same, distance, torch.relu(self.margin - distance)).square().mean()


class WithoutHead(Contrastive):
    """The same, with the network's output as the embedding."""

    Head = torch.nn.Identity
