"""What a step of a default training takes beside its network, loss and kernels.

    python benchmarks/studies/step_overhead.py mnist:PATH cifar10:PATH [--steps 200] [--warmup 100] [--threads 2]

After each step of the engine a bare loop takes the step before it on a model of its own: network, triplets, loss,
backward, optimisers, on the same examples with the same random draws. Its losses must be the engine's, to the last bit.
What it does is timed in three parts: the images (fetched and augmented), network with loss and kernels, and the running
mean of the weights. What the engine took beyond them is its own. Prints medians over the steps, of the warm-up and of
the partitions apart. On a machine that does other work too, count CPU time, of one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import ssdml_fast as sf
from ssdml_fast._run.mine_class_triplets import draw
from ssdml_fast._settings import divided
from ssdml_fast.data import Dataset, load
from ssdml_fast.data.augment import mix_up
from ssdml_fast.methods.recipes import settings as recipe_settings
from ssdml_fast.methods.settings import SSDMLSettings
from ssdml_fast.methods.ssdml import SSDML
from ssdml_fast.methods.warmup import RAMP, CosineSoftmax
from ssdml_fast.models.networks import Choice, choose
from ssdml_fast.models.seeded import seeded
from ssdml_fast.optim import CayleySGD
from ssdml_fast.train import Aid, Batch, Config, fit
from ssdml_fast.train.aid import AUGMENTATION

PARTS = ("images", "network, loss, kernels", "running mean")


class Enough(Exception):
    """As many steps as were asked for."""


class Bare:
    """The steps of SSDML, with mining 'class' and Cayley steps, as a loop of its own."""

    def __init__(
        self, choice: Choice, data: Dataset, settings: SSDMLSettings, config: Config, clock: Callable[[], float]
    ) -> None:
        self.settings, self.config, self.clock = settings, config, clock
        self.images = torch.from_numpy(data.images)
        self.classes = torch.from_numpy(data.labels)  # 0 … C - 1
        self.n_classes = len(data.classes)
        model = choice.untrained(data.images, config.metric_dim, config.seed)
        self.network, self.L = model.network, model.metric.L
        self.softmax = CosineSoftmax(config.metric_dim, self.n_classes, config.seed)
        parameters = [*self.network.parameters(), *self.softmax.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, config.learning_rate, weight_decay=config.weight_decay)
        self.cayley = CayleySGD([self.L], config.metric_step)
        self.mean = copy.deepcopy(self.network)
        self.steps = 0

    def step(self, batch: Batch, through: float) -> tuple[float, dict[str, float]]:
        """Take a step; return its loss, and the seconds of its parts."""
        times = [self.clock()]
        is_warmup = batch.extra is None
        images = None if is_warmup else self.augmented(batch.rows)
        labelled = batch.rows if is_warmup else batch.beside
        mixed = None if labelled is None else self.mixed(labelled)
        times.append(self.clock())
        self.network.train()
        loss = None if images is None else self.triplet_loss(self.network(images), batch)
        if mixed is not None:
            softmax = self.softmax(self.network(mixed[0]) @ (self.L if is_warmup else self.L.detach()), mixed[1])
            loss = softmax if loss is None else loss + self.settings.softmax_weight * softmax
        assert loss is not None
        rate = self.config.learning_rate
        if is_warmup:
            rate = self.settings.warmup_rate * min(1, (self.steps + 1) / RAMP)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * ((1 + math.cos(math.pi * through)) / 2)
        self.optimizer.zero_grad()
        self.L.grad = None
        loss.backward()
        self.optimizer.step()
        if self.L.grad is not None:
            self.cayley.step()
        self.steps += 1
        times.append(self.clock())
        decay = min(self.config.average, self.steps / (self.steps + 9))
        with torch.no_grad():
            for mean, now in zip(self.mean.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        times.append(self.clock())
        return loss.item(), dict(zip(PARTS, np.diff(times).tolist(), strict=True))

    def augmented(self, rows: Tensor) -> Tensor:
        return AUGMENTATION[self.config.augment](self.images[rows], None)

    def mixed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        images, classes = self.augmented(rows), self.classes[rows]
        if not self.settings.mixup:
            return images, classes
        return mix_up(images, F.one_hot(classes, self.n_classes).to(images), self.settings.mixup)

    def triplet_loss(self, z: Tensor, batch: Batch) -> Tensor:
        settings = self.settings
        n_triplets = settings.triplets_per_example * len(z)
        triplets = draw(batch.extra.classes, n_triplets, batch.extra.seed, z.detach(), settings.hard_negatives)
        _, _, gradient = sf.angular_loss_and_grad(z.detach(), triplets, self.L, settings.alpha, reduction="mean")
        self.L.grad = gradient
        self.cayley.step()
        return sf.angular_loss(z, triplets, self.L.detach(), settings.alpha, reduction="mean")


def compare(data: str, seed: int, n_steps: int, warmup: int, clock: Callable[[], float]) -> None:
    """Train by the engine and take each step again; print where the time of a step goes."""
    examples = load(data, seed, 100 if data.startswith("cifar10") else 10)
    shape = examples.images.shape[1:]
    choice = choose(shape)
    dataset = choice.prepared(examples)
    own = recipe_settings("ssdml", "default", shape) | {"seed": seed, "warmup": warmup, "patience": 10**6}
    of_method, of_engine = divided(own, SSDMLSettings, Config)
    settings, config = SSDMLSettings(**of_method), Config(**of_engine)
    bare = Bare(choice, dataset, settings, config, clock)
    steps: dict[str, list[tuple[float, ...]]] = defaultdict(list)  # by kind: the engine's seconds, and of each part
    taken: deque[dict[str, Any]] = deque()  # by the engine, not yet by the bare loop
    began = math.nan

    def begins(batch: Batch, aid: Aid) -> None:
        taken.append({"batch": batch, "through": aid.through, "random": torch.get_rng_state()})

    class Watched(SSDML):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            of_warmup = self.warmup.loss
            self.warmup.loss = lambda batch, aid: (begins(batch, aid), of_warmup(batch, aid))[1]

        def loss(self, batch: Batch, aid: Aid) -> Tensor | None:
            begins(batch, aid)
            return super().loss(batch, aid)

    def on_batch(told: dict[str, Any]) -> None:
        nonlocal began
        taken[-1] |= {"seconds": clock() - began, "told": told}
        if len(taken) > 1:
            take_again(**taken.popleft())
        began = clock()

    def take_again(batch: Batch, through: float, random: Tensor, seconds: float, told: dict[str, Any]) -> None:
        after = torch.get_rng_state()
        torch.set_rng_state(random)
        loss, parts = bare.step(batch, through)
        torch.set_rng_state(after)
        assert loss == told["loss"], f"step {bare.steps}: the bare loop's loss is {loss}, the engine's {told['loss']}"
        kind = "warm-up" if batch.extra is None else "partition"
        if told["done"] > 1:  # the first follows a validation
            steps[kind].append((seconds, *parts.values()))
        if len(steps["partition"]) == n_steps:
            raise Enough

    with contextlib.suppress(Enough):
        fit(seeded(choice.network, seed), dataset, None, Watched, settings, config, device="cpu", on_batch=on_batch)
    for kind, found in steps.items():
        table = np.array(found)
        whole, *parts = np.median(table, 0)
        rest = np.median(table[:, 0] - table[:, 1:].sum(1))
        print(f"{data.partition(':')[0]}, {len(table)} steps of the {kind}: {1e3 * whole:.2f} ms")
        for name, seconds in [*zip(PARTS, parts, strict=True), ("engine", rest)]:
            print(f"  {name:24} {1e3 * seconds:8.3f} ms {seconds / whole:7.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="digits, or KIND:PATH, as for ssdml-fast train --data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=200, help="of partitions")
    parser.add_argument("--warmup", type=int, default=100, help="steps before")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="of all threads, rather than wall time")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    torch.set_num_threads(arguments.threads)
    for data in arguments.data:
        compare(data, arguments.seed, arguments.steps, arguments.warmup, clock)


if __name__ == "__main__":
    main()
