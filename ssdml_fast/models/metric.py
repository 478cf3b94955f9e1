"""A network together with the orthogonal metric L that follows it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .. import _arrays as arrays
from .. import _scalars as scalars
from ..nn import OrthogonalMetric

BATCH = 128  # images embedded at once: what lies between layers fits caches; fixed, so that no embedding depends on it


class MetricModel(nn.Module):
    """Embeds images as Lᵀz, where z is a network's l2-normalised output and LᵀL = I.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (B, ...) images to (B, d) l2-normalised rows.
    metric : OrthogonalMetric
        Holds L (d, l), which moves by updates of its own.
    """

    def __init__(self, network: nn.Module, metric: OrthogonalMetric) -> None:
        super().__init__()
        self.network = network
        self.metric = metric

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of images: (B, ...) to (B, l)."""
        return self.metric(self.network(images))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Embed any number of images by the network alone, in evaluation mode: (N, ...) to (N, d)."""
        self.network.eval()
        return torch.cat([self.network(batch) for batch in images.split(BATCH)])

    @torch.no_grad()
    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embed any number of images, in evaluation mode: (N, ...) to (N, l), as NumPy arrays."""
        arrays.check_not_masked(images, "images")
        return self.metric(self.features(torch.from_numpy(images))).numpy()


def untrained(network: nn.Module, images: np.ndarray, metric_dim: int, seed: int) -> MetricModel:
    """Give `network` a random orthonormal L of `metric_dim` columns.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (B, ...) images to (B, d) rows.
    images : (N, ...) float32 array
        One of them is embedded to learn d.
    metric_dim : int
        Columns of L, between 1 and d.
    seed : int
        Decides L.

    Returns
    -------
    MetricModel
        Holding `network` itself, not a copy; weights of 2-D convolutions are laid out with channels last, which takes
        half the time on CPUs.

    Raises
    ------
    TypeError, ValueError
        If `metric_dim` is no integer between 1 and d.
    """
    arrays.check_not_masked(images, "images")
    with torch.no_grad():
        d = network.eval()(torch.from_numpy(images[:1])).shape[1]
    metric_dim = scalars.as_int(metric_dim, "metric_dim", 1, d, " (the network's output size)")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return MetricModel(network, OrthogonalMetric(d, metric_dim, generator=torch.Generator().manual_seed(seed)))
