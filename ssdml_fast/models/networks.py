"""Which network and preparation go with which examples, where the user brings no network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.dataset import DataError, Dataset
from ..data.examples import as_examples
from ..nn import OrthogonalMetric
from .adapter import Adapter
from .backbones import Backbone, Standardize, find_backbone
from .digits import DigitsNet
from .features import backbone_features, state_hash
from .metric import MetricModel, untrained
from .paper import Cifar10Net, MnistNet
from .photographs import Photographs
from .preparation import MeanImage, Whitening, apply
from .seeded import seeded
from .settings import NetworkSettings
from .small import SmallNet

SMALL = 64  # pixels a side up to which images are no photographs, unless they are said to be
DEFAULT = "efficientnet-lite0"  # for photographs

Shape = tuple[int, ...]
"""Of one example: (d,) features, or (channels, height, width); height and width are 0 of images of several sizes."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What goes with the examples of a data set.

    Attributes
    ----------
    settings : NetworkSettings
        With what was left open decided.
    network : callable
        Makes an untrained network; see :func:`~ssdml_fast.models.seeded.seeded`.
    preparation : callable, optional
        Learns from uint8 training images how the network takes them; they are prepared once.
    prepare : torch.nn.Module, optional
        Makes of uint8 images what the network takes, whenever it takes them.
    size : int, optional
        Pixels a side that images are decoded to; None: they stay as they are.
    crop : float
        Share of their shorter side that they keep.
    grey : bool, optional
        Whether they are decoded to shades of grey; None: if all are.
    photographs : Photographs, optional
        The backbone, where there is one, as it is before any training.
    """

    settings: NetworkSettings
    network: Callable[[], nn.Module]
    preparation: Callable[[Tensor], nn.Module] | None = None
    prepare: nn.Module | None = None
    size: int | None = None
    crop: float = 1.0
    grey: bool | None = None
    photographs: Photographs | None = None

    def __str__(self) -> str:
        """What a user is told of the choice."""
        if self.settings.backbone == "auto":
            return "none, as examples are features: L alone is trained"
        size = f", images of {self.size}x{self.size}" if self.size else ""
        return f"{self.settings.backbone}{', which stays as it is' if self.backbone == 'frozen' else ''}{size}"

    @property
    def backbone(self) -> str:
        """What becomes of the backbone: ``"frozen"``, its features are made once, or ``"trained"``; empty: there is
        none."""
        if self.photographs is None:
            return ""
        return "frozen" if self.photographs.freeze else "trained"

    def shape(self, images: Any) -> Shape:
        """Of what is trained on prepared examples: an example's, or (d,) of a backbone that makes d features of it."""
        return as_examples(images, "images").shape if self.photographs is None else (self.photographs.d,)

    def prepared(self, data: Dataset, progress: Callable[[float], object] | None = None, **reading: Any) -> Dataset:
        """Make of decoded examples what :func:`ssdml_fast.train.fit` is given.

        Parameters
        ----------
        data : Dataset
            As they were decoded.
        progress : callable, optional
            Told the share done while features are computed.
        **reading
            How :func:`~ssdml_fast.models.features.backbone_features` reads images, and who does: `workers`, `device`,
            `world`.

        Raises
        ------
        DataError
            If the preparation would have to be learned from more images than memory holds.
        """
        if self.photographs is not None and self.photographs.freeze:
            return _described(data, self.photographs, self.prepare, progress, **reading)
        if self.preparation is None or getattr(data.images, "dtype", np.uint8) != np.uint8:
            return data
        if not isinstance(data.images, np.ndarray):
            raise DataError(
                f"backbone must be another than {self.settings.backbone} for so many images, which it learns from all "
                "of them in memory how to take; 'small' takes them as they come"
            )
        preparation = self.preparation(torch.from_numpy(data.images))
        return data.map(lambda part: apply(preparation, torch.from_numpy(part)).numpy())

    def untrained(
        self, images: Any, metric_dim: int, seed: int, head: type[nn.Module] = OrthogonalMetric
    ) -> MetricModel:
        """Make the model that a training starts from; see :func:`ssdml_fast.models.metric.untrained`."""
        return untrained(self.made(images, seed), images, metric_dim, seed, head, self.taken)

    def made(
        self, images: Any, seed: int, progress: Callable[[float], object] | None = None, **reading: Any
    ) -> nn.Module:
        """Make the untrained network for prepared training examples.

        A backbone that knows images is followed by an :class:`~ssdml_fast.models.adapter.Adapter` of the features that
        it makes of them, by `progress` and `reading` as in :meth:`prepared`; one that does not, by nothing.
        """
        if self.photographs is None:
            return seeded(self.network, seed)
        if self.photographs.freeze:
            return Adapter(images) if self.photographs.pretrained else Normalize()
        network = self.network()
        if not self.photographs.pretrained:
            return network
        features = backbone_features(network, self.prepare, images, progress=progress, **reading)
        return nn.Sequential(network.cpu(), Adapter(features))

    @property
    def digest(self) -> str:
        """Hash of what stays as it is, 128 bits in hexadecimal; empty where nothing does."""
        if self.backbone != "frozen":
            return ""
        assert self.photographs is not None
        return state_hash(self.photographs)

    @property
    def taken(self) -> nn.Module | None:
        """What :func:`ssdml_fast.train.fit` is to prepare examples by."""
        return None if self.backbone == "frozen" else self.prepare


def _described(
    data: Dataset, network: nn.Module, prepare: Any, progress: Callable[[float], object] | None, **reading: Any
) -> Dataset:
    """Put features in place of images."""
    total = sum(len(part) for part in (data.images, data.val_images, data.test_images) if part is not None)
    done = 0

    def describe(part: Any) -> np.ndarray:
        nonlocal done
        told = None if progress is None else lambda share: progress((done + share * len(part)) / total)
        features = backbone_features(network, prepare, part, progress=told, **reading)
        done += len(part)
        return features

    return data.map(describe)


class Normalize(nn.Module):
    """No network: l2-normalises features, (B, d) to (B, d), so that L alone is trained."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise a batch of rows."""
        return F.normalize(features)


class Resize(nn.Module):
    """Brings images that lie in memory to `size` pixels a side, whatever their shape.

    Examples
    --------
    >>> import torch
    >>> Resize(6)(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)).shape
    torch.Size([2, 3, 6, 6])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Resize a batch, to float32."""
        size = (self.size, self.size)
        return F.interpolate(images.float(), size, mode="bilinear", antialias=True).clamp(0, 255)


_BY_SHAPE: dict[Shape, tuple[type[nn.Module], Callable[[Tensor], nn.Module]]] = {
    (1, 8, 8): (DigitsNet, MeanImage),
    (1, 28, 28): (MnistNet, MeanImage),
    (3, 32, 32): (Cifar10Net, Whitening),
}


def choose(
    shape: Shape,
    settings: NetworkSettings | None = None,
    seed: int = 0,
    are_files: bool = False,
    are_bytes: bool = True,
) -> Choice:
    """Choose a network by the shape of one example, and by what was asked for.

    Parameters
    ----------
    shape : tuple of int
        Of one example: (d,) features are given no network; (1, 8, 8) one for digits, (1, 28, 28) and (3, 32, 32) the
        paper's, other images up to 64 pixels a side a small one, and photographs a backbone. Height and width of 0:
        images of several sizes.
    settings : NetworkSettings, optional
        What was asked for; by default nothing.
    seed : int
        Decides the weights of a backbone that has none.
    are_files : bool
        Whether images are still to be decoded, to whatever size.
    are_bytes : bool
        Whether images are of uint8; others are taken as they are, by networks that are trained from the start.

    Returns
    -------
    Choice

    Raises
    ------
    DataError
        If there is no such network for the shape.
    ImportError, TypeError, ValueError
        As :func:`~ssdml_fast.models.backbones.find_backbone`.

    Examples
    --------
    >>> choose((1, 28, 28)).network.__name__, choose((100,)).network.__name__
    ('MnistNet', 'Normalize')
    >>> choose((3, 48, 40), NetworkSettings(image_size=40), are_files=True).settings.backbone
    'small'
    """
    asked = settings or NetworkSettings()
    if len(shape) == 1:
        if asked != NetworkSettings():
            raise DataError("backbone and its settings must be left out for features, which no network takes")
        return Choice(asked, Normalize)
    name, size = asked.backbone, asked.image_size or None
    target = shape if size is None else (shape[0], size, size)
    if name == "auto":
        name = "paper" if target in _BY_SHAPE else "small" if 0 < max(target[1:]) <= SMALL else DEFAULT
        asked = replace(asked, backbone=name, freeze=asked.freeze or name == DEFAULT)
    if name == "paper":
        return _paper(asked, shape, size, are_files)
    if name == "small":
        return _small(asked, shape, size, are_files, are_bytes)
    if shape[0] not in (1, 3) or not are_bytes:
        found = _written(shape) + ("" if are_bytes else " of floats")
        raise DataError(
            f"backbone {name!r} takes grey and colour images of uint8, found {found}{_channels_last(shape)}"
        )
    backbone = find_backbone(name, asked.weights, asked.image_size, seed)
    return _pretrained(replace(asked, image_size=backbone.size), backbone, are_files)


def _paper(asked: NetworkSettings, shape: Shape, size: int | None, are_files: bool) -> Choice:
    """One of the paper's networks, to which files are decoded as it takes them."""
    if are_files:
        size = size or {1: 28, 3: 32}.get(shape[0])
    at = shape if size is None else (shape[0], size, size)
    if at not in _BY_SHAPE or (not are_files and at != shape):
        known = ", ".join(map(_written, _BY_SHAPE))
        raise DataError(
            f"backbone must be another than 'paper' for examples of {_written(at)}; that takes {known} (channels x "
            f"height x width){_channels_last(shape)}"
        )
    network, preparation = _BY_SHAPE[at]
    return Choice(asked, network, preparation, size=size if are_files else None)


def _small(asked: NetworkSettings, shape: Shape, size: int | None, are_files: bool, are_bytes: bool) -> Choice:
    """A small network, to which files are decoded as they are up to `SMALL` pixels a side, or else to that."""
    if shape[0] not in (1, 3):
        raise DataError(
            f"backbone 'small' takes grey and colour images, found {_written(shape)}{_channels_last(shape)}"
        )
    prepare = Standardize((127.5,), (64.0,)) if are_bytes else None
    choice = Choice(asked, partial(SmallNet, shape[0]), prepare=prepare)
    if are_files:
        return replace(choice, size=size if size or 0 < max(shape[1:]) <= SMALL else SMALL)
    if size is not None and shape[1:] != (size, size):
        raise DataError(
            f"image_size must be left out with backbone 'small' for arrays of images, which stay as they are, "
            f"{_written(shape)}, found {size}"
        )
    return choice


def _pretrained(asked: NetworkSettings, backbone: Backbone, are_files: bool) -> Choice:
    """A backbone, to be trained on, or that stays as it is."""
    prepare: nn.Module = Standardize(backbone.mean, backbone.std)
    if not are_files:
        prepare = nn.Sequential(Resize(backbone.size), prepare)
    network = Photographs(backbone, asked.pool, asked.factors, asked.freeze)
    make = partial(copy.deepcopy, network)  # as it was before any training
    size = backbone.size if are_files else None
    return Choice(asked, make, None, prepare, size, backbone.crop, grey=False, photographs=network)


def _written(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _channels_last(shape: Shape) -> str:
    """What to do about images whose channels seem to come last."""
    if len(shape) == 3 and shape[2] in (1, 3, 4) and shape[0] not in (1, 3):
        return "; channels come first: x.transpose(0, 3, 1, 2) puts them there"
    return ""
