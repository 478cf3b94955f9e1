"""The operator of propagate_labels."""

from __future__ import annotations

import torch

from .. import _arrays as arrays
from .._run import propagate_labels as run
from ..graph import KnnGraph
from .library import KEY, library

library.define(
    "propagate_labels(Tensor indices, Tensor? distances, Tensor? ptr, Tensor? weights, Tensor labels, float gamma, "
    "float tol, int? num_threads) -> (Tensor posteriors, Tensor classes, Tensor iterations, Tensor error_bound)"
)


def _propagate_labels(indices, distances, ptr, weights, labels, gamma, tol, num_threads):
    graph = KnnGraph(indices, distances, ptr, weights, _validated=arrays.is_capturing(indices))
    posteriors, classes, iterations, bound = run.propagate_labels(
        graph.indices, graph.distances, graph.ptr, graph.weights, labels, gamma, tol, num_threads
    )
    return posteriors, classes, torch.tensor(iterations), torch.tensor(bound, dtype=torch.float64)


def _propagate_labels_fake(indices, distances, ptr, weights, labels, gamma, tol, num_threads):
    dtype = torch.float64 if distances is None else distances.dtype
    classes = torch.library.get_ctx().new_dynamic_size()
    return (
        indices.new_empty((indices.shape[0], classes), dtype=dtype),
        indices.new_empty((classes,), dtype=torch.int64),
        torch.empty((), dtype=torch.int64),
        torch.empty((), dtype=torch.float64),
    )


library.impl("propagate_labels", _propagate_labels, KEY)
torch.library.register_fake("ssdml_fast::propagate_labels", _propagate_labels_fake, lib=library)
