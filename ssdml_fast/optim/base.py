"""What the optimisers share: groups and their validation, and motion along Cayley curves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from .. import _arrays as arrays
from .. import _scalars as scalars
from .._run.stiefel import TOLERANCE
from ..nn import check_whole, orthogonality_error
from ..ops.stiefel import cayley_update

Step = TypeVar("Step", bound=Callable[..., Any])
OF_GROUP = " of a group with stiefel=True"
RANGES = (
    ("lr", 0, torch.inf),
    ("momentum", 0, 1),
    ("eps", 0, torch.inf),
    ("weight_decay", 0, torch.inf),
    ("min_gradient_norm", 0, torch.inf),
    ("min_step", 0, torch.inf),
)


class StiefelOptimizer(Optimizer):
    """What the optimisers share: groups are validated, gradients must be dense."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; one with ``stiefel=True`` must hold matrices with orthonormal columns."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            if not isinstance(group["stiefel"], bool):
                raise TypeError(f"stiefel must be True or False, found {group['stiefel']!r}")
            for name, low, high in RANGES:
                if name in group and not low <= scalars.as_float(group[name], name) < high:
                    span = f"at least {low:g}" + f" and less than {high:g}" * (high < torch.inf)
                    raise ValueError(f"{name} must be {span}, found {group[name]}")
            if group["stiefel"]:
                for i, parameter in enumerate(group["params"]):
                    _check_orthonormal(parameter.detach(), f"params[{i}]")
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _check_gradients(self) -> None:
        """Refuse gradients that are sparse, and matrices and gradients of theirs that kernels cannot read."""
        for group in self.param_groups:
            for i, p in enumerate(group["params"]):
                if group["stiefel"]:
                    check_whole(p, f"params[{i}]{OF_GROUP}")
                if p.grad is None:
                    continue
                if p.grad.layout is not torch.strided:
                    raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
                if group["stiefel"]:
                    arrays.check_floats(p.grad, f"params[{i}].grad", halves=False)

    def _with_gradient(self, group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters of a group that have a gradient, and the gradients of what is to be minimised."""
        pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
        return [p for p, _ in pairs], [-grad if group["maximize"] else grad for _, grad in pairs]


def without_autograd(step: Step) -> Step:
    """Take a step that is not differentiated; in inference mode too it keeps tensors that may be changed outside."""

    @functools.wraps(step)
    def taken(*arguments: Any, **options: Any) -> Any:
        with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext(), torch.no_grad():
            return step(*arguments, **options)

    return taken  # type: ignore[return-value]


class FirstOrder(StiefelOptimizer):
    """An optimiser that moves each matrix by its gradient; torch's own of that kind moves ordinary groups."""

    _Ordinary: ClassVar[type[Optimizer]]  # of groups with stiefel=False

    @without_autograd
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move every parameter that has a gradient; returns what `closure`, called first, returns."""
        loss = evaluate(closure)
        self._check_gradients()
        for group in self.param_groups:
            if group["stiefel"]:
                for L, gradient in zip(*self._with_gradient(group), strict=True):
                    self._move(L, gradient, group)
            else:
                self._move_ordinary(group)
        return loss

    def _move(self, L: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Move a batch of matrices by the gradient of what is to be minimised."""
        raise NotImplementedError

    @functools.cached_property
    def _ordinary(self) -> Optimizer:
        return self._Ordinary([torch.empty(0)])  # type: ignore[call-arg]

    def _move_ordinary(self, group: dict[str, Any]) -> None:
        """Move the parameters of a group as torch's own optimiser does, by the settings and the state that are here."""
        self._ordinary.state, self._ordinary.param_groups = self.state, [{**self._ordinary.defaults, **group}]
        self._ordinary.step()


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """Return what a closure returns, which may differentiate, or None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _check_orthonormal(L: Tensor, name: str) -> None:
    """Refuse what is no float32 or float64 (..., d, l) tensor with orthonormal columns."""
    check_whole(L, f"{name}{OF_GROUP}")
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


def along_cayley(
    L: Tensor, direction: Tensor, step: float, scale: Tensor | None = None, transport: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Move L against the tangent part of `direction`, times `step` and `scale`; carry that part along if asked to.

    With D the tangent part, F = D - L LᵀD / 2 and A = F Lᵀ - L Fᵀ have A L = D, so `cayley_update` with F in place of a
    gradient leaves L at -D. The rotation Q that it applies commutes with A, hence Q D = Q A L = A Q L = A L⁺, where L⁺
    is the matrix moved to.
    """
    with arrays.in_own_type(L):
        inner = L.mT @ direction
        # F, up to L times a symmetric matrix, which cancels in A
        ambient = torch.sub(direction, L @ (inner - inner.mT), alpha=0.25)
        moved = cayley_update(L, ambient if scale is None else scale * ambient, step)
        if not transport:
            return moved, None
        return moved, ambient @ (L.mT @ moved) - L @ (ambient.mT @ moved)
