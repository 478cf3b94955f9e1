"""The networks that the SSDML paper trains, as MatConvNet's examples for MNIST and CIFAR-10 define them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class _WholeConv2d(nn.Conv2d):
    """A convolution whose window is its whole input: one matrix product, in half the time of a convolution's."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, size, size) to (B, out channels, 1, 1)."""
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[..., None, None]


class _PaperNet(nn.Module):
    """Layers that end in (B, d, 1, 1), or in (B, d), and then the l2-norm."""

    layers: nn.Sequential

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of prepared images."""
        return F.normalize(self.layers(images).flatten(1))


class MnistNet(_PaperNet):
    """From (B, 1, 28, 28) images to (B, 128) l2-normalised embeddings; for MNIST and Fashion-MNIST.

    No ReLU follows the first two convolutions. Weights are drawn from N(0, 0.01²), biases are zero. Images are prepared
    by :class:`~ssdml_fast.models.preparation.MeanImage`; the paper's L has 64 columns.

    Examples
    --------
    >>> import torch
    >>> MnistNet()(torch.randn(2, 1, 28, 28)).shape
    torch.Size([2, 128])
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 20, 5),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5),
            nn.MaxPool2d(2),
            _WholeConv2d(50, 500, 4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(500, 128),
        )
        _initialise(self.layers, [0.01, 0.01, 0.01, 0.01])


class Cifar10Net(_PaperNet):
    """From (B, 3, 32, 32) images to (B, 64) l2-normalised embeddings; for CIFAR-10.

    Pooling windows are 3x3 with stride 2 and may reach over the right and bottom edges; an average is over what lies
    inside the image. Weights are drawn from N(0, 0.01²) for the first convolution and N(0, 0.05²) for the others,
    biases are zero. Images are prepared by :class:`~ssdml_fast.models.preparation.Whitening`; the paper's L has 32
    columns.

    Examples
    --------
    >>> import torch
    >>> Cifar10Net()(torch.randn(2, 3, 32, 32)).shape
    torch.Size([2, 64])
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.ReLU(),
            nn.Conv2d(32, 32, 5, padding=2),
            nn.ReLU(),
            nn.AvgPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.AvgPool2d(3, 2, ceil_mode=True),
            _WholeConv2d(64, 64, 4),
            nn.ReLU(),
        )
        _initialise(self.layers, [0.01, 0.05, 0.05, 0.05])


def _initialise(layers: nn.Sequential, stds: list[float]) -> None:
    weighted = [layer for layer in layers if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer, std in zip(weighted, stds, strict=True):
        nn.init.normal_(layer.weight, std=std)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
