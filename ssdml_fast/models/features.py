"""Features of images by a network that stays as it is: computed once, and kept on the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from .._files import replace_atomically
from .._world import World
from ..data.examples import Examples, as_examples
from .metric import at_once

CACHE = "SSDML_FAST_CACHE"
CHECKED = 4  # images whose features are computed even so, to see that those kept are of this network
TOLERANCE = 1e-3  # distance between the two, of unit length: other machines round otherwise
CHUNK = 64 << 20  # bytes of an array that are hashed at once


@torch.no_grad()
def backbone_features(
    network: nn.Module,
    prepare: Callable[[Tensor], Tensor] | None,
    images: Any,
    name: str = "images",
    workers: int = 0,
    device: str | torch.device | None = None,
    progress: Callable[[float], object] | None = None,
    world: World | None = None,
) -> np.ndarray:
    """Embed images by a network in evaluation mode, or find that again which was computed before.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (B, ...) images to (B, d) l2-normalised rows, as :class:`~ssdml_fast.models.photographs.Photographs` does.
        Put in evaluation mode and on `device`, its convolutions laid out with channels last.
    prepare : torch.nn.Module or function, optional
        Makes of images what the network takes, as :class:`~ssdml_fast.models.backbones.Standardize` does.
    images : (N, ...) uint8 or float32 array, or torch.utils.data.Dataset
        As :func:`ssdml_fast.train.fit` takes them.
    name : str
        What to call them in messages.
    workers : int
        Processes that decode images of a Dataset.
    device : str or torch.device, optional
        Where to compute; by default where the network is.
    progress : callable, optional
        Called with the share done, the last time with 1.0.
    world : World, optional
        Processes that share the work, as each calls this with the same images and network; by default this one does
        all.

    Returns
    -------
    (N, d) float32 array

    Raises
    ------
    DataError
        If an image of a Dataset cannot be read.
    TypeError, ValueError
        If `images` are neither or none, or the network does not map them to (B, d) floats.

    Notes
    -----
    Kept in the folder ``$SSDML_FAST_CACHE``, by default ``$XDG_CACHE_HOME/ssdml-fast`` or ``~/.cache/ssdml-fast``; the
    empty text keeps nothing. A file is found again by a hash of the images and of the network: its state, and what it
    prints. The images of an array are hashed by their bytes; those of a Dataset by its method ``stamp()``, as
    :class:`~ssdml_fast.data.ImageFileDataset` has one: of names, sizes and times of change of the files, and of how
    they are decoded. A Dataset without it is embedded anew each time. What is found is believed only if it is whole and
    agrees with four of its images, embedded now; a folder that cannot be written is no error. Of several processes the
    first alone writes, and what is found is believed if all find the same.

    In memory beside the images: N · d floats, and what lies between the layers for 8 images, 128 on a device (of up to
    64 pixels a side for 128, and 1,024).

    Examples
    --------
    >>> images = np.zeros((3, 1, 8, 8), np.uint8)
    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
    >>> backbone_features(network, lambda images: images / 255, images).shape
    (3, 144)
    """
    examples = as_examples(images, name, workers, cache_gb=0)
    if not len(examples):
        raise ValueError(f"{name} must hold at least one example, found none")
    if device is not None:
        network.to(device)
    try:
        return _features(network.eval(), prepare, images, examples, progress or (lambda share: None), world or World())
    finally:
        examples.close()


def _features(
    network: nn.Module,
    prepare: Callable[[Tensor], Tensor] | None,
    images: Any,
    examples: Examples,
    progress: Callable[[float], object],
    world: World,
) -> np.ndarray:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    if isinstance(prepare, nn.Module):
        prepare.to(device).eval()
    size = at_once(examples.shape, device.type)

    def embedded(rows: Tensor) -> Tensor:
        parts, done = [], 0
        for batch in examples.stream(rows.split(size)):
            batch = batch.to(device)
            with torch.autocast(device.type, enabled=False):
                z = network(batch if prepare is None else prepare(batch))
            if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(batch) or not z.is_floating_point():
                found = f"{tuple(z.shape)} of {z.dtype}" if isinstance(z, Tensor) else type(z).__name__
                raise ValueError(f"network must map (B, ...) images to (B, d) floats, found for {len(batch)} {found}")
            parts.append(z.float().cpu())
            done += len(batch)
            if len(rows) > CHECKED:
                progress(done / len(rows))
        return torch.cat(parts)

    every = torch.arange(len(examples), device="cpu")
    file = _file(network, prepare, images)
    if len(every) <= CHECKED or (file is None and world.size == 1):
        return embedded(every).numpy()
    some = every[torch.linspace(0, len(every) - 1, CHECKED, dtype=torch.float64, device="cpu").round().long()]
    expected = embedded(some)
    kept = None if file is None else _read(file, (len(every), expected.shape[1]))
    if kept and not ((torch.from_numpy(kept.features)[some] - expected).norm(dim=1) <= TOLERANCE).all():
        kept = None
    found = world.every(kept and kept.digest)
    if kept and found.count(kept.digest) == world.size:
        progress(1.0)
        return kept.features
    own = every[world.shard(len(every), size)]  # cut between what is embedded at once: to the same bits
    features = world.gather(embedded(own) if len(own) else expected[:0], len(every), size).numpy()
    if file is not None and world.is_main:
        with suppress(OSError):  # a disk that is full or not ours: they are computed anew the next time
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_atomically(file, lambda opened: _write(opened, features))
    return features


def _file(network: nn.Module, prepare: Any, images: Any) -> Path | None:
    """Where the features are kept; None where they are not."""
    folder = os.environ.get(CACHE)
    if folder is None:
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        try:
            folder = str(Path(caches).expanduser() / "ssdml-fast")
        except RuntimeError:  # a user without a home, as in some containers
            return None
    stamp = _stamp(images) if folder else None
    if stamp is None:
        return None
    digest = hashlib.blake2b(f"features 1\n{stamp}\n".encode(), digest_size=16)
    for module in (network, prepare):
        name = f"{module}\n{state_hash(module)}\n" if isinstance(module, nn.Module) else _name(module)
        digest.update(name.encode())
    return Path(folder) / "features" / digest.hexdigest()


def state_hash(module: nn.Module) -> str:
    """Hash the state of a module: 128 bits in hexadecimal, the same on every machine.

    Examples
    --------
    >>> state_hash(nn.PReLU()) == state_hash(nn.PReLU()), state_hash(nn.PReLU()) == state_hash(nn.PReLU(init=0.5))
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=16)
    for key, tensor in module.state_dict().items():
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _name(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', function)}"


def _stamp(images: Any) -> str | None:
    """What images are told from others by; None of a Dataset that does not say it."""
    if isinstance(images, np.ndarray):
        digest = hashlib.blake2b(f"{images.shape} {images.dtype}\n".encode(), digest_size=16)
        step = max(1, CHUNK // max(images[:1].nbytes, 1))
        for first in range(0, len(images), step):
            digest.update(np.ascontiguousarray(images[first : first + step]).data)
        return digest.hexdigest()
    if isinstance(images, Subset):
        within = _stamp(images.dataset)
        rows = hashlib.blake2b(np.asarray(images.indices, np.int64).tobytes(), digest_size=16).hexdigest()
        return None if within is None else f"{rows} of {within}"
    return images.stamp() if hasattr(images, "stamp") else None


def _write(file: Any, features: np.ndarray) -> None:
    file.write(hashlib.blake2b(features.data, digest_size=32).digest())
    file.write(features.data)


class _Kept(NamedTuple):
    features: np.ndarray
    digest: bytes


def _read(path: Path, shape: tuple[int, int]) -> _Kept | None:
    """Features as they were written; None if there are none, or not whole."""
    with suppress(OSError, ValueError):
        if path.stat().st_size == 32 + 4 * shape[0] * shape[1]:
            found = np.fromfile(path, np.uint8)
            digest, features = found[:32].tobytes(), found[32:].view(np.float32).reshape(shape)
            if hashlib.blake2b(features.data, digest_size=32).digest() == digest:
                return _Kept(features, digest)
    return None
