"""Processes that divide the columns of a problem, as threads of this one that take turns, a turn ending where they
exchange: the kernels know no difference."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Meeting:
    """Where `size` peers exchange numbers.

    A sum must be of numbers that all peers but one leave at zero: only such are the same whoever sums them.
    """

    size: int
    n_sent: int = 0  # numbers that each peer has given
    n_own: list[int] = field(default_factory=list)  # those that a peer gave and no other
    given: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        self.barrier = threading.Barrier(self.size, timeout=60)
        self.turn = threading.Lock()
        self.n_own = [0] * self.size

    def exchange(self, rank: int, numbers: memoryview, reduce: Callable[[np.ndarray], np.ndarray]) -> None:
        view = np.asarray(numbers)
        assert view.dtype == np.float64 and view.ndim == 1
        self.given[rank] = view.copy()
        self.turn.release()
        try:
            self.barrier.wait()
            view[:] = reduce(np.stack([self.given[each] for each in range(self.size)]))
            if self.barrier.wait() == 0:
                self.n_sent += len(view)
        finally:
            self.turn.acquire()


@dataclass
class Peer:
    """One of them, as the kernels want it."""

    meeting: Meeting
    rank: int

    @property
    def size(self) -> int:
        return self.meeting.size

    def sum(self, numbers: memoryview) -> None:
        def added(given):
            assert ((given != 0).sum(0) <= 1).all()
            self.meeting.n_own[self.rank] += np.count_nonzero(given[self.rank])
            return given.sum(0)

        self.meeting.exchange(self.rank, numbers, added)

    def max(self, numbers: memoryview) -> None:
        self.meeting.exchange(self.rank, numbers, lambda given: given.max(0))


def together(size: int, work: Callable[[Peer], Any], meeting: Meeting | None = None) -> list[Any]:
    """What `work` returns for each of `size` peers, in order of rank; the first error of any is raised."""
    meeting = meeting or Meeting(size)

    def one(rank):
        with meeting.turn:
            try:
                return work(Peer(meeting, rank))
            except BaseException:
                meeting.barrier.abort()
                raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    errors = [future.exception() for future in futures if future.exception() is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
