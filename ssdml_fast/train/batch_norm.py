"""Batch normalisation of a batch that several processes hold parts of: by the statistics of the whole.

torch's own SyncBatchNorm is of CUDA alone, and takes the place of modules, also of those that do more than normalise;
here the function under them is what differs while a network learns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .. import _arrays as arrays
from .._world import World


class Synchronized(TorchFunctionMode):
    """Within it, batch norms normalise by what all processes hold, each its part of a batch; none may hold nothing.

    All processes are to go through the same layers. Gradients of weights are of this process's part alone.

    Parameters
    ----------
    world : World
        The processes.

    Examples
    --------
    >>> x = torch.randn(6, 3)
    >>> with Synchronized(World()):
    ...     alone = F.batch_norm(x, None, None, training=True)
    >>> torch.allclose(alone, F.batch_norm(x, None, None, training=True), atol=1e-6)
    True
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, but for one."""
        kwargs = kwargs or {}
        return self.batch_norm(*args, **kwargs) if function is F.batch_norm else function(*args, **kwargs)

    def batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """As torch.nn.functional.batch_norm, of the whole batch."""
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        mean, var, n = _moments(input.detach(), self.world)
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean.to(running_mean), momentum)
            if running_var is not None:
                running_var.lerp_((var * (n / (n - 1))).to(running_var), momentum)
        return _Normalized.apply(input, weight, bias, mean, var, n, eps, self.world)


def _moments(x: Tensor, world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each channel over all processes, and of how many numbers.

    Each part's variance is about its own mean, so that nothing cancels.
    """
    var, mean = torch.var_mean(arrays.at_least_float32(x), _but_channels(x), correction=0)
    part = torch.cat([mean, var, mean.new_full((1,), x.numel() / x.shape[1])])
    parts = world.gather(part[None], world.size)
    means, variances, sizes = parts.split([len(mean), len(mean), 1], 1)
    n = sizes.sum()
    mean = (sizes * means).sum(0) / n
    return mean, (sizes * (variances + (means - mean).square())).sum(0) / n, n


class _Normalized(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) · weight + bias, where mean and variance are of all x of all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, n: Tensor,
        eps: float, world: World,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, mean, var, n)
        ctx.has_bias, ctx.eps, ctx.world = bias is not None, eps, world
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, n = ctx.saved_tensors
        shape = [1, -1] + [1] * (x.ndim - 2)
        scale = (var + ctx.eps).rsqrt()
        normal = (x - mean.view(shape)) * scale.view(shape)
        gradient = gradient.to(normal.dtype)
        own = torch.stack([gradient.sum(_but_channels(x)), (gradient * normal).sum(_but_channels(x))])
        whole = own.clone()
        ctx.world.sum_([whole])
        of_mean, of_normal = whole / n
        factor = scale if weight is None else scale * weight
        of_x = factor.view(shape) * (gradient - of_mean.view(shape) - normal * of_normal.view(shape))
        of_weight, of_bias = None if weight is None else own[1], own[0] if ctx.has_bias else None
        return of_x.to(x.dtype), of_weight, of_bias, None, None, None, None, None


def _but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]
