"""A method as a user would write it that needs no labels: each example is a class of its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssdml_fast.train import Aid, Batch, Leg, Method, Work, batch_sizes

TEMPERATURE = 0.2


class TwoViews(Method):
    """Pulls two augmented views of an example together, and pushes those of others away.

    Source: Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020.
    """

    needs_labels = False

    def legs(self):
        return [Leg("views", (0,), passes=2)]

    def prepare(self, leg, aid):
        sizes = batch_sizes(len(self.data), aid.config.batch_size)

        def batches(rng: np.random.Generator) -> Iterator[Batch]:
            return map(Batch, torch.from_numpy(rng.permutation(len(self.data))).split(sizes))

        return Work(batches, len(sizes))

    def loss(self, batch: Batch, aid: Aid) -> Tensor:
        images = aid.images(batch.rows)
        one, other = (F.normalize(aid.head(aid.forward(aid.augment(images)))) for _ in range(2))
        return F.cross_entropy(one @ other.T / TEMPERATURE, torch.arange(len(one), device=one.device))
