"""Pure-NumPy twins of every operation: same names, same arguments, obvious code, no speed.

They say what the kernels compute, one formula at a time, and the tests hold the kernels to them. They take NumPy
arrays, trust their arguments, and need time and memory quadratic (affinity: cubic) in the number of points.
"""

from .affinity import propagate_affinity
from .angular_loss import angular_loss, angular_loss_and_grad
from .graph_modes import graph_modes
from .knn_graph import knn_graph, knn_search
from .mine_class_triplets import mine_class_triplets
from .mine_triplets import mine_triplets
from .propagate_labels import propagate_labels
from .riemannian_cg import riemannian_cg
from .stiefel import cayley_update, polar_retraction, qr_retraction

__all__ = [
    "angular_loss",
    "angular_loss_and_grad",
    "cayley_update",
    "graph_modes",
    "knn_graph",
    "knn_search",
    "mine_class_triplets",
    "mine_triplets",
    "polar_retraction",
    "propagate_affinity",
    "propagate_labels",
    "qr_retraction",
    "riemannian_cg",
]
