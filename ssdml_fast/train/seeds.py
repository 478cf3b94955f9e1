"""Seeds by the place in a training, so that resuming needs the state of no generator."""

from __future__ import annotations

import numpy as np
import torch

from .method import Leg

OF_BEGINNING, OF_BATCHES = 0, 1  # of a pass: what draws by a generator


def generator_at(seed: int, leg: Leg, *place: int) -> np.random.Generator:
    """Make a generator for choices on the host at a leg, or at a place within it; no two places share one.

    Parameters
    ----------
    seed : int
        Of the training.
    leg : Leg
        Its position is what counts.
    *place : int
        None, or where in the leg: the number of the pass, and what draws.

    Returns
    -------
    numpy.random.Generator

    Examples
    --------
    >>> leg = Leg("pairs", (0,))
    >>> drawn = [generator_at(3, leg, *place).random() for place in ((), (0, OF_BATCHES), (1, OF_BATCHES), ())]
    >>> len(set(drawn)), drawn[0] == drawn[-1]
    (3, True)
    """
    # The length of a position tells (0,) from (0, 0), which are padded by zeros where more follows.
    key = (len(leg.position), *place) if place else ()
    return np.random.default_rng(np.random.SeedSequence([seed, *leg.position], spawn_key=key))


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's global generators, of the CPU and of a device that has been used; nothing waits for it."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
