"""A network together with the head that follows it: the orthogonal metric L, or nothing."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import data as torch_data

from .. import _arrays as arrays
from .. import _scalars as scalars
from ..data.examples import as_examples
from ..nn import OrthogonalMetric
from .adapter import Adapter

BATCH = 128  # images embedded at once: what lies between layers fits caches; fixed, so that no embedding depends on it
PHOTOGRAPHS = 8  # likewise, of more than 64 pixels a side
ON_DEVICE = 1024, 128  # likewise, where there are no caches to fit: small images, photographs


HEADS: dict[str, type[nn.Module]] = {"OrthogonalMetric": OrthogonalMetric, "Identity": nn.Identity}
"""By the name of their class, those that a run can be read with; each is made by ``Head(d, l, generator=...)``."""


class MetricModel(nn.Module):
    """Embeds images as Lᵀz, where z is a network's l2-normalised output and LᵀL = I.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (B, ...) images to (B, d) l2-normalised rows.
    metric : torch.nn.Module
        The head, by default an OrthogonalMetric: holds L (d, l), which moves by updates of its own.
    d : int
        Dimension of the network's output.
    prepare : torch.nn.Module, optional
        Makes of images what the network takes.

    Attributes
    ----------
    d, dim : int
        Dimensions of the network's output and of the embedding.
    """

    def __init__(self, network: nn.Module, metric: nn.Module, d: int, prepare: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network
        self.metric = metric
        self.prepare = prepare
        self.d, self.dim = d, metric(torch.zeros(1, d)).shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of images: (B, ...) to (B, l)."""
        return self.metric(self.network(images if self.prepare is None else self.prepare(images)))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Embed any number of images by the network alone, in evaluation mode: (N, ...) to (N, d), float32.

        The images stay as they are, whatever the network does with its input; autocast changes nothing.

        Raises
        ------
        TypeError
            If they are no floats, and there is no `prepare` that makes them so.
        """
        if self.prepare is None and not images.is_floating_point():
            raise TypeError(f"images must be float32 where the model has no `prepare`, found {images.dtype}")
        self.network.eval()
        device = _device(self.network, _device(self.prepare, images.device))
        parts = (part.to(device, copy=True) for part in images.split(at_once(images.shape[1:], device.type)))
        prepared = parts if self.prepare is None else map(self.prepare, parts)
        with torch.autocast(device.type, enabled=False):
            return torch.cat([self.network(part) for part in prepared])

    @torch.no_grad()
    def embed(self, images: Any) -> np.ndarray:
        """Embed any number of images, in evaluation mode: (N, ...) to (N, l), as NumPy arrays.

        Those of a map-style Dataset are read a batch at a time.
        """
        if isinstance(images, torch_data.Dataset):
            examples = as_examples(images, "images", cache_gb=0)
            size = at_once(examples.shape, _device(self.network, _device(self.prepare, torch.device("cpu"))).type)
            batches = torch.arange(len(examples)).split(size)
            z = torch.cat([self.features(part) for part in examples.stream(batches)])
        else:
            arrays.check_not_masked(images, "images")
            z = self.features(torch.from_numpy(images))
        head = _device(self.metric, z.device)
        with torch.autocast(head.type, enabled=False):
            return self.metric(z.to(head)).cpu().numpy()


def at_once(shape: tuple[int, ...], device: str = "cpu") -> int:
    """How many examples of a shape are embedded at once on a kind of device, whatever their number.

    Examples
    --------
    >>> at_once((3, 32, 32)), at_once((3, 224, 224)), at_once((3, 224, 224), "cuda")
    (128, 8, 128)
    """
    small, photographs = (BATCH, PHOTOGRAPHS) if device == "cpu" else ON_DEVICE
    return photographs if len(shape) == 3 and max(shape[1:]) > 64 else small


def _device(module: nn.Module | None, otherwise: torch.device) -> torch.device:
    """Where the first tensor of a module is."""
    tensors = () if module is None else chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), otherwise)


@torch.no_grad()
def untrained(
    network: nn.Module,
    images: Any,
    metric_dim: int,
    seed: int,
    head: type[nn.Module] = OrthogonalMetric,
    prepare: nn.Module | None = None,
) -> MetricModel:
    """Give `network` a head; by default a random orthonormal L of `metric_dim` columns, the first after an `Adapter`.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (B, ...) images to (B, d) rows.
    images : (N, ...) float32 array or CPU tensor, or map-style Dataset
        One of them is embedded to learn d; with `prepare`, of what that takes.
    metric_dim : int
        Columns of L, between 1 and d; other heads are given any from 1.
    seed : int
        Decides L.
    head : type
        What maps the network's output to the embedding; see :data:`HEADS`.
    prepare : torch.nn.Module, optional
        Makes of images what the network takes.

    Returns
    -------
    MetricModel
        Holding `network` itself, not a copy, on the CPU; weights of 2-D convolutions are laid out with channels last,
        which takes half the time on CPUs.

    Raises
    ------
    TypeError, ValueError
        If `metric_dim` is out of range, or `network` maps images to something else than (B, d) float32,
        holds parameters of another type, or such as were made in inference mode, which cannot learn.
    """
    arrays.check_not_masked(images, "images")
    check_network(network)
    for module in (network, prepare):
        if module is not None:
            module.cpu()  # where the model is made for any device; an earlier training may have left them on another
    if isinstance(images, torch_data.Dataset):
        example = as_examples(images, "images", cache_gb=0).take(torch.tensor([0]))
    else:
        example = torch.as_tensor(images[:1]).clone()
    d = _width(network.eval()(example if prepare is None else prepare.eval()(example)))
    limit = (d, " (the network's output size)") if issubclass(head, OrthogonalMetric) else ()  # other heads have others
    metric_dim = scalars.as_int(metric_dim, "metric_dim", 1, *limit)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    metric = head(d, metric_dim, generator=torch.Generator().manual_seed(seed))
    if isinstance(metric, OrthogonalMetric) and isinstance([*network.modules()][-1], Adapter):
        metric.L.copy_(torch.eye(d, metric_dim))  # its first dimensions tell most; drawn at random L would lose them
    return MetricModel(network, metric, d, prepare)


def check_network(network: nn.Module) -> None:
    """Refuse a network that cannot be trained here; see :func:`untrained`."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module, found {type(network).__name__}")
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise TypeError(f"network must have parameters of float32, found {parameter.dtype} in {name}")
        if parameter.is_inference():
            raise ValueError(f"network must be made outside inference mode to be trained, found {name} made within")


def _width(z: Any) -> int:
    """d of a network's output for one example."""
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != 1 or not z.is_floating_point():
        found = f"{tuple(z.shape)} of {z.dtype}" if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"network must map (B, ...) examples to (B, d) floats, found for one example {found}")
    return z.shape[1]
