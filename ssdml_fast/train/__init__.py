"""Training: the engine that takes any method through its legs, as a run that can be stopped and resumed.

The public names are loaded when first used, so that the command line answers ``--help`` without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._settings import Settings, setting
    from .aid import Aid
    from .batches import batch_sizes
    from .config import Config
    from .engine import Fitted
    from .method import Batch, Diverged, Leg, Method, TrainingSet, Work
    from .training import fit

_HOME = {
    "Aid": "aid",
    "Batch": "method",
    "Config": "config",
    "Diverged": "method",
    "Fitted": "engine",
    "Leg": "method",
    "Method": "method",
    "Settings": "._settings",
    "TrainingSet": "method",
    "Work": "method",
    "batch_sizes": "batches",
    "fit": "training",
    "setting": "._settings",
}

__all__ = [
    "Aid",
    "Batch",
    "Config",
    "Diverged",
    "Fitted",
    "Leg",
    "Method",
    "Settings",
    "TrainingSet",
    "Work",
    "batch_sizes",
    "fit",
    "setting",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
