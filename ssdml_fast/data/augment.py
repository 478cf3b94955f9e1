"""Random changes to a batch of images that keep their classes.

All that is random is drawn where the images are, so that nothing is copied or waited for, in types of its own: torch's
default dtype and device and autocast change nothing. A `generator` must be of the images' device.

Images that are a `part` of a batch are changed as they are in the whole of it, whose numbers are all drawn: so what
comes out does not depend on how a batch is divided.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _arrays as arrays
from .. import _scalars as scalars


class Part(NamedTuple):
    """Which of a batch's images are at hand.

    Attributes
    ----------
    rows : slice
        Their rows.
    of : int
        Rows of the whole batch.

    Examples
    --------
    >>> images, two = torch.rand(5, 1, 8, 8), Part(slice(1, 3), of=5)
    >>> part = random_affine(images[two.rows], generator=torch.Generator().manual_seed(0), part=two)
    >>> torch.equal(part, random_affine(images, generator=torch.Generator().manual_seed(0))[two.rows])
    True
    """

    rows: slice
    of: int


def random_affine(
    images: Tensor,
    degrees: float = 15.0,
    scale: float = 0.1,
    shift: float = 2.0,
    flip: bool = False,
    padding: str = "border",
    generator: torch.Generator | None = None,
    part: Part | None = None,
) -> Tensor:
    """Rotate, scale and shift every image a little, about its centre, by bilinear interpolation.

    Parameters
    ----------
    images : (B, channels, height, width) float tensor
        Any values.
    degrees : float
        Most degrees of a rotation, either way.
    scale : float
        Most change of size, as a share; in [0, 1).
    shift : float
        Most pixels of a shift each way.
    flip : bool
        Whether to mirror one image in two left to right.
    padding : {"border", "reflection"}
        What comes in at an edge: its pixels repeated, or the image mirrored there.
    generator : torch.Generator, optional
        Source of the random choice, each uniform in its range; torch's global one by default.
    part : Part, optional
        Which rows of a batch the images are; all of it by default.

    Returns
    -------
    tensor of the shape and type of `images`

    Raises
    ------
    ValueError
        If there is no such `padding`.

    Examples
    --------
    >>> import torch
    >>> images = torch.rand(3, 1, 28, 28)
    >>> torch.allclose(random_affine(images, degrees=0, scale=0, shift=0), images, atol=1e-5)
    True
    """
    scalars.as_choice(padding, "padding", ("border", "reflection"))
    batch, _, height, width = images.shape
    rows, n = part or Part(slice(None), batch)
    draw = 2 * _uniform((4, n), images, generator)[:, rows] - 1
    angle, size = draw[0] * math.radians(degrees), 1 + scale * draw[1]
    cos, sin = size * angle.cos(), size * angle.sin()
    right, down = shift * 2 / width * draw[2], shift * 2 / height * draw[3]  # the grid goes from -1 to 1
    side = 1 - 2 * (_uniform((n,), images, generator)[rows] < 0.5) if flip else 1
    maps = torch.stack([side * cos, -sin * height / width, right, side * sin * width / height, cos, down], 1)
    with arrays.in_own_type(images):
        grid = F.affine_grid(maps.view(batch, 2, 3).to(images), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def mix_channels(
    images: Tensor, spread: float = 0.1, generator: torch.Generator | None = None, part: Part | None = None
) -> Tensor:
    """Change the colours of every image a little: each pixel's channels by one random matrix near the identity.

    Parameters
    ----------
    images : (B, channels, height, width) float tensor
        Any values; zero, which stays, should be the mean.
    spread : float
        Standard deviation of each entry of the matrices about the identity's.
    generator : torch.Generator, optional
        Source of the random choice; torch's global one by default.
    part : Part, optional
        As :func:`random_affine`.

    Returns
    -------
    tensor of the shape and type of `images`

    Raises
    ------
    TypeError, ValueError
        If `spread` is no finite number.

    Examples
    --------
    >>> import torch
    >>> images = torch.rand(5, 3, 8, 8)
    >>> torch.equal(mix_channels(images, spread=0), images)
    True
    """
    spread = scalars.as_float(spread, "spread")
    batch, channels = images.shape[:2]
    rows, n = part or Part(slice(None), batch)
    dtype, device = torch.float32, images.device
    noise = torch.randn(n, channels, channels, generator=generator, dtype=dtype, device=device)[rows]
    matrices = torch.eye(channels, dtype=dtype, device=device) + spread * noise
    with arrays.in_own_type(images):
        return torch.bmm(matrices.to(images), images.flatten(2)).view_as(images)


def cut_out(
    images: Tensor, side: int = 12, generator: torch.Generator | None = None, part: Part | None = None
) -> Tensor:
    """Set a square of every image, the same in all channels, to zero.

    Parameters
    ----------
    images : (B, channels, height, width) tensor
        Any values; zero should be the mean.
    side : int
        Pixels, at least 0. The square's centre is anywhere in the image, so part of the square may lie outside.
    generator : torch.Generator, optional
        Source of the random choice; torch's global one by default.
    part : Part, optional
        As :func:`random_affine`.

    Returns
    -------
    tensor of the shape and type of `images`

    Raises
    ------
    TypeError, ValueError
        If `side` is no integer or negative.

    Notes
    -----
    Source: DeVries, Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017.

    Examples
    --------
    >>> import torch
    >>> (cut_out(torch.ones(400, 1, 9, 9), side=3) == 0).sum((1, 2, 3)).unique()
    tensor([4, 6, 9])
    """
    side = scalars.as_int(side, "side", 0)
    rows, n = part or Part(slice(None), len(images))
    inside = []
    for length in images.shape[2:]:
        first = torch.randint(length, (n, 1), generator=generator, device=images.device)[rows] - side // 2
        place = torch.arange(length, device=images.device)
        inside.append((place >= first) & (place < first + side))
    high, wide = inside
    return images.masked_fill((high[:, :, None] & wide[:, None, :])[:, None], 0)


def mix_up(
    images: Tensor, targets: Tensor, most: float = 0.5, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Blend every image with another of the batch, and their class probabilities in the same shares.

    Parameters
    ----------
    images : (B, ...) float tensor
        Any values.
    targets : (B, C) float tensor
        Class probabilities of each image.
    most : float
        The largest share that the other image may get, in [0, 1]; the share, one for the batch, is uniform up to it.
        0.5 reaches every blend of a pair.
    generator : torch.Generator, optional
        Source of the random choice; torch's global one by default.

    Returns
    -------
    images, targets : tensors of the shapes and types of those given

    Raises
    ------
    TypeError, ValueError
        If `most` is no number in [0, 1].

    Notes
    -----
    Source: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018, with α = 1.

    Examples
    --------
    >>> import torch
    >>> images, targets = mix_up(torch.rand(4, 3, 8, 8), torch.eye(4))
    >>> images.shape, torch.allclose(targets.sum(1), torch.ones(4))
    (torch.Size([4, 3, 8, 8]), True)
    """
    most = scalars.as_float(most, "most")
    if not 0 <= most <= 1:
        raise ValueError(f"most must be in [0, 1], found {most}")
    wide = torch.float32 if images.device.type == "mps" else torch.float64  # which Metal lacks
    share = most * _uniform((), images, generator).to(wide)
    other = torch.randperm(len(images), generator=generator, device=images.device)
    return _blend(images, other, share), _blend(targets, other, share)


def _blend(x: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Give each row that share of another; half precisions are blended in float32."""
    wide = arrays.at_least_float32(x)
    return wide.lerp(wide[other], share.to(wide)).to(x.dtype)


def _uniform(shape: tuple[int, ...], images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw float32 numbers from [0, 1), where the images are."""
    return torch.rand(shape, generator=generator, dtype=torch.float32, device=images.device)
