"""A network together with the orthogonal metric L that follows it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .. import _arrays as arrays

BATCH = 1024  # images embedded at once; fixed, so that an embedding never depends on who asks for it


class MetricModel(nn.Module):
    """Embeds images as Lᵀz, where z is a network's l2-normalised output and LᵀL = I.

    L is a buffer: it moves on the Stiefel manifold by its own updates, and no optimiser of the network's parameters
    sees it.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (B, ...) images to (B, d) l2-normalised rows.
    L : (d, l) tensor
        Orthonormal columns.
    """

    L: Tensor

    def __init__(self, network: nn.Module, L: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("L", L)

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of images: (B, ...) to (B, l)."""
        return self.network(images) @ self.L

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Embed any number of images by the network alone, in evaluation mode: (N, ...) to (N, d)."""
        self.network.eval()
        return torch.cat([self.network(batch) for batch in images.split(BATCH)])

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embed any number of images, in evaluation mode: (N, ...) to (N, l), as NumPy arrays."""
        return (self.features(torch.from_numpy(images)) @ self.L).numpy()

    def orthogonality_error(self) -> float:
        """Largest absolute entry of LᵀL - I."""
        wide = self.L.double()
        return float((wide.T @ wide - torch.eye(wide.shape[1], dtype=wide.dtype)).abs().max())


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
        Holding `network` itself, not a copy.

    Raises
    ------
    TypeError, ValueError
        If `metric_dim` is no integer between 1 and d.
    """
    with torch.no_grad():
        d = network.eval()(torch.from_numpy(images[:1])).shape[1]
    metric_dim = arrays.as_int(metric_dim, "metric_dim", 1, d, " (the network's output size)")
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(d, metric_dim, generator=generator, dtype=torch.float64)
    return MetricModel(network, torch.linalg.qr(gaussian)[0].float())
