"""Which network, preparation and settings go with which examples, where the user brings no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.dataset import DataError, Dataset
from .digits import DigitsNet
from .paper import Cifar10Net, MnistNet
from .preparation import MeanImage, Whitening, apply


@dataclass(frozen=True)
class Choice:
    """What goes with examples of one shape.

    Attributes
    ----------
    network : callable
        Makes an untrained network; see :func:`~ssdml_fast.models.seeded.seeded`.
    preparation : callable
        Learns from uint8 training images how the network takes them; floats are taken as they are.
    settings : dict
        Of :class:`~ssdml_fast.train.Config`, in place of the defaults.
    paper : dict
        What the paper sets for such examples beside :data:`ssdml_fast.train.recipes.PAPER`.
    """

    network: Callable[[], nn.Module]
    preparation: Callable[[Tensor], nn.Module] = MeanImage
    settings: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, Any] = field(default_factory=dict)


class Normalize(nn.Module):
    """No network: l2-normalises features, (B, d) to (B, d), so that L alone is trained."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise a batch of rows."""
        return F.normalize(features)


_PARTITION = {"partition_size": 9000, "neighbors": 10, "gamma": 0.99}
_LARGE = _PARTITION | {"rounds": 1, "patience": 100}
_CIFAR10 = _LARGE | {
    "metric_dim": 32,
    "warmup": 2500,
    "warmup_rate": 2e-3,
    "augment": "strong",
    "mixup": 0.35,
    "softmax_weight": 1.0,
    "confident": 0.3,
    "confident_last": 0.3,
    "epochs": 1,
    "learning_rate": 5e-4,
    "weight_decay": 0.05,
}
_BY_SHAPE = {
    (1, 8, 8): Choice(DigitsNet),
    (1, 28, 28): Choice(MnistNet, settings=_LARGE | {"batch_size": 250, "warmup": 500, "augment": "affine"}),
    (3, 32, 32): Choice(Cifar10Net, Whitening, _CIFAR10, {"metric_dim": 32, "warmup": 300}),
}


def choose(shape: tuple[int, ...]) -> Choice:
    """Choose by the shape of one example.

    Parameters
    ----------
    shape : tuple of int
        (1, 8, 8) is given a network for digits, (1, 28, 28) and (3, 32, 32) the paper's, (d,) none.

    Returns
    -------
    Choice

    Raises
    ------
    DataError
        If there is no network for the shape.

    Examples
    --------
    >>> choose((1, 28, 28)).network.__name__, choose((100,)).settings["metric_dim"]
    ('MnistNet', 50)
    """
    if len(shape) == 1:
        dim = {"metric_dim": min(64, (shape[0] + 1) // 2)}
        return Choice(Normalize, settings=_PARTITION | dim, paper=dim)
    if shape not in _BY_SHAPE:
        known = ", ".join("x".join(map(str, known)) for known in _BY_SHAPE)
        raise DataError(
            f"there is no network for examples of {'x'.join(map(str, shape))}; known: {known} (channels x height x "
            "width) and features. Describe other images by features first, as ssdml_fast.models.rmac does, or give "
            "ssdml_fast.train.fit a network"
        )
    return _BY_SHAPE[shape]


def prepared(data: Dataset) -> Dataset:
    """Prepare uint8 images for the network of their shape, as learned from the training images."""
    if data.images.dtype != "uint8":
        return data
    preparation = choose(data.images.shape[1:]).preparation(torch.from_numpy(data.images))
    return data.map(lambda part: apply(preparation, torch.from_numpy(part)).numpy())
