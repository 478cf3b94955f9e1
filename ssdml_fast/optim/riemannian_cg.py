"""Riemannian conjugate gradients for any objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .. import _arrays as arrays
from .. import _line_search as line_search
from .. import _scalars as scalars
from ..ops.stiefel import qr_retraction
from .base import StiefelOptimizer, evaluate, without_autograd


class RiemannianCG(StiefelOptimizer):
    """Riemannian conjugate gradient, with Manopt's defaults, for any objective that a closure computes.

    All parameters together are one point of a product of Stiefel manifolds and vector spaces. Each :meth:`step` is a
    minimisation of its own, of up to `max_iter` iterations that begin along the gradient: nothing is kept from one to
    the next, so the objective may change in between, as with mini-batches.

    Parameters
    ----------
    params : iterable
        Parameters, or groups of them as dicts, which may set `stiefel`.
    max_iter : int
        Most iterations of a step, at least 1 (the SSDML paper: 10 per mini-batch).
    min_gradient_norm, min_step : float
        A step ends once the Riemannian gradient or the last move is shorter than this, or no more than rounding.
    stiefel : bool
        Whether the parameters of a group are matrices (..., d, l) with orthonormal columns, or ordinary ones.
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
    Embedded metric, retraction by QR decomposition, transport by projection, Hestenes-Stiefel coefficients cut at zero,
    and Manopt's adaptive line search (Armijo constant 0.5, halving, at most 10 evaluations). Boumal, Mishra, Absil,
    Sepulchre, "Manopt, a Matlab toolbox for optimization on manifolds", JMLR 2014.

    Examples
    --------
    >>> import torch, ssdml_fast as sf
    >>> metric, scatter = sf.nn.OrthogonalMetric(3, 1), torch.diag(torch.tensor([1.0, 2.0, 5.0]))
    >>> optimizer = sf.optim.RiemannianCG(metric.parameters(), max_iter=50, maximize=True)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     explained = torch.trace(metric.L.T @ scatter @ metric.L)
    ...     explained.backward()
    ...     return explained
    >>> _ = optimizer.step(closure)
    >>> round(closure().item(), 4)  # the largest eigenvalue
    5.0
    """

    def __init__(
        self,
        params: ParamsT,
        max_iter: int = 10,
        min_gradient_norm: float = line_search.LEAST_GRAD_NORM,
        min_step: float = line_search.LEAST_STEP,
        *,
        stiefel: bool = True,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "max_iter": scalars.as_int(max_iter, "max_iter", 1),
                "min_gradient_norm": min_gradient_norm,
                "min_step": min_step,
                "stiefel": stiefel,
                "maximize": maximize,
            },
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, which may differ from the others in `stiefel` alone."""
        for name, value in self.defaults.items():
            if name != "stiefel" and param_group.get(name, value) != value:
                raise ValueError(f"{name} must be the same for all groups, {value}, found {param_group[name]}")
        super().add_param_group(param_group)

    @without_autograd
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Minimise; `closure` clears the gradients, computes the loss and its gradients, and returns the loss.

        Parameters
        ----------
        closure : callable
            Evaluated several times per iteration.

        Returns
        -------
        loss
            What `closure` returned for the parameters as they were before.
        """
        settings = self.param_groups[0]
        first_loss = evaluate(closure)
        epsilon = torch.finfo(first_loss.dtype if isinstance(first_loss, Tensor) else torch.float64).eps
        cost, (gradient, rounding) = self._cost(first_loss), self._gradient()
        direction = [-g for g in gradient]
        guess = None
        for _ in range(settings["max_iter"]):
            norm = _inner(gradient, gradient) ** 0.5
            if not line_search.descends(norm, rounding, settings["min_gradient_norm"]):
                break
            slope = _inner(gradient, direction)
            if not line_search.leads_down(slope, norm, rounding, epsilon):  # begin anew along the gradient
                direction = [-g for g in gradient]
                slope = -_inner(gradient, gradient)
            length = _inner(direction, direction) ** 0.5
            guess = 1 / length if guess is None else guess
            new_cost, step, guess = self._search(closure, cost, slope, direction, guess, epsilon)
            if step == 0 or step * length < settings["min_step"]:
                break
            new_gradient, rounding = self._gradient()
            direction = self._project(direction)
            # The old gradient would be projected too, but only its products with tangent vectors are taken.
            change = [new - old for new, old in zip(new_gradient, gradient, strict=True)]
            curvature = _inner(change, direction)
            beta = max(0.0, _inner(new_gradient, change) / curvature) if curvature else 1.0
            direction = [beta * d - g for d, g in zip(direction, new_gradient, strict=True)]
            cost, gradient = new_cost, new_gradient
        return first_loss

    def _search(
        self,
        closure: Callable[[], Any],
        cost: float,
        slope: float,
        direction: list[Tensor],
        step: float,
        epsilon: float,
    ) -> tuple[float, float, float]:
        """Search along `direction`; returns the new cost, the step taken, and what to try next time.

        The parameters and their gradients are then those of the point accepted, or, after a step of 0, the parameters
        are as they were.
        """
        start = [p.clone() for p, _ in self._points()]

        def along(step: float) -> tuple[float]:
            for (p, stiefel), origin, d in zip(self._points(), start, direction, strict=True):
                p.copy_(qr_retraction(origin, step * d) if stiefel else origin + step * d)
            return (self._cost(evaluate(closure)),)

        (new_cost,), step, guess = line_search.search(along, cost, slope, step)
        if not line_search.gains(cost, new_cost, epsilon):
            for (p, _), origin in zip(self._points(), start, strict=True):
                p.copy_(origin)
            return cost, 0.0, guess
        return new_cost, step, guess

    def _points(self) -> Iterable[tuple[Tensor, bool]]:
        return ((p, group["stiefel"]) for group in self.param_groups for p in group["params"])

    def _cost(self, loss: Any) -> float:
        """What is to be minimised."""
        return -_number(loss) if self.param_groups[0]["maximize"] else _number(loss)

    def _gradient(self) -> tuple[list[Tensor], float]:
        """Riemannian gradient of the cost at the parameters, after the closure has left the Euclidean one there, and
        how much of it may be rounding.
        """
        self._check_gradients()
        found = dict[Tensor, Tensor]()
        for group in self.param_groups:
            found.update(zip(*self._with_gradient(group), strict=True))
        euclidean = [found.get(p, torch.zeros_like(p)) for p, _ in self._points()]
        gradient = self._project(euclidean)
        normal = [torch.finfo(g.dtype).eps * (e - g) for e, g in zip(euclidean, gradient, strict=True)]
        return gradient, _inner(normal, normal) ** 0.5

    def _project(self, vectors: list[Tensor]) -> list[Tensor]:
        """To the tangent spaces at the parameters."""
        return [_tangent(p, v) if stiefel else v for (p, stiefel), v in zip(self._points(), vectors, strict=True)]


def _tangent(L: Tensor, ambient: Tensor) -> Tensor:
    """Orthogonal projection to the tangent space at L: what leaves LᵀL unchanged to first order."""
    with arrays.in_own_type(L):
        inner = L.mT @ ambient
        return ambient - L @ ((inner + inner.mT) / 2)


def _inner(a: list[Tensor], b: list[Tensor]) -> float:
    return sum(_number((x * y).sum(dtype=torch.float64)) for x, y in zip(a, b, strict=True))


def _number(x: Any) -> float:
    """The value of a number, also where each process holds a part of the sum: float() of a DTensor gives that part."""
    return float(x.full_tensor() if arrays.is_dtensor(x) else x)
