"""The optimisers, and parameters for them."""

import numpy as np
import torch
from strategies import random_stiefel

from ssdml_fast.optim import CayleyAdam, CayleySGD, RiemannianCG

FIRST_ORDER = {"CayleySGD": CayleySGD, "CayleyAdam": CayleyAdam}
OPTIMIZERS = {**FIRST_ORDER, "RiemannianCG": RiemannianCG}


def matrix(shape, seed=0, dtype=np.float64):
    """A parameter with orthonormal columns."""
    return torch.nn.Parameter(torch.from_numpy(random_stiefel(shape, np.random.default_rng(seed), dtype)))


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
