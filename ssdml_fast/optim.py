"""torch optimisers for parameters with orthonormal columns, beside ordinary ones in groups of their own.

In a group with ``stiefel=True`` (the default) every parameter is a batch (..., d, l) of matrices with LᵀL = I, and
stays one; a group with ``stiefel=False`` is updated as by torch's own optimiser of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import Optimizer, ParamsT
from torch.optim.sgd import sgd

from . import _arrays as arrays
from .nn import orthogonality_error
from .ops.stiefel import TOLERANCE, cayley_update, qr_retraction

__all__ = ["CayleyAdam", "CayleySGD", "RiemannianCG"]


class _StiefelOptimizer(Optimizer):
    """What the optimisers share: groups are validated, gradients must be dense."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; one with ``stiefel=True`` must hold matrices with orthonormal columns."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            if not isinstance(group["stiefel"], bool):
                raise TypeError(f"stiefel must be True or False, found {group['stiefel']!r}")
            for name, low, high in _RANGES:
                if name in group and not low <= arrays.as_float(group[name], name) < high:
                    span = f"at least {low:g}" + f" and less than {high:g}" * (high < torch.inf)
                    raise ValueError(f"{name} must be {span}, found {group[name]}")
            if group["stiefel"]:
                for i, parameter in enumerate(group["params"]):
                    _check_orthonormal(parameter.detach(), f"params[{i}]")
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _with_gradient(self, group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters of a group that have a gradient, and the gradients of what is to be minimised."""
        pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
        if any(grad.layout is not torch.strided for _, grad in pairs):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
        return [p for p, _ in pairs], [-grad if group["maximize"] else grad for _, grad in pairs]


class CayleySGD(_StiefelOptimizer):
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

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move every parameter that has a gradient; returns what `closure`, called first, returns."""
        loss = _call(closure)
        for group in self.param_groups:
            parameters, gradients = self._with_gradient(group)
            if group["stiefel"]:
                for L, gradient in zip(parameters, gradients, strict=True):
                    self._move(L, gradient, group)
            else:
                self._move_ordinary(parameters, gradients, group)
        return loss

    def _move(self, L: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if not group["momentum"]:
            L.copy_(_along_cayley(L, gradient, group["lr"])[0])
            return
        state = self.state[L]
        if "momentum_buffer" in state:
            gradient = gradient + group["momentum"] * state["momentum_buffer"]
        moved, state["momentum_buffer"] = _along_cayley(L, gradient, group["lr"], transport=True)
        L.copy_(moved)

    def _move_ordinary(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        buffers = [self.state[p].get("momentum_buffer") for p in parameters]
        sgd(
            parameters,
            gradients,
            buffers,
            lr=group["lr"],
            momentum=group["momentum"],
            weight_decay=group["weight_decay"],
            maximize=False,  # the gradients have that sign already
            dampening=0,
            nesterov=False,
        )
        if group["momentum"]:
            for parameter, buffer in zip(parameters, buffers, strict=True):
                self.state[parameter]["momentum_buffer"] = buffer


class CayleyAdam(_StiefelOptimizer):
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
        if len(betas) != 2 or not all(0 <= arrays.as_float(beta, "betas") < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers of at least 0 and less than 1, found {betas}")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move every parameter that has a gradient; returns what `closure`, called first, returns."""
        loss = _call(closure)
        for group in self.param_groups:
            parameters, gradients = self._with_gradient(group)
            for parameter in parameters:
                self._prepare(parameter, group["stiefel"])
            if group["stiefel"]:
                for L, gradient in zip(parameters, gradients, strict=True):
                    self._move(L, gradient, group)
            else:
                self._move_ordinary(parameters, gradients, group)
        return loss

    def _prepare(self, parameter: Tensor, stiefel: bool) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = (
                parameter.new_zeros((*parameter.shape[:-2], 1, 1)) if stiefel else torch.zeros_like(parameter)
            )

    def _move(self, L: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[L], group["betas"]
        state["step"] += 1
        steps = state["step"].item()
        first = torch.lerp(state["exp_avg"], gradient, 1 - beta1)
        second = state["exp_avg_sq"].lerp_(gradient.square().sum((-2, -1), keepdim=True), 1 - beta2)
        scale = 1 / ((1 - beta1**steps) * ((second / (1 - beta2**steps)).sqrt_() + group["eps"]))
        moved, state["exp_avg"] = _along_cayley(L, first, group["lr"], scale, transport=True)
        L.copy_(moved)

    def _move_ordinary(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[p] for p in parameters]
        adam(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,  # the gradients have that sign already
        )


class RiemannianCG(_StiefelOptimizer):
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
        A step ends once the Riemannian gradient or the last move is shorter than this.
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
        min_gradient_norm: float = 1e-6,
        min_step: float = 1e-10,
        *,
        stiefel: bool = True,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "max_iter": arrays.as_int(max_iter, "max_iter", 1),
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

    @torch.no_grad()
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
        first_loss = _call(closure)
        cost, gradient = self._cost(first_loss), self._gradient()
        direction = [-g for g in gradient]
        guess = None
        for _ in range(settings["max_iter"]):
            if _inner(gradient, gradient) ** 0.5 < settings["min_gradient_norm"]:
                break
            slope = _inner(gradient, direction)
            if slope >= 0:  # no descent: begin anew along the gradient
                direction = [-g for g in gradient]
                slope = -_inner(gradient, gradient)
            length = _inner(direction, direction) ** 0.5
            guess = 1 / length if guess is None else guess
            new_cost, step, guess = self._search(closure, cost, slope, direction, guess)
            if step * length < settings["min_step"]:
                break
            new_gradient = self._gradient()
            direction = self._project(direction)
            # The old gradient would be projected too, but only its products with tangent vectors are taken.
            change = [new - old for new, old in zip(new_gradient, gradient, strict=True)]
            curvature = _inner(change, direction)
            beta = max(0.0, _inner(new_gradient, change) / curvature) if curvature else 1.0
            direction = [beta * d - g for d, g in zip(direction, new_gradient, strict=True)]
            cost, gradient = new_cost, new_gradient
        return first_loss

    def _search(
        self, closure: Callable[[], Any], cost: float, slope: float, direction: list[Tensor], step: float
    ) -> tuple[float, float, float]:
        """Halve `step` until the cost falls enough; returns the new cost, the step taken, and what to try next time.

        The parameters and their gradients are then those of the point accepted, or, after a step of 0, the parameters
        are as they were.
        """
        start = [p.clone() for p, _ in self._points()]
        evaluations = 0
        while True:
            for (p, stiefel), origin, d in zip(self._points(), start, direction, strict=True):
                p.copy_(qr_retraction(origin, step * d) if stiefel else origin + step * d)
            new_cost = self._cost(_call(closure))
            evaluations += 1
            if new_cost <= cost + 0.5 * step * slope or evaluations == 10:  # NaN is never small enough
                break
            step /= 2
        if not new_cost <= cost:
            for (p, _), origin in zip(self._points(), start, strict=True):
                p.copy_(origin)
            return cost, 0.0, step
        return new_cost, step, step if evaluations == 2 else 2 * step

    def _points(self) -> Iterable[tuple[Tensor, bool]]:
        return ((p, group["stiefel"]) for group in self.param_groups for p in group["params"])

    def _cost(self, loss: Any) -> float:
        """What is to be minimised."""
        return -float(loss) if self.param_groups[0]["maximize"] else float(loss)

    def _gradient(self) -> list[Tensor]:
        """Riemannian gradient of the cost at the parameters, after the closure has left the Euclidean one there."""
        found = dict[Tensor, Tensor]()
        for group in self.param_groups:
            found.update(zip(*self._with_gradient(group), strict=True))
        return self._project([found.get(p, torch.zeros_like(p)) for p, _ in self._points()])

    def _project(self, vectors: list[Tensor]) -> list[Tensor]:
        """To the tangent spaces at the parameters."""
        return [_tangent(p, v) if stiefel else v for (p, stiefel), v in zip(self._points(), vectors, strict=True)]


_RANGES = (
    ("lr", 0, torch.inf),
    ("momentum", 0, 1),
    ("eps", 0, torch.inf),
    ("weight_decay", 0, torch.inf),
    ("min_gradient_norm", 0, torch.inf),
    ("min_step", 0, torch.inf),
)


def _call(closure: Callable[[], Any] | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _check_orthonormal(L: Tensor, name: str) -> None:
    """Refuse what is no float32 or float64 (..., d, l) tensor with orthonormal columns."""
    arrays.check_floats(L, name, halves=False)
    if L.ndim < 2 or not 1 <= L.shape[-1] <= L.shape[-2]:
        raise ValueError(
            f"{name} must have shape (..., d, l) with 1 <= l <= d in a group with stiefel=True, found {tuple(L.shape)}"
        )
    drift = orthogonality_error(L)
    if not drift <= TOLERANCE[arrays.dtype_name(L)]:
        raise ValueError(
            f"{name} must have orthonormal columns in a group with stiefel=True, found |LᵀL - I| as large as "
            f"{drift:.2g}; initialise it with torch.nn.init.orthogonal_, or set stiefel=False"
        )


def _along_cayley(
    L: Tensor, direction: Tensor, step: float, scale: Tensor | None = None, transport: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Move L against the tangent part of `direction`, times `step` and `scale`; carry that part along if asked to.

    With D the tangent part, F = D - L LᵀD / 2 and A = F Lᵀ - L Fᵀ have A L = D, so `cayley_update` with F in place of a
    gradient leaves L at -D. The rotation Q that it applies commutes with A, hence Q D = Q A L = A Q L = A L⁺, where L⁺
    is the matrix moved to.
    """
    inner = L.mT @ direction
    # F, up to L times a symmetric matrix, which cancels in A
    ambient = torch.sub(direction, L @ (inner - inner.mT), alpha=0.25)
    moved = cayley_update(L, ambient if scale is None else scale * ambient, step)
    if not transport:
        return moved, None
    return moved, ambient @ (L.mT @ moved) - L @ (ambient.mT @ moved)


def _tangent(L: Tensor, ambient: Tensor) -> Tensor:
    """Orthogonal projection to the tangent space at L: what leaves LᵀL unchanged to first order."""
    inner = L.mT @ ambient
    return ambient - L @ ((inner + inner.mT) / 2)


def _inner(a: list[Tensor], b: list[Tensor]) -> float:
    return sum(float((x * y).sum(dtype=torch.float64)) for x, y in zip(a, b, strict=True))
