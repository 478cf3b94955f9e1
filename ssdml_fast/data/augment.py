"""Random changes to a batch of images that keep their classes."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _arrays as arrays


def shift_and_flip(images: Tensor, pad: int = 4, flip: bool = True, generator: torch.Generator | None = None) -> Tensor:
    """Shift every image by up to `pad` pixels each way, and mirror one in two.

    Parameters
    ----------
    images : (B, channels, height, width) tensor
        Of any type; uint8 costs least.
    pad : int
        Most pixels of a shift, at least 0. What comes in at an edge is the image mirrored there (its edge pixel once),
        so `pad` is less than height and width.
    flip : bool
        Whether to mirror images left to right.
    generator : torch.Generator, optional
        Source of the random choice; torch's global one by default.

    Returns
    -------
    tensor of the shape and type of `images`

    Raises
    ------
    TypeError, ValueError
        If `pad` is no integer or out of range.

    Notes
    -----
    One gather for the whole batch: each image is read once, at the rows and columns drawn for it.

    Examples
    --------
    >>> import torch
    >>> images = torch.arange(16, dtype=torch.uint8).expand(400, 1, 16).unflatten(2, (4, 4))
    >>> len(shift_and_flip(images, pad=1).unique(dim=0))  # nine shifts, each mirrored or not
    18
    """
    batch, channels, height, width = images.shape
    pad = arrays.as_int(pad, "pad", 0, min(height, width) - 1, " (less than a side of the images)")
    shift = torch.randint(-pad, pad + 1, (2, batch, 1), generator=generator)
    rows = _mirrored(torch.arange(height) + shift[0], height)
    columns = _mirrored(torch.arange(width) + shift[1], width)
    if flip:
        mirror = torch.rand(batch, 1, generator=generator) < 0.5
        columns = torch.where(mirror, columns.flip(1), columns)
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None].expand(-1, channels, -1)
    return images.flatten(2).gather(2, index.to(images.device)).view_as(images)


def _mirrored(positions: Tensor, n: int) -> Tensor:
    """Reflect positions outside 0 … n - 1 at the edge pixels."""
    return n - 1 - (n - 1 - positions.abs()).abs()
