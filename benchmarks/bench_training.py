"""A default training from end to end, beside the same recipe in plain PyTorch; one thread or as many as are set.

    python benchmarks/bench_training.py mnist:PATH [--partitions 1] [--peer-triplets 10] [--seed 0]

The plain one has the same warm-up, augmentation, steps, schedules, averages, validations and draw of triplets. It
embeds the examples of a mini-batch, which are the anchors, and then the positives and the negatives of its triplets,
each in a pass of their own; builds graphs with faiss, inverts the dense matrix of the closed form, draws triplets in
NumPy and moves L by dense Cayley steps.
`--partitions` shortens both trainings to so many partitions, with schedules to match; `--peer-triplets 1` has the plain
one draw one triplet per example rather than as many as ours, the least that three passes can embed. Prints the time of
each, where it went, and the test figures of the model that each chose on validation images.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import faiss
import numpy as np
import torch

from ssdml_fast._settings import divided
from ssdml_fast.data import Dataset, load
from ssdml_fast.evaluate import score_embedding
from ssdml_fast.methods.partition import partitions
from ssdml_fast.methods.recipes import settings as recipe_settings
from ssdml_fast.methods.settings import SSDMLSettings
from ssdml_fast.methods.warmup import PART, RAMP, CosineSoftmax, labelled_batches
from ssdml_fast.models.metric import MetricModel
from ssdml_fast.models.networks import Choice, choose
from ssdml_fast.models.seeded import seeded
from ssdml_fast.train import Config, fit
from ssdml_fast.train.aid import AUGMENTATION
from ssdml_fast.train.timing import StageTimes


def ours(
    choice: Choice, data: Dataset, settings: SSDMLSettings, config: Config
) -> tuple[MetricModel, dict[str, float]]:
    """Train by the library; returns the model, and seconds by stage."""
    seconds: dict[str, float] = defaultdict(float)

    def add(record: dict[str, Any]) -> None:
        for stage, took in record["seconds"].items():
            seconds["warm-up" if stage == "train" and record["round"] == 0 else stage] += took

    network = seeded(choice.network, config.seed)
    fitted = fit(network, data, settings=settings, config=config, device="cpu", on_validation=add)
    return fitted.model, seconds


class Plain:
    """The recipe as a user of PyTorch, faiss and NumPy would write it."""

    def __init__(self, choice: Choice, data: Dataset, settings: SSDMLSettings, config: Config) -> None:
        self.data, self.settings, self.config = data, settings, config
        self.model = choice.untrained(data.images, config.metric_dim, config.seed)
        network = self.model.network
        network.to(memory_format=torch.contiguous_format)  # as PyTorch makes it
        self.average = copy.deepcopy(self.model)
        self.softmax = CosineSoftmax(config.metric_dim, 10, config.seed)
        parameters = [*network.parameters(), *self.softmax.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, weight_decay=config.weight_decay)
        self.images, self.steps = torch.from_numpy(data.images), 0
        self.best_score, self.best = -1.0, self.average.state_dict()
        self.times = StageTimes()

    def train(self) -> MetricModel:
        data, settings, config, stage = self.data, self.settings, self.config, self.times.stage
        rng = np.random.default_rng(config.seed)
        torch.manual_seed(config.seed)
        self.validate()
        labelled = np.flatnonzero(data.labels >= 0)
        for i, rows in enumerate(labelled_batches(labelled, config.batch_size, settings.warmup, rng)):
            with stage("warm-up"):
                y = self.embed(rows) @ self.model.metric.L
                classes = torch.from_numpy(data.labels[rows.numpy()])
                rate = settings.warmup_rate * min(1, (i + 1) / RAMP) * _cosine(i / settings.warmup)
                self.step(self.softmax(y, classes), rate)
            if (i + 1) % PART == 0:
                self.validate()
        size = settings.partition_size
        parts = [part for _ in range(settings.rounds) for part in partitions(data.labels, size, rng)]
        n_partitions = len(parts)
        if settings.max_epochs:
            parts = parts[: settings.max_epochs // settings.epochs]
        for done, members in enumerate(parts):
            through = done / max(n_partitions - 1, 1)
            share = settings.confident + (settings.confident_last - settings.confident) * through
            classes, chosen = self.propagate(members, share)
            for epoch in range(settings.epochs):
                with stage("train"):
                    anchors = rng.permutation(chosen)
                    for first in range(0, len(anchors), config.batch_size):
                        rows = anchors[first : first + config.batch_size]
                        through = (done + (epoch + first / len(anchors)) / settings.epochs) / len(parts)
                        loss = self.loss(members[rows], classes[rows], rng)
                        self.step(loss, config.learning_rate * _cosine(through))
                self.validate()
        self.model.load_state_dict(self.best)
        return self.model

    def embed(self, rows: Any) -> torch.Tensor:
        self.model.network.train()
        return self.model.network(AUGMENTATION[self.config.augment](self.images[rows], None))

    def loss(self, rows: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Loss of triplets that are drawn among the examples `rows`, in three passes."""
        z = self.embed(rows)
        with self.times.stage("mine"):
            anchors, positives, negatives = self.draw(z.detach().numpy(), classes, rng)
        passes = z[anchors], self.embed(rows[positives]), self.embed(rows[negatives])
        y, near, far = (z @ self.model.metric.L for z in passes)
        margin = 4 * math.tan(math.radians(self.settings.alpha)) ** 2 * (far - (y + near) / 2).square().sum(1)
        return torch.nn.functional.softplus((y - near).square().sum(1) - margin).mean()

    def draw(self, z: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Triplets of a mini-batch, negatives among the nearest of other classes."""
        same = classes[:, None] == classes
        distances = np.where(same, np.inf, ((z * z).sum(1) - 2 * z @ z.T))
        hard = min(self.settings.hard_negatives, int((~same).sum(1).min()))
        nearest = np.argpartition(distances, hard - 1, 1)[:, :hard]
        np.fill_diagonal(same, False)
        others = np.argsort(~same, 1, kind="stable")  # of the class come first
        anchors = rng.choice(np.flatnonzero(same.any(1)), self.settings.triplets_per_example * len(z))
        positives = others[anchors, rng.integers(0, same.sum(1)[anchors])]
        negatives = nearest[anchors, rng.integers(0, hard, len(anchors))]
        return anchors, positives, negatives

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
        labels, n = self.data.labels[members], len(members)
        with self.times.stage("embed"):
            z = self.features(self.images[members]).numpy()
        with self.times.stage("graph"):
            _, neighbours = faiss.knn(z, z, self.settings.neighbors + 1)
        with self.times.stage("propagate"):
            walk = torch.zeros(n, n)
            walk.scatter_(1, torch.from_numpy(neighbours), 1.0)
            walk.fill_diagonal_(0)
            walk = walk + walk.T
            walk /= walk.sum(1, keepdim=True)
            onehot = torch.from_numpy(labels[:, None] == np.arange(10)).float()
            mass = torch.linalg.inv(torch.eye(n) - self.settings.gamma * walk) @ onehot
            posteriors = mass / mass.sum(0)
            posteriors = (posteriors / posteriors.sum(1, keepdim=True)).numpy()
            posteriors[labels >= 0] = onehot[labels >= 0]
        classes, confidence = posteriors.argmax(1), posteriors.max(1)
        chosen = []
        for c in range(10):
            own = np.flatnonzero(classes == c)
            chosen.append(own[np.argsort(-confidence[own], kind="stable")[: math.ceil(share * len(own))]])
        return classes, np.concatenate(chosen)

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.average.network.eval()
        return torch.cat([self.average.network(batch) for batch in images.split(1000)])

    def validate(self) -> None:
        with self.times.stage("validate"):
            embedding = self.average.metric(self.features(torch.from_numpy(self.data.val_images))).detach().numpy()
            figures = score_embedding(embedding, self.data.val_labels, ks=(1,))
        score = (figures["nmi"] + figures["recall@1"]) / 2
        if score > self.best_score:
            self.best_score, self.best = score, copy.deepcopy(self.average.state_dict())


def _cosine(through: float) -> float:
    return (1 + math.cos(math.pi * through)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="KIND:PATH of ten classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--partitions", type=int, default=0, help="of both trainings; 0: all")
    parser.add_argument("--peer-triplets", type=int, help="per example of the plain training; default: as ours")
    parser.add_argument("--precision", default="float32", help="of our training")
    arguments = parser.parse_args()
    examples = load(arguments.data, arguments.seed, 100 if arguments.data.startswith("cifar10") else 10)
    shape = examples.images.shape[1:]
    choice = choose(shape)
    data = choice.prepared(examples)
    own = {"seed": arguments.seed, "patience": 10**6}  # the plain training does not stop early
    own = recipe_settings("ssdml", "default", shape) | own
    of_method, of_engine = divided(own, SSDMLSettings, Config)
    settings, config = SSDMLSettings(**of_method), Config(**of_engine)
    settings = replace(settings, max_epochs=arguments.partitions * settings.epochs)
    peers = settings.triplets_per_example if arguments.peer_triplets is None else arguments.peer_triplets
    print(f"{torch.get_num_threads()} threads, {arguments.data}; triplets per example: {settings.triplets_per_example}")
    totals = []
    for name in ("ssdml_fast", "plain PyTorch"):
        began = time.perf_counter()
        if name == "ssdml_fast":
            model, stages = ours(choice, data, settings, replace(config, precision=arguments.precision))
        else:
            plain = Plain(choice, data, replace(settings, triplets_per_example=peers), config)
            model, stages = plain.train(), plain.times.take()
        totals.append(time.perf_counter() - began)
        figures = score_embedding(model.embed(data.test_images), data.test_labels, ks=(1,))
        print(f"{name}: {totals[-1]:.1f} s; test NMI {100 * figures['nmi']:.1f}  R@1 {100 * figures['recall@1']:.1f}")
        for stage, took in sorted(stages.items(), key=lambda item: -item[1]):
            print(f"  {stage:10} {took:7.1f} s {took / totals[-1]:6.1%}", flush=True)
    print(f"{totals[1] / totals[0]:.1f} times faster than plain PyTorch with {peers} triplets per example")


if __name__ == "__main__":
    main()
