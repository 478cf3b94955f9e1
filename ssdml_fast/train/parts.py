"""The parts of a mini-batch: which rows each process embeds, and how all get all embeddings, with a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._world import World


def part_of(world: World, n: int) -> slice:
    """Rows, of a mini-batch of n, that a process embeds: where there are fewer rows than processes, all of them.

    Batch normalisation cannot learn from nothing, and a process that embeds nothing would be waited for in vain.

    Examples
    --------
    >>> [part_of(World(rank, 3), 7) for rank in range(3)], part_of(World(2, 3), 2)
    ([slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)], slice(0, 2, None))
    """
    return world.shard(n) if is_divided(world, n) else slice(0, n)


def is_divided(world: World, n: int) -> bool:
    """Whether the processes divide a mini-batch of n rows."""
    return 1 < world.size <= n


def whole_of(world: World, part: Tensor, n: int) -> Tensor:
    """Join the parts of all processes to the mini-batch of n rows, the same bits everywhere.

    All processes take the same loss of it. So each knows the gradient of its own rows, which it multiplies by the
    number of processes: DistributedDataParallel takes the mean of theirs, where their sum is the gradient.
    """
    return _Joined.apply(part, n, world) if is_divided(world, n) else part


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, n: int, world: World) -> Tensor:
        ctx.rows, ctx.size = world.shard(n), world.size
        return world.gather(part, n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.size * gradient[ctx.rows], None, None
