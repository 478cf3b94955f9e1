"""Semi-supervised deep metric learning: kNN graph, affinity propagation, triplet mining, angular loss, orthogonal L.

The public names below are loaded when first used, so that importing the package costs little more than NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

if TYPE_CHECKING:
    from . import distributed, nn, optim, reference
    from ._config import show_config
    from .estimators.ssdml import SSDML
    from .exceptions import ConvergenceWarning
    from .graph import EdgeAffinity, KnnGraph, LabelPosteriors, Neighbors
    from .ops.affinity import propagate_affinity
    from .ops.angular_loss import angular_loss, angular_loss_and_grad
    from .ops.graph_modes import graph_modes
    from .ops.knn_graph import knn_graph, knn_search
    from .ops.mine_class_triplets import mine_class_triplets
    from .ops.mine_triplets import mine_triplets
    from .ops.propagate_labels import propagate_labels
    from .ops.riemannian_cg import CgResult, riemannian_cg
    from .ops.stiefel import cayley_update, polar_retraction, qr_retraction

_HOME = {
    "CgResult": "ops.riemannian_cg",
    "EdgeAffinity": "graph",
    "ConvergenceWarning": "exceptions",
    "KnnGraph": "graph",
    "LabelPosteriors": "graph",
    "Neighbors": "graph",
    "SSDML": "estimators.ssdml",
    "angular_loss": "ops.angular_loss",
    "angular_loss_and_grad": "ops.angular_loss",
    "cayley_update": "ops.stiefel",
    "distributed": "distributed",
    "graph_modes": "ops.graph_modes",
    "knn_graph": "ops.knn_graph",
    "knn_search": "ops.knn_graph",
    "mine_class_triplets": "ops.mine_class_triplets",
    "mine_triplets": "ops.mine_triplets",
    "nn": "nn",
    "optim": "optim",
    "polar_retraction": "ops.stiefel",
    "propagate_affinity": "ops.affinity",
    "propagate_labels": "ops.propagate_labels",
    "qr_retraction": "ops.stiefel",
    "reference": "reference",
    "riemannian_cg": "ops.riemannian_cg",
    "show_config": "_config",
}

__all__ = [
    "SSDML",
    "CgResult",
    "ConvergenceWarning",
    "EdgeAffinity",
    "KnnGraph",
    "LabelPosteriors",
    "Neighbors",
    "__version__",
    "angular_loss",
    "angular_loss_and_grad",
    "cayley_update",
    "distributed",
    "graph_modes",
    "knn_graph",
    "knn_search",
    "mine_class_triplets",
    "mine_triplets",
    "nn",
    "optim",
    "polar_retraction",
    "propagate_affinity",
    "propagate_labels",
    "qr_retraction",
    "reference",
    "riemannian_cg",
    "show_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    value = module if _HOME[name] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
