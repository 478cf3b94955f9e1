"""torch optimisers for parameters with orthonormal columns, beside ordinary ones in groups of their own.

In a group with ``stiefel=True`` (the default) every parameter is a batch (..., d, l) of matrices with LᵀL = I, and
stays one; a group with ``stiefel=False`` is updated as by torch's own optimiser of that name.
"""

from .cayley_adam import CayleyAdam
from .cayley_sgd import CayleySGD
from .riemannian_cg import RiemannianCG

__all__ = ["CayleyAdam", "CayleySGD", "RiemannianCG"]
