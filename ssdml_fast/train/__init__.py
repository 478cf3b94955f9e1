"""Training: Algorithm 1 of the SSDML paper, as a run that can be stopped and resumed.

The public names are loaded when first used, so that the command line answers ``--help`` without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .._extras import require

require("training", "safetensors", "sklearn", "threadpoolctl")

if TYPE_CHECKING:
    from .config import Config
    from .loop import Fitted, fit

_HOME = {"Config": "config", "Fitted": "loop", "fit": "loop"}

__all__ = ["Config", "Fitted", "fit"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
