"""Embedding photographs by a backbone: pooled, at one scale or several, and normalised."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .. import _scalars as scalars
from .backbones import Backbone
from .rmac import rmac

POOL: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda maps: maps.mean((2, 3)),
    "max": lambda maps: maps.amax((2, 3)),
    "rmac": rmac,
}


class Photographs(nn.Module):
    """From (B, 3, height, width) images, prepared as the backbone takes them, to (B, d) l2-normalised rows.

    Parameters
    ----------
    backbone : Backbone
        Whose trunk this holds, not a copy.
    pool : {"mean", "max", "rmac"}
        What is kept of feature maps; of a backbone that gives features, these, by ``"mean"``.
    scales : sequence of float
        Factors that images are resized by in turn; the l2-normalised rows of all scales are summed.
    freeze : bool
        Whether the backbone stays as it is: nothing in it requires a gradient, and it is always in evaluation mode.

    Attributes
    ----------
    d : int
        Numbers in a row.

    Raises
    ------
    ValueError
        If an argument is out of range, or the backbone does not map an image of its size to maps or features. One black
        image is embedded to see.

    Examples
    --------
    >>> import torch
    >>> from ssdml_fast.models.backbones import find_backbone
    >>> network = Photographs(find_backbone("squeezenet", "none"), "rmac", (1, 0.71))
    >>> network(torch.zeros(2, 3, 96, 64)).shape
    torch.Size([2, 512])
    """

    d: int

    def __init__(
        self, backbone: Backbone, pool: str = "mean", scales: Sequence[float] = (1.0,), freeze: bool = False
    ) -> None:
        super().__init__()
        self.trunk = backbone.trunk
        self.pool = scalars.as_choice(pool, "pool", tuple(POOL))
        self.scales = tuple(scalars.as_float(scale, "scales") for scale in scales)
        if not self.scales or not min(self.scales) > 0:
            raise ValueError(f"scales must be numbers above 0, found {scales}")
        self.freeze, self.pretrained = freeze, backbone.pretrained
        if freeze:
            self.requires_grad_(False)
        self.train(False)
        self._try(backbone.size)

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of prepared images."""
        rows = [F.normalize(self._pooled(self.trunk(_resized(images, scale)))) for scale in self.scales]
        return rows[0] if len(rows) == 1 else F.normalize(torch.stack(rows).sum(0))

    def train(self, mode: bool = True) -> Photographs:
        """Set training mode, but for what stays as it is.

        The statistics of batch normalisation are of the millions of images that a pretrained backbone has seen. A
        mini-batch is of a few, of the classes that it was drawn by; and it would be embedded by statistics of its own,
        the images that are searched by a running mean of them.
        """
        super().train(mode and not self.freeze)
        if self.pretrained:
            for module in self.trunk.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def extra_repr(self) -> str:
        """What a printed network says beside its trunk."""
        return f"pool={self.pool!r}, scales={self.scales}"

    def _pooled(self, output: Tensor) -> Tensor:
        return POOL[self.pool](output) if output.ndim == 4 else output

    @torch.no_grad()
    def _try(self, size: int) -> None:
        device = next((parameter.device for parameter in self.parameters()), None)
        example = torch.zeros(1, 3, size, size, dtype=torch.float32, device=device)
        wanted = (
            f"backbone must map images (B, 3, {size}, {size}), at every scale, to maps (B, channels, height, width) or "
            "features (B, d)"
        )
        for scale in self.scales:
            try:
                output = self.trunk(_resized(example, scale))
            except Exception as error:  # in whatever words
                raise ValueError(f"{wanted}, found {type(error).__name__}: {error}") from error
            if not isinstance(output, Tensor) or output.ndim not in (2, 4) or len(output) != 1:
                found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(f"{wanted}, found for one image {found}")
            self.d = output.shape[1]
            if output.ndim == 2 and self.pool != "mean":
                raise ValueError(f"pool must be 'mean' with a backbone that gives no feature maps, found {self.pool!r}")


def _resized(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True)
