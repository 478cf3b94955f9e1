"""The operator of mine_triplets."""

from __future__ import annotations

import torch

from .. import _arrays as arrays
from .._run import mine_triplets as run
from ..graph import KnnGraph
from .library import KEY, library

library.define(
    "mine_triplets(Tensor indices, Tensor? distances, Tensor affinity, Tensor? anchors, int? num_threads) -> Tensor"
)


def _mine_triplets(indices, distances, affinity, anchors, num_threads):
    graph = KnnGraph(indices, distances, _validated=arrays.is_capturing(indices))  # looks at no value while recording
    return run.mine_triplets(graph.indices, graph.distances, affinity, anchors, num_threads)


def _mine_triplets_fake(indices, distances, affinity, anchors, num_threads):
    count = indices.shape[0] if anchors is None else anchors.shape[0]
    return indices.new_empty((count * (indices.shape[1] // 2), 3), dtype=torch.int64)


library.impl("mine_triplets", _mine_triplets, KEY)
torch.library.register_fake("ssdml_fast::mine_triplets", _mine_triplets_fake, lib=library)
