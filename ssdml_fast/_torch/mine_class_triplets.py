"""The operator of mine_class_triplets."""

from __future__ import annotations

import torch

from .._run import mine_class_triplets as run
from .library import KEY, library

library.define(
    "mine_class_triplets(Tensor posteriors, int n_triplets, float min_confidence, int seed, bool balanced, Tensor? z, "
    "int n_nearest, int? num_threads) -> Tensor"
)


def _mine_class_triplets_fake(posteriors, n_triplets, min_confidence, seed, balanced, z, n_nearest, num_threads):
    count = torch.library.get_ctx().new_dynamic_size()  # n_triplets or, where none can be drawn, 0
    return posteriors.new_empty((count, 3), dtype=torch.int64)


library.impl("mine_class_triplets", run.mine_class_triplets, KEY)
torch.library.register_fake("ssdml_fast::mine_class_triplets", _mine_class_triplets_fake, lib=library)
