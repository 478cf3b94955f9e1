"""The operator of cayley_update."""

from __future__ import annotations

import torch

from .._run import stiefel as run
from .library import KEY, library

library.define("cayley_update(Tensor L, Tensor grad, float step, int? num_threads) -> Tensor")
library.impl("cayley_update", run.cayley_update, KEY)
torch.library.register_fake(
    "ssdml_fast::cayley_update",
    lambda L, grad, step, num_threads: torch.empty_like(L, memory_format=torch.contiguous_format),
    lib=library,
)
