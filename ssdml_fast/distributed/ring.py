"""Shards that visit the other processes: the next is on its way while one is computed with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed

from .._world import World


@dataclass
class Ring:
    """The way of all shards of a set of points past every process: at step s, process r is visited by shard r + s.

    Parameters
    ----------
    world : World
        The processes.
    points : (n_shard, d) Tensor
        The shard of this one.
    sizes : list of int
        Rows of each shard.
    steps : int
        Shards that visit each process, itself not among them.
    visits : callable
        The rows, of all of its shard's, that visit a process at a step.
    on_host : bool
        Whether the shard of any process lies in host memory, through which all are then carried if the group can.
    """

    world: World
    points: Tensor
    sizes: list[int]
    steps: int
    visits: Callable[[int, int], slice]
    on_host: bool
    _step: int = 0
    _rows: Tensor = field(init=False)  # that visit, as they are carried
    _next: Tensor = field(init=False)
    _on_their_way: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rows = self._carried(self.points)
        self._send_on()

    def shard_at(self, rank: int, step: int) -> int:
        """Number of the shard that visits a process at a step."""
        return (rank + step) % self.world.size

    def turn(self) -> tuple[int, slice, Tensor]:
        """Wait for the next shard, and send it on; its number, which of its rows visit, and these."""
        self.wait()
        self._step += 1
        self._rows = self._next
        self._send_on()
        rank = self.world.rank
        visitor = self.shard_at(rank, self._step)
        return visitor, self.visits(rank, self._step), self._rows.to(self.points.device)

    def wait(self) -> None:
        """Wait for what is on its way."""
        for work in self._on_their_way:
            work.wait()
        self._on_their_way = []

    def exchange(self, sent: list[Tensor], to: int, of: int, rows: int) -> list[Tensor]:
        """Send rows to a process, and get as many columns of the same types, of so many rows, of another."""
        sent = [self._carried(each) for each in sent]
        got = [each.new_empty((rows, *each.shape[1:])) for each in sent]
        for work in self._start(sent, to, got, of):
            work.wait()
        return [each.to(self.points.device) for each in got]

    def _send_on(self) -> None:
        step, size, rank = self._step + 1, self.world.size, self.world.rank
        if step > self.steps:
            return
        mine, theirs = self.visits(rank, step), self.visits((rank - 1) % size, step)
        self._next = self._rows.new_empty((mine.stop - mine.start, self._rows.shape[1]))
        self._on_their_way = self._start([self._rows[theirs]], (rank - 1) % size, [self._next], (rank + 1) % size)

    def _start(self, sent: list[Tensor], to: int, got: list[Tensor], of: int) -> list[Any]:
        """Begin to send and to receive; what is empty is neither."""
        operations = [self._operation(distributed.isend, each, to) for each in sent if each.numel()]
        operations += [self._operation(distributed.irecv, each, of) for each in got if each.numel()]
        return distributed.batch_isend_irecv(operations) if operations else []

    def _operation(self, how: Any, what: Tensor, rank: int) -> Any:
        group = self.world.group
        peer = rank if group is None else distributed.get_global_rank(group, rank)
        return distributed.P2POp(how, what, peer, group)

    def _carried(self, rows: Tensor) -> Tensor:
        if self.world.size == 1:
            return rows
        device = torch.device("cpu") if self.on_host else rows.device
        return rows.to(self.world.carrier(device)).contiguous()
