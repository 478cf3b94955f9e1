"""What a training is given: the examples as they were decoded, and the network that goes with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..data.dataset import Dataset, Source
from ..data.images import ImageFiles
from ..data.load import find, refuse_left_out, split
from ..data.settings import DataSettings
from ..models.networks import Choice, choose
from ..models.settings import NetworkSettings


@dataclass(frozen=True)
class Inputs:
    """Examples, divided, and what goes with them."""

    examples: Dataset
    choice: Choice


def load_inputs(
    data: DataSettings,
    network: NetworkSettings,
    seed: int,
    strict: bool = False,
    progress: Callable[[float], object] | None = None,
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

    Raises
    ------
    DataError, ImportError, TypeError, ValueError
        As :func:`ssdml_fast.data.load` and :func:`ssdml_fast.models.networks.choose`.
    """
    how: dict[str, Any] = {"background": data.background, "skip_damaged": data.skip_damaged, "progress": progress}
    found = find(data.data, data.unlabelled, data.labels, **how)
    if isinstance(found, ImageFiles):
        size, is_grey = found.look(data.background)
        choice = choose((1 if is_grey else 3, *(size or (0, 0))), network, seed, are_files=True)
        source: Source = found.decode(choice.size, choice.crop, choice.grey, **how)
    else:
        source = found
        choice = choose(source.images.shape[1:], network, seed)
    if strict:
        refuse_left_out(source.account)
    return Inputs(split(data.data, source, seed, data.per_class), choice)
