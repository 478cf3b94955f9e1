"""Shards that visit the other processes: the next is on its way while one is computed with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed

from .._world import World, is_of_connection
from .agreement import Value, everywhere


@dataclass
class Ring:
    """The way of all shards of a set of points past other processes: at step s, shard r + s visits process r.

    Parameters
    ----------
    world : World
        The processes.
    points : (n_shard, d) Tensor
        The shard of this one.
    steps : int
        How many others visit each process.
    visits : callable
        The rows of its shard that visit a process, by rank, at a step; all of them but, perhaps, at the last.
    on_host : bool
        Whether the shard of any process lies in host memory, through which all are then carried if the group can.
    """

    world: World
    points: Tensor
    steps: int
    visits: Callable[[int, int], slice]
    on_host: bool
    _step: int = 0
    _rows: Tensor = field(init=False)  # that visit, as they are carried,
    _next: Tensor = field(init=False)  # and those that are to
    _rooms: dict[int, Tensor] = field(default_factory=dict)
    _on_their_way: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rows = self._next = self._carried(self.points)
        self.send_on()

    def arrival(self) -> Tensor:
        """Wait for the next rows that visit this process."""
        self.wait()
        self._step += 1
        self._rows = self._next
        return self._rows.to(self.points.device)

    def send_on(self) -> None:
        """Let the rows that are here go on to the process before, and others come, while they are computed with."""
        step, size, rank = self._step + 1, self.world.size, self.world.rank
        if step > self.steps:
            return
        before, after = (rank - 1) % size, (rank + 1) % size
        self._next = self._room(step)
        self._on_their_way = self._start([self._rows[self.visits(before, step)]], before, [self._next], after)

    def _room(self, step: int) -> Tensor:
        """Where the rows of a step arrive: in the memory of those before the last, which nobody needs any more."""
        rank, parity = self.world.rank, step % 2
        coming = [self.visits(rank, each) for each in range(step, self.steps + 1, 2)]
        rows = [each.stop - each.start for each in coming]
        if parity not in self._rooms:
            self._rooms[parity] = self._rows.new_empty((max(rows), self._rows.shape[1]))
        return self._rooms[parity][: rows[0]]

    def everywhere(self, work: Callable[[], Value]) -> Value:
        """Compute in every process, or fail in all, with nothing left on its way that a later call would get."""
        results = []
        try:
            everywhere(self.world, lambda: results.append(work()))
        except Exception as error:
            if not is_of_connection(error):
                self.wait()
            raise
        return results[0]

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
