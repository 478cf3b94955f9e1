"""SqueezeNet 1.0, small and old: for photographs by weights from a file, in reproductions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeNet(nn.Module):
    """From (B, 3, height, width) images to feature maps (B, 512, ...) of about 1/16 of the size.

    SqueezeNet 1.0 without its classifier, 0.74 million parameters; states have the names of torchvision's
    ``squeezenet1_0``.

    Source: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016.

    Examples
    --------
    >>> import torch
    >>> SqueezeNet()(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1, 512, 3, 5])
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 7, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            _Fire(96, 16, 64),
            _Fire(128, 16, 64),
            _Fire(128, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            _Fire(256, 32, 128),
            _Fire(256, 48, 192),
            _Fire(384, 48, 192),
            _Fire(384, 64, 256),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            _Fire(512, 64, 256),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map a batch of images to feature maps."""
        return self.features(images)


class _Fire(nn.Module):
    """Few channels by 1x1, then as many by 1x1 as by 3x3."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))
