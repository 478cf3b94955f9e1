"""How a kernel exchanges numbers with those of the other processes while all of them solve one problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .._world import World
from .agreement import everywhere

Value = TypeVar("Value")


class Peers:
    """The processes of a world, as a kernel calls them (``csrc/common/peers.h``).

    Each exchange begins with a word on whether anyone failed since the last, so that no process waits for one that will
    not come.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_computing = True  # not exchanging, so that the others wait for this process

    @property
    def rank(self) -> int:
        return self.world.rank

    @property
    def size(self) -> int:
        return self.world.size

    def sum(self, numbers: memoryview) -> None:
        self._exchange(numbers, self.world.sum_)

    def max(self, numbers: memoryview) -> None:
        self._exchange(numbers, self.world.max_)

    def _exchange(self, numbers: memoryview, replace: Callable[[Sequence[Tensor]], None]) -> None:
        self.meet()
        replace([torch.frombuffer(numbers, dtype=torch.float64)])
        self.is_computing = True

    def meet(self, own: Exception | None = None) -> None:
        """Wait for the others and hear whether one of them failed, or tell them that this process did.

        Raises
        ------
        TypeError, ValueError, ssdml_fast.exceptions.ProcessError
            As :func:`everywhere` does.
        """

        def fail() -> None:
            if own is not None:
                raise own

        self.is_computing = False
        failed = torch.tensor([own is not None], dtype=torch.float64)
        self.world.max_([failed])
        if failed.item():
            everywhere(self.world, fail)


def divided(world: World, work: Callable[[Peers], Value]) -> Value:
    """Do something whose parts the processes exchange through what it is given, and end it together."""
    peers = Peers(world)
    try:
        result = work(peers)
    except Exception as error:
        if peers.is_computing:
            peers.meet(error)
        raise
    peers.meet()
    return result
