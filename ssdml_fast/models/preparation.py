"""How a network takes its images: learned from the training images, and applied to all alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BATCH = 1024  # images prepared at once

FLAT = 40.0  # contrast (standard deviation, of 255) below which an image is taken to be flat
MIN_SCALE = 10.0  # standard deviation below which a direction of pixel space is taken to be noise


class MeanImage(nn.Module):
    """Subtracts the mean training image; pixels stay in 0 … 255.

    Parameters
    ----------
    images : (N, channels, height, width) tensor
        Training images, of any type.

    Examples
    --------
    >>> import torch
    >>> images = torch.tensor([[[[0, 10]]], [[[4, 20]]]], dtype=torch.uint8)
    >>> MeanImage(images)(images)[0]
    tensor([[[-2., -5.]]])
    """

    mean: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean_image(images))

    def forward(self, images: Tensor) -> Tensor:
        """Prepare images: to float32, of the same shape."""
        return images.float() - self.mean


class Whitening(nn.Module):
    """Subtracts the mean image, normalises contrast and decorrelates pixels (ZCA), as MatConvNet does for CIFAR-10.

    Parameters
    ----------
    images : (N, channels, height, width) tensor
        Training images, of any type, with pixels in 0 … 255.

    Notes
    -----
    With x an image less the mean image and less its own mean, s(x) its standard deviation (p - 1 degrees of
    freedom) and s̄ the mean of that over the training images: x ← x s̄ / max(s(x), 40). Then
    x ← V diag(e / max(√D, 10)) Vᵀ x with V D Vᵀ the second moments of the training images and e² the mean of D.
    Time O(N p² + p³) to learn and O(p²) per image, for p = channels · height · width values.

    Examples
    --------
    >>> import torch
    >>> images = torch.randint(256, (50, 1, 3, 3), generator=torch.Generator().manual_seed(0))
    >>> Whitening(images)(images).shape
    torch.Size([50, 1, 3, 3])
    """

    mean: Tensor
    contrast: Tensor
    matrix: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean_image(images))
        p = self.mean.numel()
        contrast = torch.zeros((), dtype=torch.float64)
        moments = torch.zeros(p, p, dtype=torch.float64)
        for batch in images.split(BATCH):  # a data set of floats would be several times the size of the images
            x, deviation = self._centred(batch)
            contrast += deviation.double().sum()
            scaled = x / deviation.clamp_min(FLAT)
            moments += scaled.T @ scaled
        self.register_buffer("contrast", (contrast / len(images)).float())
        values, vectors = torch.linalg.eigh(moments * (float(self.contrast) ** 2 / len(images)))
        values = values.clamp_min(0)
        gain = values.mean().sqrt() / values.sqrt().clamp_min(MIN_SCALE)
        self.register_buffer("matrix", ((vectors * gain) @ vectors.T).float())

    def forward(self, images: Tensor) -> Tensor:
        """Prepare images: to float32, of the same shape."""
        x, deviation = self._centred(images)
        return ((x * (self.contrast / deviation.clamp_min(FLAT))) @ self.matrix).view(images.shape)

    def _centred(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images as rows less the mean image and their own means, and their standard deviations."""
        x = (images.float() - self.mean).flatten(1)
        x = x - x.mean(1, keepdim=True)
        return x, x.std(1, keepdim=True)


def mean_image(images: Tensor) -> Tensor:
    """Average images in float64, a batch at a time; the mean is float32."""
    total = sum(
        (batch.double().sum(0) for batch in images.split(BATCH)), torch.zeros(images.shape[1:], dtype=torch.float64)
    )
    return (total / len(images)).float()


@torch.no_grad()
def apply(prepare: nn.Module, images: Tensor) -> Tensor:
    """Prepare any number of images, a batch at a time: to float32, of the same shape."""
    prepared = torch.empty(images.shape)
    for target, batch in zip(prepared.split(BATCH), images.split(BATCH), strict=True):
        target.copy_(prepare(batch))
    return prepared
