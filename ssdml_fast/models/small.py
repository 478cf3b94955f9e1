"""A small convolutional network for images of any size, trained from the start."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .. import _scalars as scalars

WIDTHS = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1))  # channels and stride of each 3x3 convolution
DIM = 64


class SmallNet(nn.Module):
    """From (B, channels, height, width) images to (B, 64) l2-normalised embeddings; 0.29 million parameters.

    Five 3x3 convolutions, each with batch normalisation and ReLU, the mean over what is left of the image, and a linear
    layer. No ReLU follows that: an embedding to search in must keep signs, and needs more dimensions than classes do.

    Parameters
    ----------
    channels : int
        1 for grey images, 3 for colours; at least 1.

    Examples
    --------
    >>> import torch
    >>> SmallNet(1)(torch.randn(2, 1, 8, 8)).shape
    torch.Size([2, 64])
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        before = scalars.as_int(channels, "channels", 1)
        layers: list[nn.Module] = []
        for width, stride in WIDTHS:
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(before, DIM)

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of prepared images."""
        return F.normalize(self.linear(self.layers(images).mean((2, 3))))
