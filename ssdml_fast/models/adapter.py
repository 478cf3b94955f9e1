"""What follows a backbone that stays as it is: a linear layer that begins with principal directions of its features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import _scalars as scalars
from .settings import DIRECTIONS

BLOCK = 4096  # features whose second moments are added at once


class Adapter(nn.Module):
    """From (B, D) features to (B, d) l2-normalised embeddings, ``l2((P + C)ᵀ (l2(x) - μ) + b)``.

    μ is the mean of the training features and P holds their first d principal directions; neither learns. C and b begin
    with zero. So it begins as a principal component analysis, the best that can be said of the features without a
    label, and weight decay pulls it back there rather than to nothing: what few labels do not speak against is kept.

    Parameters
    ----------
    features : (N, D) float32 array
        Of all training examples, labelled or not.
    dim : int
        Directions to keep, at least 1; no more than there are features.

    Notes
    -----
    Time O(N D² + D³) to make, memory O(D²). P is scaled so that what it makes of the training features has a mean
    square length of one. Of each direction the largest entry is positive, so that it does not depend on the machine.
    Where the features have fewer directions than `dim`, the others are drawn at random by a fixed seed.

    Examples
    --------
    >>> import numpy as np
    >>> features = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    >>> Adapter(features, 3)(torch.from_numpy(features)).shape
    torch.Size([50, 3])
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, features: np.ndarray, dim: int = DIRECTIONS) -> None:
        super().__init__()
        dim = min(scalars.as_int(dim, "dim", 1), features.shape[1])
        mean, directions = principal_directions(features, dim)
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("directions", torch.from_numpy(directions.astype(np.float32)))
        self.change = nn.Parameter(torch.zeros(features.shape[1], dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        """Embed a batch of features."""
        centred = F.normalize(features) - self.mean
        return F.normalize(centred @ (self.directions + self.change) + self.bias)


def principal_directions(features: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of l2-normalised features, (D,), and their first principal directions, (D, dim), scaled."""
    total, moments = np.zeros(features.shape[1]), np.zeros((features.shape[1],) * 2)
    for begin in range(0, len(features), BLOCK):
        rows = F.normalize(torch.from_numpy(features[begin : begin + BLOCK])).double().numpy()
        total += rows.sum(0)
        moments += rows.T @ rows
    mean = total / len(features)
    values, vectors = np.linalg.eigh(moments / len(features) - np.outer(mean, mean))
    known = np.flatnonzero(values > len(values) * np.finfo(np.float64).eps)[::-1][:dim]
    values, vectors = values[known], vectors[:, known]
    largest = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[largest, np.arange(len(known))])
    scale = np.sqrt(values.sum()) if len(known) else 1.0
    return mean, np.hstack([vectors, _beside(vectors, dim - len(known))]) / scale


def _beside(vectors: np.ndarray, n: int) -> np.ndarray:
    """Unit vectors at right angles to (D, k) others: (D, n), of a fixed draw.

    Which of them eigh gives, where there are fewer features than directions, depends on the machine and the number of
    threads; and examples that are embedded later differ along them.
    """
    drawn = np.random.default_rng(0).standard_normal((len(vectors), n))
    for _ in range(2):  # what rounding leaves of the others after one
        drawn -= vectors @ (vectors.T @ drawn)
    return np.linalg.qr(drawn)[0]
