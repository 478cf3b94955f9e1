"""The processes of one training: who they are, and where they must agree. Alone, there is nothing to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class World:
    """The processes that train together, as torch.distributed has them.

    Attributes
    ----------
    rank, size : int
        The number of this process, from 0, and how many there are.

    Examples
    --------
    >>> world = World.here()
    >>> world.rank, world.size, world.same("a decision")
    (0, 1, 'a decision')
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> World:
        """The process group that has been initialised, or this process alone."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.rank == 0

    def shard(self, n: int) -> slice:
        """The rows, of n, that are this process's: parts in order of rank, whose sizes differ by at most one."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def gather(self, part: Tensor, n: int) -> Tensor:
        """Join the parts of every process, cut by :meth:`shard`, to all n rows."""
        if self.size == 1:
            return part
        most = -(-n // self.size)  # all_gather wants equal sizes
        padded = part.new_zeros((most, *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded)
        return torch.cat([p[: n * (r + 1) // self.size - n * r // self.size] for r, p in enumerate(parts)])

    def same(self, value: Any) -> Any:
        """The value of the first process, for every process: what is decided is decided once."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        if self.size > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)
                tensor /= self.size
