"""Adam along Cayley curves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .. import _scalars as scalars
from .base import FirstOrder, along_cayley


class CayleyAdam(FirstOrder):
    """Adam along Cayley curves: momentum transported along them, steps scaled by one second moment per matrix.

    Parameters
    ----------
    params : iterable
        Parameters, or groups of them as dicts, as for every torch optimiser. A group may set any argument below.
    lr : float
        Step, at least 0: about the Frobenius norm by which a matrix moves at first.
    betas : (float, float)
        Decay of the moments of the gradient and of its squared norm, each in [0, 1).
    eps : float
        Added to the root of the second moment, at least 0.
    weight_decay : float
        L2 penalty of ordinary parameters. Under LᵀL = I the penalty is constant, so it does not move the others.
    stiefel : bool
        Whether the parameters of a group are matrices (..., d, l) with orthonormal columns, float32 or float64, or
        ordinary ones, which are updated as by :class:`torch.optim.Adam`.
    maximize : bool
        Ascend instead.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or a parameter of a Stiefel group is no such matrix.
    RuntimeError
        In :meth:`step`, for sparse gradients.

    Notes
    -----
    Algorithm 2 of Li, Li, Todorovic, "Efficient Riemannian optimization on the Stiefel manifold via the Cayley
    transform", ICLR 2020, with its betas; as in :class:`CayleySGD`, the transform is solved for rather than iterated
    (which needs no bound on the step) and the momentum is carried along the curve rather than projected. A second
    moment per entry, as Adam's, would turn the step out of the tangent space. Time O(d l² + l³) per matrix and step.

    Examples
    --------
    >>> import torch, ssdml_fast as sf
    >>> metric = sf.nn.OrthogonalMetric(8, 4)
    >>> optimizer = sf.optim.CayleyAdam(metric.parameters(), lr=0.1)
    >>> metric(torch.randn(5, 8)).square().sum().backward()
    >>> optimizer.step()
    >>> metric.orthogonality_error() < 1e-5
    True
    """

    _Ordinary = torch.optim.Adam

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        stiefel: bool = True,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "stiefel": stiefel,
                "maximize": maximize,
            },
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; one with ``stiefel=True`` must hold matrices with orthonormal columns."""
        betas = param_group.get("betas", self.defaults["betas"])
        if len(betas) != 2 or not all(0 <= scalars.as_float(beta, "betas") < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers of at least 0 and less than 1, found {betas}")
        super().add_param_group(param_group)

    def _move(self, L: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Move a batch of matrices by the gradient of what is to be minimised."""
        state, (beta1, beta2) = self.state[L], group["betas"]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            state["exp_avg"] = torch.zeros_like(L, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = L.new_zeros((*L.shape[:-2], 1, 1))
        state["step"] += 1
        steps = state["step"].item()
        first = torch.lerp(state["exp_avg"], gradient, 1 - beta1)
        second = state["exp_avg_sq"].lerp_(gradient.square().sum((-2, -1), keepdim=True), 1 - beta2)
        scale = 1 / ((1 - beta1**steps) * ((second / (1 - beta2**steps)).sqrt_() + group["eps"]))
        moved, state["exp_avg"] = along_cayley(L, first, group["lr"], scale, transport=True)
        L.copy_(moved)
