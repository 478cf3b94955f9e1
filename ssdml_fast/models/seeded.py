"""Untrained networks that depend on a seed alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Make a network whose weights depend on `seed` alone; torch's global generator is left as it was.

    Parameters
    ----------
    make : callable
        A network's class, or what makes one; it may draw from torch's global generator.
    seed : int
        Decides the weights.

    Returns
    -------
    torch.nn.Module

    Examples
    --------
    >>> from ssdml_fast.models.digits import DigitsNet
    >>> sum(p.numel() for p in seeded(DigitsNet, 0).parameters())
    140160
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()
