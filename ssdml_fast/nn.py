"""Modules for torch models: the orthogonal metric that ends an embedding network, and the angular loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import _arrays as arrays
from . import _scalars as scalars
from ._run.angular_loss import REDUCTIONS
from .ops.angular_loss import angular_loss

__all__ = ["AngularLoss", "OrthogonalMetric"]


class OrthogonalMetric(nn.Module):
    """Linear map to l dimensions with orthonormal columns, and the Mahalanobis metric M = L Lᵀ that it stands for.

    Parameters
    ----------
    d : int
        Dimension of the points.
    l : int
        Dimension of the embedding, from 1 to d.
    generator : torch.Generator, optional
        Source of the initial L; torch's global generator by default.
    device, dtype : optional
        Of L: float32 or float64, torch's default by default.

    Attributes
    ----------
    L : (d, l) Parameter
        Orthonormal columns, at first uniform on the Stiefel manifold. Only an optimiser that respects the constraint,
        such as those of :mod:`ssdml_fast.optim`, or :func:`ssdml_fast.cayley_update` may move it.

    Raises
    ------
    TypeError, ValueError
        If `d` and `l` are no integers with 1 <= l <= d, or `dtype` is another.

    Notes
    -----
    ‖Lᵀ(x - y)‖ is the Mahalanobis distance under M: Section 3 of Dutta, Harandi, Sekhar, AAAI 2021.

    Examples
    --------
    >>> import torch, ssdml_fast as sf
    >>> metric = sf.nn.OrthogonalMetric(128, 64)
    >>> metric
    OrthogonalMetric(d=128, l=64)
    >>> metric(torch.randn(10, 128)).shape
    torch.Size([10, 64])
    """

    def __init__(
        self,
        d: int,
        l: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        d = scalars.as_int(d, "d", 1)
        l = scalars.as_int(l, "l", 1, d, f" with d = {d}")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32 or torch.float64, found {dtype!r}")
        self.L = nn.Parameter(torch.empty(d, l, device=device, dtype=dtype))
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw L uniformly from the matrices with orthonormal columns."""
        nn.init.orthogonal_(self.L, generator=generator)

    def forward(self, z: Tensor) -> Tensor:
        """Embed points: (..., d) to (..., l)."""
        return z @ self.L

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Mahalanobis distance ‖Lᵀ(x - y)‖ of corresponding points: two (..., d) tensors to one of shape (...)."""
        return torch.linalg.vector_norm(self(x - y), dim=-1)

    @property
    def M(self) -> Tensor:
        """The (d, d) positive semi-definite matrix L Lᵀ, of rank l; differentiable in L."""
        return self.L @ self.L.T

    def orthogonality_error(self) -> float:
        """Largest absolute entry of LᵀL - I; refuses an L that is sharded over processes, a DTensor."""
        return orthogonality_error(self.L)

    def diagnostics(self) -> dict[str, float]:
        """What the record of a training tells of it: :meth:`orthogonality_error` by that name."""
        return {"orthogonality_error": self.orthogonality_error()}

    def extra_repr(self) -> str:
        return "d={}, l={}".format(*self.L.shape)


def check_whole(L: Any, name: str = "L") -> None:
    """Refuse a DTensor: each process holds some rows of it, and no set of rows alone keeps LᵀL = I."""
    if arrays.is_dtensor(L):
        parts, mesh = ", ".join(map(repr, L.placements)), tuple(L.device_mesh.shape)
        raise TypeError(
            f"{name} must be whole in every process, found a DTensor, {parts} on a mesh of shape {mesh}: "
            "leave it out of what is sharded, as fully_shard(model, ignored_params={model.metric.L}) does, and average "
            "its gradient over the processes"
        )


@torch.no_grad()
def orthogonality_error(L: Tensor) -> float:
    """Largest absolute entry of LᵀL - I for (..., d, l) matrices, in float64; 0 for an empty batch."""
    check_whole(L)
    wide = L.double()
    error = wide.mT @ wide - torch.eye(L.shape[-1], dtype=wide.dtype, device=wide.device)
    return float(error.abs().max()) if error.numel() else 0.0


class AngularLoss(nn.Module):
    """The angular triplet loss as a module; see :func:`ssdml_fast.angular_loss`.

    Parameters
    ----------
    alpha : float
        Upper bound of the angle at the negative, in degrees, between 0 and 90.
    reduction : {"mean", "sum", "none"}
        Over the triplets.
    num_threads : int, optional
        Threads on the CPU; by default what OMP_NUM_THREADS or threadpoolctl says, or all cores.

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> import torch, ssdml_fast as sf
    >>> metric, criterion = sf.nn.OrthogonalMetric(8, 4), sf.nn.AngularLoss(alpha=45.0)
    >>> z = torch.nn.functional.normalize(torch.randn(6, 8))
    >>> criterion(z, torch.tensor([[0, 1, 2], [3, 4, 5]]), metric.L).backward()
    >>> metric.L.grad.shape
    torch.Size([8, 4])
    """

    def __init__(self, alpha: float = 40.0, reduction: str = "mean", num_threads: int | None = None) -> None:
        super().__init__()
        self.alpha = scalars.as_float(alpha, "alpha", 0, 90)
        self.reduction = scalars.as_choice(reduction, "reduction", REDUCTIONS)
        self.num_threads = scalars.as_threads(num_threads)

    def forward(self, z: Tensor, triplets: Tensor, L: Tensor, weight: Tensor | None = None) -> Any:
        """Loss of (T, 3) `triplets` of rows of `z` (N, d) under `L` (d, l), each weighted by `weight` (T,)."""
        return angular_loss(z, triplets, L, self.alpha, self.reduction, weight, self.num_threads)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, reduction={self.reduction!r}"
