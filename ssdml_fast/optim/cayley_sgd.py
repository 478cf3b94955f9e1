"""Stochastic gradient descent along Cayley curves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .base import FirstOrder, along_cayley


class CayleySGD(FirstOrder):
    """Stochastic gradient descent along Cayley curves, with momentum that is transported along them.

    Parameters
    ----------
    params : iterable
        Parameters, or groups of them as dicts, as for every torch optimiser. A group may set any argument below.
    lr : float
        Step, at least 0.
    momentum : float
        Share of the last direction that is kept, in [0, 1).
    weight_decay : float
        L2 penalty of ordinary parameters. Under LᵀL = I the penalty is constant, so it does not move the others.
    stiefel : bool
        Whether the parameters of a group are matrices (..., d, l) with orthonormal columns, float32 or float64, or
        ordinary ones, which are updated as by :class:`torch.optim.SGD`.
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
    Algorithm 1 of Li, Li, Todorovic, "Efficient Riemannian optimization on the Stiefel manifold via the Cayley
    transform", ICLR 2020: the direction, last momentum plus gradient, is projected to the tangent space and followed by
    :func:`ssdml_fast.cayley_update`. Two steps are exact here that are approximate there: the Cayley transform is
    solved for rather than iterated, and the momentum is carried along the curve by the rotation that moves L, which
    keeps it tangent and its length, rather than projected. Time O(d l² + l³) per matrix and step.

    Where Lᵀ grad is symmetric, as for every function of L Lᵀ, a step without momentum is that of
    ``cayley_update(L, grad, lr)``.

    Examples
    --------
    >>> import torch, ssdml_fast as sf
    >>> network, metric = torch.nn.Linear(20, 8), sf.nn.OrthogonalMetric(8, 4)
    >>> optimizer = sf.optim.CayleySGD(
    ...     [{"params": metric.parameters(), "lr": 0.1}, {"params": network.parameters(), "stiefel": False}],
    ...     lr=1e-3, momentum=0.9,
    ... )
    >>> metric(network(torch.randn(5, 20))).square().sum().backward()
    >>> optimizer.step()
    >>> metric.orthogonality_error() < 1e-5
    True
    """

    _Ordinary = torch.optim.SGD

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        stiefel: bool = True,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "stiefel": stiefel, "maximize": maximize},
        )

    def _move(self, L: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Move a batch of matrices by the gradient of what is to be minimised."""
        if not group["momentum"]:
            L.copy_(along_cayley(L, gradient, group["lr"])[0])
            return
        state = self.state[L]
        if "momentum_buffer" in state:
            gradient = gradient + group["momentum"] * state["momentum_buffer"]
        moved, state["momentum_buffer"] = along_cayley(L, gradient, group["lr"], transport=True)
        L.copy_(moved)
