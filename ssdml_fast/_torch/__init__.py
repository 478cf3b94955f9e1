"""Registers the operations with torch; imported only once a torch tensor has been seen.

Registered operators are what torch.compile can trace through and autograd can differentiate; one file per operation.
Each runs the very function of ``_run`` that serves eager calls, so validation happens there, at run time.
"""

from __future__ import annotations

import torch

from . import (
    affinity,
    angular_loss,
    knn_graph,
    mine_class_triplets,
    mine_triplets,
    propagate_labels,
    riemannian_cg,
    stiefel,
)

__all__ = [
    "affinity",
    "angular_loss",
    "knn_graph",
    "mine_class_triplets",
    "mine_triplets",
    "ops",
    "propagate_labels",
    "riemannian_cg",
    "stiefel",
]

ops = torch.ops.ssdml_fast
