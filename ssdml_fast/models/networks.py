"""Which network and preparation go with which examples, where the user brings no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.dataset import DataError, Dataset
from ..nn import OrthogonalMetric
from .digits import DigitsNet
from .metric import MetricModel, untrained
from .paper import Cifar10Net, MnistNet
from .preparation import MeanImage, Whitening, apply
from .seeded import seeded


@dataclass(frozen=True)
class Choice:
    """What goes with examples of one shape.

    Attributes
    ----------
    network : callable
        Makes an untrained network; see :func:`~ssdml_fast.models.seeded.seeded`.
    preparation : callable
        Learns from uint8 training images how the network takes them; floats are taken as they are.
    """

    network: Callable[[], nn.Module]
    preparation: Callable[[Tensor], nn.Module] = MeanImage

    def prepared(self, data: Dataset) -> Dataset:
        """Prepare uint8 images for the network, as learned from the training images."""
        if data.images.dtype != np.uint8:
            return data
        preparation = self.preparation(torch.from_numpy(data.images))
        return data.map(lambda part: apply(preparation, torch.from_numpy(part)).numpy())

    def untrained(
        self, images: np.ndarray, metric_dim: int, seed: int, head: type[nn.Module] = OrthogonalMetric
    ) -> MetricModel:
        """Make the model that a training starts from; see :func:`ssdml_fast.models.metric.untrained`."""
        return untrained(seeded(self.network, seed), images, metric_dim, seed, head)


class Normalize(nn.Module):
    """No network: l2-normalises features, (B, d) to (B, d), so that L alone is trained."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise a batch of rows."""
        return F.normalize(features)


_BY_SHAPE = {
    (1, 8, 8): Choice(DigitsNet),
    (1, 28, 28): Choice(MnistNet),
    (3, 32, 32): Choice(Cifar10Net, Whitening),
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
    >>> choose((1, 28, 28)).network.__name__, choose((100,)).network.__name__
    ('MnistNet', 'Normalize')
    """
    if len(shape) == 1:
        return Choice(Normalize)
    if shape not in _BY_SHAPE:
        known = ", ".join("x".join(map(str, known)) for known in _BY_SHAPE)
        raise DataError(
            f"there is no network for examples of {'x'.join(map(str, shape))}; known: {known} (channels x height x "
            "width) and features. Describe other images by features first, as ssdml_fast.models.rmac does, or give "
            "ssdml_fast.train.fit a network"
        )
    return _BY_SHAPE[shape]
