"""The warm-up: classing the labelled examples alone, before there is a graph worth propagating on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCALE = 16.0  # of the cosines: embeddings have length 1 at most, which is too short for a softmax to be sure
SHORT = 0.1  # of the directions' entries at first: the shorter, the faster steps of a given length turn them


class CosineSoftmax(nn.Module):
    """Cross-entropy of a softmax on scaled products of embeddings with one direction per class, without biases.

    Only the embedding is of use afterwards; its examples of a class lie along one direction, as k-means and nearest
    neighbours like them. Source: Wang et al., "NormFace", ACM Multimedia 2017.

    Parameters
    ----------
    dim : int
        Dimension of the embedding.
    n_classes : int
        Number of classes.
    seed : int
        Decides the directions to begin with.

    Examples
    --------
    >>> import torch
    >>> softmax = CosineSoftmax(dim=2, n_classes=3, seed=0)
    >>> softmax(torch.zeros(4, 2), torch.tensor([0, 1, 2, 0])).item() == torch.tensor(3.0).log().item()
    True
    """

    def __init__(self, dim: int, n_classes: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.directions = nn.Parameter(SHORT * torch.randn(dim, n_classes, generator=generator))

    def forward(self, y: Tensor, classes: Tensor) -> Tensor:
        """Mean loss of (B, dim) embeddings of known classes, as (B,) of 0 … n_classes - 1 or (B, n_classes) shares."""
        return F.cross_entropy(SCALE * y @ F.normalize(self.directions, dim=0), classes)


def warmup_batches(labels: np.ndarray, size: int, n_batches: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield mini-batches of labelled examples in random order, none twice in a pass.

    What does not fill a last mini-batch waits for another pass's order.

    Parameters
    ----------
    labels : (N,) integer array
        -1 = unlabelled.
    size : int
        Examples per mini-batch, or all labelled ones where they are fewer.
    n_batches : int
        Mini-batches to yield.
    rng : numpy.random.Generator
        Source of the random order.

    Yields
    ------
    int64 tensor
        Indices of examples.
    """
    labelled = np.flatnonzero(labels >= 0)
    size = min(size, len(labelled))
    while True:
        order = torch.from_numpy(rng.permutation(labelled))
        for batch in order[: len(order) // size * size].split(size):
            if n_batches == 0:
                return
            yield batch
            n_batches -= 1
