"""The operator of propagate_affinity."""

from __future__ import annotations

import torch

from .. import _arrays as arrays
from .._run import affinity as run
from ..graph import KnnGraph
from .library import KEY, library

library.define(
    "propagate_affinity(Tensor indices, Tensor? distances, Tensor? ptr, Tensor? weights, Tensor labels, float gamma, "
    "float tol, int? num_threads) -> "
    "(Tensor values, Tensor class_mass, Tensor classes, Tensor iterations, Tensor error_bound)"
)


def _propagate_affinity(indices, distances, ptr, weights, labels, gamma, tol, num_threads):
    graph = KnnGraph(indices, distances, ptr, weights, _validated=arrays.is_capturing(indices))
    values, mass, classes, iterations, bound = run.propagate_affinity(
        graph.indices, graph.distances, graph.weights, labels, gamma, tol, num_threads
    )
    return values, mass, classes, torch.tensor(iterations), torch.tensor(bound, dtype=torch.float64)


def _propagate_affinity_fake(indices, distances, ptr, weights, labels, gamma, tol, num_threads):
    dtype = torch.float64 if distances is None else distances.dtype
    classes = torch.library.get_ctx().new_dynamic_size()
    return (
        indices.new_empty(indices.shape, dtype=dtype),
        indices.new_empty((indices.shape[0], classes), dtype=dtype),
        indices.new_empty((classes,), dtype=torch.int64),
        torch.empty((), dtype=torch.int64),
        torch.empty((), dtype=torch.float64),
    )


library.impl("propagate_affinity", _propagate_affinity, KEY)
torch.library.register_fake("ssdml_fast::propagate_affinity", _propagate_affinity_fake, lib=library)
