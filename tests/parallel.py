"""Networks and a method that are hard on processes which train together."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from trainings import Normed

from ssdml_fast.train import Batch, Leg, Method, Work


class Idle(Normed):
    """Has a part that is never used."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Linear(3, 4)


class Fickle(Normed):
    """Leaves out one part, and later another."""

    n_calls = 0

    def __init__(self):
        super().__init__()
        self.last = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))

    def forward(self, images):
        self.n_calls += self.training
        z = self.layers(images)
        if self.n_calls < 3:
            z = self.last[0](z)
        return F.normalize(self.last[1](z))


class Views(Method):
    """Has mini-batches without a loss, others whose loss is not the network's, and several views of an example."""

    def legs(self):
        return [Leg("views", (0,), passes=2)]

    def prepare(self, leg, aid):
        rows = torch.from_numpy(self.data.labelled)
        batches = [Batch(rows[i : i + 20], i, beside=rows[-20:]) for i in range(0, 60, 10)]
        return Work(lambda rng: iter(batches), len(batches))

    def loss(self, batch, aid):
        one, other = aid.embed(batch.rows), aid.forward(aid.augment(aid.images(batch.beside)))
        if batch.extra == 10:
            return None
        if batch.extra == 20:
            return (aid.head(one.detach()) @ aid.head(other.detach()).T).square().mean()
        if batch.extra == 30:
            return aid.head(one).square().mean()
        taught = aid.forward(aid.images(batch.rows), average=True)
        return (aid.head(one) @ aid.head(other).T).square().mean() + (one - taught).square().sum(1).mean()
