"""Untrained networks that depend on a seed alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Make a network on the CPU whose weights, float32, depend on `seed` alone.

    Torch's global generator is left as it was, and its default type and device and inference mode change nothing.

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
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            return make()
        finally:
            torch.set_default_dtype(dtype)
