"""The library of operators that ssdml_fast registers with torch."""

from __future__ import annotations

import torch

library = torch.library.Library("ssdml_fast", "DEF")
KEY = "CompositeExplicitAutograd"
"""One implementation for every device, below autograd."""
