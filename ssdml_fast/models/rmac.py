"""Features of photographs: regional maximum activations (R-MAC) of a convolutional network, GoogLeNet by default."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import _arrays as arrays
from .. import _scalars as scalars
from ..data.files import File
from ..data.pictures import open_image
from .backbones import Standardize, find_backbone

OVERLAP = 0.4
SIDES = (512, 512 / math.sqrt(2), 256)  # of the longer side of an image, in pixels


def rmac(maps: Tensor, levels: int = 3) -> Tensor:
    """Pool feature maps over regions of several sizes.

    Parameters
    ----------
    maps : (B, channels, height, width) float tensor
        Feature maps.
    levels : int
        Sizes of square regions besides the whole map, at least 1: at level l they have sides of 2 min(height, width) /
        (l + 1), rounded down.

    Returns
    -------
    (B, channels) tensor
        l2-normalised.

    Raises
    ------
    TypeError, ValueError
        If `maps` is not 4-D of floats, or `levels` is no integer of at least 1.

    Notes
    -----
    Over each region the maximum of each channel is taken and the vector of them l2-normalised; their sum is
    l2-normalised again. Level l has l regions along the shorter side and, along the longer, as many more as bring the
    overlap of neighbours closest to 40% (the same number at each level). Differentiable.

    Source: Tolias, Sicre, Jégou, "Particular object retrieval with integral max-pooling of CNN activations", ICLR 2016,
    Section 3.2.

    Examples
    --------
    >>> import torch
    >>> rmac(torch.rand(2, 16, 7, 9)).shape
    torch.Size([2, 16])
    """
    arrays.check_ndim(arrays.check_floats(maps, "maps"), 4, "maps")
    levels = scalars.as_int(levels, "levels", 1)
    height, width = maps.shape[2:]
    pooled = [maps.amax((2, 3))]
    for top, left, side in regions(height, width, levels):
        pooled.append(maps[:, :, top : top + side, left : left + side].amax((2, 3)))
    return F.normalize(F.normalize(torch.stack(pooled), dim=2).sum(0))


def regions(height: int, width: int, levels: int) -> list[tuple[int, int, int]]:
    """Top, left and side of the square regions of :func:`rmac`.

    Examples
    --------
    >>> regions(4, 4, 2)
    [(0, 0, 4), (0, 0, 2), (0, 2, 2), (2, 0, 2), (2, 2, 2)]
    """
    short, long = sorted((height, width))
    # with n + 1 regions along the longer side the first level's overlap by 1 - (long - short) / (n short)
    more = 0
    if long > short:
        more = min(range(1, 7), key=lambda n: abs(1 - (long - short) / (n * short) - OVERLAP))
    found = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side == 0:
            continue
        tops, lefts = (_starts(n, side, level + (more if n == long > short else 0)) for n in (height, width))
        found += [(top, left, side) for top in tops for left in lefts]
    return found


def _starts(n: int, side: int, count: int) -> list[int]:
    """Starts of `count` regions of `side` positions spread evenly over `n`, rounded down."""
    return [0] if count == 1 else [i * (n - side) // (count - 1) for i in range(count)]


@torch.no_grad()
def rmac_features(
    network: nn.Module,
    files: Sequence[File],
    names: Sequence[str],
    sides: Sequence[float] = SIDES,
    progress: Callable[[float], object] | None = None,
) -> np.ndarray:
    """Describe photographs by R-MAC vectors summed over several scales.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (1, 3, height, width) images, normalised as ImageNet's, to feature maps, as ``googlenet`` does. Put in
        evaluation mode.
    files : sequence of path or bytes
        The images, as in :class:`~ssdml_fast.data.ImageFiles`.
    names : sequence of str
        What to call each in an error message.
    sides : sequence of float
        The lengths in pixels that the longer side of each image is resized to in turn.
    progress : callable, optional
        Called after each image with the share done.

    Returns
    -------
    (N, channels) float32 array
        l2-normalised.

    Raises
    ------
    DataError
        If an image is missing or damaged.
    ImportError
        If Pillow is not installed.

    Examples
    --------
    >>> from ssdml_fast.data.zero_shot import cub200
    >>> found = cub200("CUB_200_2011")  # doctest: +SKIP
    >>> network = googlenet("googlenet-1378be20.pth")  # doctest: +SKIP
    >>> x_train = rmac_features(network, found.files, found.names)  # doctest: +SKIP
    >>> x_test = rmac_features(network, found.test_files, found.test_names)  # doctest: +SKIP
    >>> np.savez(  # doctest: +SKIP
    ...     "cub200.npz", x_train=x_train, y_train=found.labels, x_test=x_test, y_test=found.test_labels
    ... )  # then ssdml-fast train --data features:cub200.npz
    """
    network.eval()
    prepare, rows = Standardize(), []
    for i, (file, name) in enumerate(zip(files, names, strict=True), 1):
        image = open_image(file, name, "RGB")
        total = torch.zeros(())
        for side in sides:
            scale = side / max(image.size)
            resized = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
            total = total + rmac(network(prepare(torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None])))
        rows.append(F.normalize(total))
        if progress:
            progress(i / len(files))
    return torch.cat(rows).numpy()


def googlenet(weights: str | os.PathLike[str]) -> nn.Module:
    """Build torchvision's GoogLeNet up to its last feature maps, of 1,024 channels.

    Parameters
    ----------
    weights : path
        State of ``torchvision.models.googlenet`` trained on ImageNet, as torchvision publishes it
        (``googlenet-1378be20.pth``).

    Returns
    -------
    torch.nn.Module
        From images to maps of 1/32 of their size; as ``find_backbone("torchvision:googlenet", weights)`` makes it.

    Raises
    ------
    ImportError
        If torchvision is not installed.
    DataError
        If the file is missing, damaged or of another network.
    """
    return find_backbone("torchvision:googlenet", os.fspath(weights)).trunk
