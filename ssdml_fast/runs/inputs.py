"""What a training is given: the examples as they were decoded, and the network that goes with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .._world import World
from ..data.dataset import DataError, Dataset
from ..data.images import ImageFiles
from ..data.load import decoded, find, split
from ..data.settings import DataSettings, absolute_path, from_stored
from ..models.networks import Choice, choose
from ..models.settings import NAMED_WEIGHTS, NetworkSettings
from .folder import RunFolder

Progress = Callable[[float], object] | None


@dataclass(frozen=True)
class Inputs:
    """Examples, divided, and what goes with them."""

    data: DataSettings
    examples: Dataset
    choice: Choice

    @property
    def dataset(self) -> dict[str, Any]:
        """What it takes to load the same examples again, for ``config.json``."""
        return self.data.stored(has_unlabelled=bool((self.examples.truth < 0).any()))

    @property
    def network(self) -> dict[str, Any]:
        """What it takes to choose the same network again, for ``config.json``."""
        digest = {"digest": self.choice.digest} if self.choice.digest else {}
        network = asdict(self.choice.settings)
        if network["weights"] not in NAMED_WEIGHTS:
            network["weights"] = absolute_path(network["weights"])
        return network | digest


def stored_inputs(
    run: RunFolder,
    seed: int,
    moved: Mapping[str, str] | None = None,
    strict: bool = False,
    progress: Progress = None,
    world: World | None = None,
) -> Inputs:
    """Load what a run folder says that its training was given; see :func:`load_inputs`.

    Parameters
    ----------
    run : RunFolder
        Whose ``config.json`` was read.
    seed, strict, progress, world
        As of :func:`load_inputs`.
    moved : mapping, optional
        Where what lies now that was moved since, of ``"data"`` (as KIND:PATH), ``"unlabelled"``, ``"labels"`` and
        ``"weights"``.

    Raises
    ------
    DataError
        Also if the network is nothing of that form, or the weights of a backbone that stays as it is are others than
        they were.
    """
    moved = moved or {}
    stored = {name: moved.get(name, value) if name == "weights" else value for name, value in run.network.items()}
    was = stored.pop("digest", "")
    try:
        network = NetworkSettings(**stored)
    except (TypeError, ValueError):
        raise DataError(f"this is of an unknown network, {stored!r:.200}") from None
    inputs = load_inputs(from_stored(run.dataset, moved), network, seed, strict, progress, world)
    if was != inputs.choice.digest:
        raise DataError(f"weights must be those that the run was trained with, found others for {network.backbone}")
    return inputs


def load_inputs(
    data: DataSettings,
    network: NetworkSettings,
    seed: int,
    strict: bool = False,
    progress: Progress = None,
    world: World | None = None,
) -> Inputs:
    """Load a data set, choose the network, decode images to the size that it takes, and divide them by the seed.

    Parameters
    ----------
    data, network : DataSettings, NetworkSettings
        What was asked for.
    seed : int
        Decides the split.
    strict : bool
        Raise an error where anything is left out.
    progress : callable, optional
        Told the share done while images are decoded.
    world : World, optional
        Processes that share the decoding, as each loads the same; by default this one does all.

    Raises
    ------
    DataError, ImportError, TypeError, ValueError
        As :func:`ssdml_fast.data.load` and :func:`ssdml_fast.models.networks.choose`.
    """
    how: dict[str, Any] = {"background": data.background, "skip_damaged": data.skip_damaged}
    how |= {"progress": progress, "world": world}
    found = find(data.data, data.unlabelled, data.labels, **how)
    if isinstance(found, ImageFiles):
        size, is_grey = found.look(data.background)
        choice = choose((1 if is_grey else 3, *(size or (0, 0))), network, seed, are_files=True)
    else:
        choice = choose(found.images.shape[1:], network, seed, are_bytes=found.images.dtype == np.uint8)
    source = decoded(found, choice.size, strict, crop=choice.crop, grey=choice.grey, **how)
    return Inputs(data, split(data.data, source, seed, data.per_class), choice)
