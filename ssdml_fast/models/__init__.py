"""Networks, and the orthogonal metric that follows each of them; what is named here is loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbones import Backbone, Standardize, find_backbone
    from .features import backbone_features
    from .photographs import Photographs
    from .rmac import rmac_features
    from .settings import NetworkSettings
    from .small import SmallNet

_HOME = {
    "Backbone": "backbones",
    "NetworkSettings": "settings",
    "Photographs": "photographs",
    "SmallNet": "small",
    "Standardize": "backbones",
    "backbone_features": "features",
    "find_backbone": "backbones",
    "rmac_features": "rmac",
}

__all__ = [
    "Backbone",
    "NetworkSettings",
    "Photographs",
    "SmallNet",
    "Standardize",
    "backbone_features",
    "find_backbone",
    "rmac_features",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
