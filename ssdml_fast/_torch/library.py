"""The library of operators that ssdml_fast registers with torch."""

from __future__ import annotations

import torch

library = torch.library.Library("ssdml_fast", "DEF")
KEY = "CompositeExplicitAutograd"
"""One implementation for every device, below autograd."""


def number(value: float, dtype: torch.dtype) -> torch.Tensor:
    """Return a number that an operator answers: on the CPU, whatever torch's default device."""
    return torch.tensor(value, dtype=dtype, device="cpu")


def fake_number(dtype: torch.dtype) -> torch.Tensor:
    """Return what stands for a :func:`number` where values are not known."""
    return torch.empty((), dtype=dtype, device="cpu")
