"""A default training from end to end, beside a like recipe in plain PyTorch; one thread or as many as are set.

    python benchmarks/bench_training.py mnist:PATH [--seed 0]

The plain one embeds each triplet's three images in three passes, builds graphs with faiss, inverts the dense matrix of
the closed form, draws triplets with NumPy and moves L by dense Cayley steps. It has the same warm-up, augmentation,
schedule, averages and validations, and as many anchors per epoch, but simpler triplets: one per anchor, its negative
drawn from all confident examples of other classes, where ours are ten, with hard negatives from the mini-batch. Prints
the time of each, the test figures of the model that each chose on validation images, and where our time went. No peer
is timed on other data than ours.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch

import ssdml_fast as sf
from ssdml_fast.data import Dataset, load
from ssdml_fast.evaluate import score_embedding
from ssdml_fast.models.metric import MetricModel, untrained
from ssdml_fast.models.networks import choose, prepared
from ssdml_fast.models.seeded import seeded
from ssdml_fast.train import Config, loop
from ssdml_fast.train.partition import partitions
from ssdml_fast.train.recipes import settings
from ssdml_fast.train.warmup import CosineSoftmax, warmup_batches

TRIPLETS = 100  # per mini-batch of the plain training, as in the paper


class Stages:
    """Wall time by stage, of functions that are wrapped; what they call that is wrapped too is not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def wrap(self, owner: Any, name: str, stage: str) -> Callable[[], None]:
        """Count the calls of ``owner.name`` to `stage`; returns what undoes it."""
        call = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                took = time.perf_counter() - began
                self.seconds[stage] += took - self._inner.pop()
                self._inner[-1] += took

        setattr(owner, name, timed)
        return lambda: setattr(owner, name, call)


def ours(data: Dataset, config: Config) -> tuple[MetricModel, dict[str, float]]:
    """Train by the library; returns the model, and seconds by stage."""
    stages = Stages()
    undo = [
        stages.wrap(sf, "knn_graph", "graph"),
        stages.wrap(sf, "propagate_labels", "propagation"),
        stages.wrap(sf, "mine_class_triplets", "mining"),
        stages.wrap(loop, "mine", "mining"),
        stages.wrap(MetricModel, "features", "embedding"),
        stages.wrap(loop, "score_embedding", "validation"),
        stages.wrap(loop, "fit", "updates of the network and L"),
    ]
    network = seeded(choose(data.images.shape[1:]).network, config.seed)
    try:
        fitted = loop.fit(network, data.images, data.labels, data.val_images, data.val_labels, config)
    finally:
        for u in reversed(undo):
            u()
    return fitted.model, dict(stages.seconds)


class Plain:
    """The recipe with simpler triplets, as a user of PyTorch, faiss and NumPy would write it."""

    def __init__(self, data: Dataset, config: Config) -> None:
        self.data, self.config = data, config
        network = seeded(choose(data.images.shape[1:]).network, config.seed)
        self.model = untrained(network, data.images, config.metric_dim, config.seed)
        self.average = copy.deepcopy(self.model)
        self.softmax = CosineSoftmax(config.metric_dim, 10, config.seed)
        parameters = [*network.parameters(), *self.softmax.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, weight_decay=config.weight_decay)
        self.images, self.steps = torch.from_numpy(data.images), 0
        self.best_score, self.best = -1.0, self.average.state_dict()

    def train(self) -> MetricModel:
        config, data = self.config, self.data
        rng = np.random.default_rng(config.seed)
        torch.manual_seed(config.seed)
        for i, rows in enumerate(warmup_batches(data.labels, config.batch_size, config.warmup, rng)):
            y = self.embed(rows) @ self.model.metric.L
            classes = torch.from_numpy(data.labels[rows.numpy()])
            rate = config.warmup_rate * min(1, (i + 1) / loop.RAMP) * _cosine(i / config.warmup)
            self.step(self.softmax(y, classes), rate)
            if (i + 1) % loop.WARMUP_EPOCH == 0:
                self.validate()
        parts = [part for _ in range(config.rounds) for part in partitions(data.labels, config.partition_size, rng)]
        for done, members in enumerate(parts):
            share = config.confident + (config.confident_last - config.confident) * done / max(len(parts) - 1, 1)
            classes, chosen = self.propagate(members, share)
            for epoch in range(config.epochs):
                anchors = rng.permutation(chosen)
                positives, negatives = self.draw(anchors, classes, chosen, rng)
                for first in range(0, len(anchors), TRIPLETS):
                    through = (done + (epoch + first / len(anchors)) / config.epochs) / len(parts)
                    batch = [members[rows[first : first + TRIPLETS]] for rows in (anchors, positives, negatives)]
                    self.step(self.loss(*batch), config.learning_rate * _cosine(through))
                self.validate()
        self.model.load_state_dict(self.best)
        return self.model

    def embed(self, rows: Any) -> torch.Tensor:
        self.model.network.train()
        return self.model.network(loop.AUGMENTATION[self.config.augment](self.images[rows]))

    def loss(self, anchors: Any, positives: Any, negatives: Any) -> torch.Tensor:
        y, near, far = (self.embed(rows) @ self.model.metric.L for rows in (anchors, positives, negatives))
        margin = 4 * math.tan(math.radians(self.config.alpha)) ** 2 * (far - (y + near) / 2).square().sum(1)
        return torch.nn.functional.softplus((y - near).square().sum(1) - margin).mean()

    def step(self, loss: torch.Tensor, rate: float) -> None:
        config, L = self.config, self.model.metric.L
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        L.grad = None
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            half = config.metric_step / 2 * (L.grad @ L.T - L @ L.grad.T)
            identity = torch.eye(len(half))
            L.copy_(torch.linalg.solve(identity + half, (identity - half) @ L))
            self.steps += 1
            decay = min(config.average, self.steps / (self.steps + 9))
            for mean, now in zip(self.average.network.parameters(), self.model.network.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
            self.average.metric.L.copy_(L)

    def propagate(self, members: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Classes by the dense closed form on the symmetrised graph, and the most confident of each."""
        config, labels = self.config, self.data.labels[members]
        z = self.average.features(self.images[members]).numpy()
        _, neighbours = faiss.knn(z, z, config.neighbors + 1)
        n = len(members)
        walk = torch.zeros(n, n)
        walk.scatter_(1, torch.from_numpy(neighbours), 1.0)
        walk.fill_diagonal_(0)
        walk = walk + walk.T
        walk /= walk.sum(1, keepdim=True)
        onehot = torch.from_numpy(labels[:, None] == np.arange(10)).float()
        mass = torch.linalg.inv(torch.eye(n) - config.gamma * walk) @ onehot
        posteriors = mass / mass.sum(0)
        posteriors = (posteriors / posteriors.sum(1, keepdim=True)).numpy()
        posteriors[labels >= 0] = onehot[labels >= 0]
        classes, confidence = posteriors.argmax(1), posteriors.max(1)
        chosen = []
        for c in range(10):
            own = np.flatnonzero(classes == c)
            chosen.append(own[np.argsort(-confidence[own], kind="stable")[: math.ceil(share * len(own))]])
        return classes, np.concatenate(chosen)

    def draw(
        self, anchors: np.ndarray, classes: np.ndarray, chosen: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        positives, negatives = anchors.copy(), anchors.copy()
        for c in range(10):
            of_class = classes[anchors] == c
            positives[of_class] = rng.choice(chosen[classes[chosen] == c], of_class.sum())
            negatives[of_class] = rng.choice(chosen[classes[chosen] != c], of_class.sum())
        return positives, negatives

    def validate(self) -> None:
        figures = score_embedding(self.average.embed(self.data.val_images), self.data.val_labels, ks=(1,))
        score = (figures["nmi"] + figures["recall@1"]) / 2
        if score > self.best_score:
            self.best_score, self.best = score, copy.deepcopy(self.average.state_dict())


def _cosine(through: float) -> float:
    return (1 + math.cos(math.pi * through)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="KIND:PATH of ten classes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = prepared(load(arguments.data, arguments.seed, 100 if arguments.data.startswith("cifar10") else 10))
    own = settings("default", data.images.shape[1:])
    config = Config(**own | {"seed": arguments.seed, "patience": 10**6})  # the plain training does not stop early
    seconds = {}
    for name in ("ssdml_fast", "plain PyTorch"):
        began = time.perf_counter()
        if name == "ssdml_fast":
            model, stages = ours(data, config)
        else:
            model = Plain(data, config).train()
        seconds[name] = time.perf_counter() - began
        figures = score_embedding(model.embed(data.test_images), data.test_labels, ks=(1,))
        print(
            f"{name:14} {seconds[name]:7.1f} s  NMI {100 * figures['nmi']:.1f}  R@1 {100 * figures['recall@1']:.1f}",
            flush=True,
        )
        if name == "ssdml_fast":
            total = sum(stages.values())
            for stage, took in sorted(stages.items(), key=lambda item: -item[1]):
                print(f"  {stage:30} {took:7.1f} s {took / total:6.1%}", flush=True)
    print(f"{seconds['plain PyTorch'] / seconds['ssdml_fast']:.1f} times faster on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
