"""What tests of trainings share: 400 digits, small networks, and how two trainings are compared."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ssdml_fast._settings import divided
from ssdml_fast.data.digits import load_digits
from ssdml_fast.data.examples import as_examples
from ssdml_fast.methods import load_method
from ssdml_fast.models.metric import untrained
from ssdml_fast.models.seeded import seeded
from ssdml_fast.train import Config, TrainingSet, fit
from ssdml_fast.train.device import surroundings
from ssdml_fast.train.engine import Engine

TINY = {
    "rounds": 2, "partition_size": 120, "epochs": 1, "metric_dim": 16, "warmup": 20, "augment": "affine", "mixup": 0.2,
    "softmax_weight": 0.5,
}  # fmt: skip


@functools.cache
def digits():
    """400 digits, 10 labels per class, and the validation digits: images and labels of both."""
    data = load_digits(0)
    keep = np.concatenate([np.flatnonzero(data.labels >= 0), np.flatnonzero(data.labels < 0)[:300]])
    for array in (images := data.images[keep], labels := data.labels[keep], data.val_images, data.val_labels):
        array.setflags(write=False)  # no training writes into its data
    return (images, labels), (data.val_images, data.val_labels)


def few_digits():
    """The same, of which two of each class have their label."""
    (images, labels), val = digits()
    known = np.full_like(labels, -1)
    for c in range(10):
        known[np.flatnonzero(labels == c)[:2]] = c
    return (images, known), val


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 32))

    def forward(self, images):
        return F.normalize(self.layers(images))


class Normed(nn.Module):
    """Normalises batches, and draws nothing."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(128, 48, bias=False), nn.BatchNorm1d(48, affine=False, momentum=None), nn.ReLU(),
            nn.Linear(48, 32),
        )  # fmt: skip

    def forward(self, images):
        return F.normalize(self.layers(images))


class Pixels(nn.Module):
    """Has nothing to learn."""

    def forward(self, images):
        return F.normalize(images.flatten(1))


def train(settings=None, network=None, data=None, method="ssdml", **others):
    """Fit on the CPU, by settings of the method and of the engine together."""
    kind = load_method(method)
    own, engines = divided(settings or {}, kind.Settings, Config)
    network = seeded(SmallNet, 0) if network is None else network
    data = data or digits()
    return fit(network, *data, method=method, settings=own, config=Config(**engines), device="cpu", **others)


class Enough(Exception):
    """Nothing more is to be seen."""


def watched(settings, network, to_the_end=False, **others):
    """The first twenty losses of a training, what it had come to after each, and, `to_the_end`, its result."""
    losses, states, step = [], [], Engine.step

    def watch(self, *given):
        if len(losses) == 20 and not to_the_end:
            raise Enough
        loss = step(self, *given)
        if loss is not None and len(losses) < 20:
            modules = {"model": self.model, "average": self.average, "method": self.method}
            losses.append(loss.item())
            states.append({
                f"{name}.{key}": tensor.clone()
                for name, module in modules.items() for key, tensor in module.state_dict().items()
            })  # fmt: skip
        return loss

    Engine.step = watch
    try:
        return losses, states, train(settings, network, **others)
    except Enough:
        return losses, states, None
    finally:
        Engine.step = step


def engine(settings, network=None, data=None, method="ssdml"):
    """The engine of a training that has not begun."""
    method = load_method(method)
    own, engines = divided(settings, method.Settings, Config)
    (images, labels), (val_images, val_labels) = data or digits()
    config = Config(**engines)
    device = torch.device("cpu")
    with surroundings(device, tf32=False):
        network = seeded(SmallNet, 0) if network is None else network
        model = untrained(network, images[:1].copy(), config.metric_dim, config.seed, method.Head)
        known = TrainingSet(np.asarray(labels), images.shape[1:])
        made = method(method.Settings(**own), model, known, config.seed)
        val = as_examples(val_images, "val")
        return Engine(model, made, as_examples(images, "train"), known, val, val_labels, config, device)


def figures(history):
    """What the records of a training say but for the times."""
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


def assert_same(one, other):
    """Two trainings reached the same, bit for bit."""
    assert one.stopped == other.stopped
    assert figures(one.history) == figures(other.history)
    first, second = one.model.state_dict(), other.model.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def interrupt(validation, done=None):
    """What interrupts a training as it is told of a validation, or of a mini-batch before it."""

    def told(record):
        if record["validation"] == validation and (done is None or record["done"] == done):
            raise KeyboardInterrupt

    return told


class CutOff(BaseException):
    """Ends a training as a process ends that is killed: nothing more is saved."""


def cut_off(*after, told=None):
    """What cuts a training off after so many mini-batches, of it and of each that goes on with it."""
    after = list(after)

    def on_batch(record):
        if told is not None:
            told.append((record["validation"], record["done"]))
        if after:
            after[0] -= 1
            if after[0] == 0:
                del after[0]
                raise CutOff

    return on_batch
