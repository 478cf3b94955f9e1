"""Where a training is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Place:
    """Where a training is, and what has been seen there that no validation has told of yet.

    Attributes
    ----------
    leg : int
        Legs that are done.
    through : int
        Passes of the next leg that are done.
    batch : int
        Mini-batches of the next pass that are done.
    begun : bool
        Whether what that pass begins with is done.
    validated : bool
        Whether it has had a validation.
    record : dict
        What the leg adds to records, as the last pass that began left it.
    losses : list
        Of the mini-batches since the last validation: numbers, or tensors on a device that has not been waited for.

    Examples
    --------
    >>> place = Place(leg=2, losses=[1.5, torch.tensor(2.0)])
    >>> place.read_losses()
    [1.5, 2.0]
    """

    leg: int = 0
    through: int = 0
    batch: int = 0
    begun: bool = False
    validated: bool = False
    record: dict[str, Any] = field(default_factory=dict)
    losses: list[Any] = field(default_factory=list)

    def read_losses(self) -> list[float]:
        """Return the losses as numbers, which waits for a device, but for each once."""
        unread = [loss for loss in self.losses if isinstance(loss, Tensor)]
        if unread:
            self.losses = [loss for loss in self.losses if not isinstance(loss, Tensor)] + torch.stack(unread).tolist()
        return self.losses
