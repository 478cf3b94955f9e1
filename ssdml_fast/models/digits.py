"""A small convolutional network for 8x8 images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class DigitsNet(nn.Module):
    """Two convolutions and a linear layer, from (B, 1, 8, 8) images to (B, 128) l2-normalised embeddings.

    Examples
    --------
    >>> import torch
    >>> DigitsNet()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 128])
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128 * 2 * 2, 128),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of images."""
        return F.normalize(self.layers(images))
