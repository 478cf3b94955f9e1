"""Processes that decode examples of a Dataset into memory that they share with this one."""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import pickle
import signal
import tempfile
import traceback
from collections import deque
from dataclasses import dataclass
from multiprocessing import connection, reduction, util
from typing import Any

import numpy as np
import torch

from .._signals import ENDING
from .dataset import DataError
from .example import Form, read_example

PIECE = 1 << 20  # bytes that a worker decodes between two messages, where that is not more examples than
PIECE_EXAMPLES = 32
AHEAD = 64 << 20  # bytes decoded and not yet copied from the shared memory, where that is not more pieces than
AHEAD_PIECES = 32  # of each worker
KEPT_BY_MALLOC = 31 << 20
"""Once so many bytes have been freed, glibc no more maps and unmaps a large block each time that one is asked for.

A third of the time of decoding 500x375 pixels went into the page faults of that (AMD Zen, Pillow 13).
"""
STARTING, IDLE = -2, -1  # in place of the row that a worker is at
HEADER = mmap.PAGESIZE  # of the shared memory: the row that each worker is at


def layout(n: int, n_bytes: int) -> tuple[int, int]:
    """Examples of a piece, and pieces in the memory that is shared with `n` workers, by the bytes of an example.

    Examples
    --------
    >>> layout(2, 224 * 224 * 3)
    (6, 64)
    """
    piece = max(1, min(PIECE_EXAMPLES, PIECE // max(n_bytes, 1)))
    return piece, min(AHEAD_PIECES * n, max(2 * n, AHEAD // max(piece * n_bytes, 1)))


@dataclass(eq=False)
class Job:
    """Examples that were ordered, and where they go."""

    out: np.ndarray
    pieces: int  # yet to come
    problem: tuple[str, str] | None = None  # what the first example said that could not be read, and where from
    cancelled: bool = False


@dataclass(frozen=True)
class _Piece:
    job: Job
    rows: np.ndarray
    places: np.ndarray


class Workers:
    """Decode examples in other processes, in the order in which they are ordered.

    They are neither forked from this process, whose threads of OpenMP a child would wait for in vain, nor do they
    inherit its memory: the data set is pickled. They end with this process, whatever ends it.

    Parameters
    ----------
    dataset : map-style Dataset
        Can be pickled.
    form : Form
        Shape and type of each example.
    name : str
        What to call the data set in messages.
    n : int
        How many, at least one.

    Raises
    ------
    TypeError
        If `dataset` cannot be pickled.
    """

    def __init__(self, dataset: Any, form: Form, name: str, n: int) -> None:
        self.form, self.name = form, name
        self.piece, n_slots = layout(n, form.n_bytes)
        memory = _SharedMemory(n, (n_slots, self.piece, *form.shape), form.dtype)
        self.at, self.slots = memory.at, memory.slots
        self.free = deque(range(n_slots))
        self.queue: deque[_Piece] = deque()
        self.given: list[deque[tuple[_Piece, int]]] = [deque() for _ in range(n)]  # to each worker, with its slot
        self.connections: list[connection.Connection] = []
        self.processes: list[Any] = []
        # When the interpreter ends too, before multiprocessing waits for what SIGTERM does not end.
        util.Finalize(self, _end, (self.processes, self.connections), exitpriority=0)
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:  # its server imports torch once, for all workers; it may be running already
            context.set_forkserver_preload(["__main__", __name__])
        try:
            for worker in range(n):
                ours, theirs = context.Pipe()
                self.connections.append(ours)
                arguments = (theirs, memory, form, dataset, name, worker)
                process = context.Process(target=_work, args=arguments, daemon=True, name=f"{name}-{worker}")
                self._start(process)
                theirs.close()  # so that the connection ends with the worker
        except BaseException:
            self.close()
            raise
        finally:
            memory.close()

    def _start(self, process: Any) -> None:
        try:
            process.start()
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise TypeError(
                f"{self.name} must be a Dataset that can be pickled, for workers to read it, or workers must be 0: "
                f"{error}"
            ) from error
        except BrokenPipeError:  # it ended before it had read what it is to work with
            raise self._false_start("ended") from None
        self.processes.append(process)

    def order(self, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> Job:
        """Order the examples of `rows`, to be written to ``out[places]``."""
        starts = range(0, len(rows), self.piece)
        job = Job(out, len(starts))
        self.queue.extend(_Piece(job, rows[i : i + self.piece], places[i : i + self.piece]) for i in starts)
        self._give_out()
        return job

    def finish(self, job: Job) -> None:
        """Wait for what was ordered.

        Raises
        ------
        DataError
            If an example could not be read, or a worker has died; the message names the example. In the latter case
            there are no workers any more.
        """
        while job.pieces and not job.problem:
            self._receive()
        if job.problem:
            job.cancelled = True
            message, where = job.problem
            raise DataError(message) from _RemoteTraceback(where)

    def close(self) -> None:
        """End the workers, whatever they are at."""
        _end(self.processes, self.connections)

    def _give_out(self) -> None:
        while self.queue and self.free:
            piece = self.queue.popleft()
            if piece.job.cancelled:
                continue
            worker = min(range(len(self.given)), key=lambda w: len(self.given[w]))
            slot = self.free.popleft()
            self.given[worker].append((piece, slot))
            try:
                self.connections[worker].send((slot, piece.rows.tolist()))
            except OSError:
                raise self._death(worker) from None

    def _receive(self) -> None:
        """Wait until a worker has done something, and take over what they all have."""
        if not self.connections:
            raise RuntimeError(f"the workers of {self.name} were closed")
        try:
            ready = connection.wait(self.connections)
            for worker, ours in enumerate(self.connections):
                if ours in ready:
                    try:
                        problem = ours.recv()
                    except (EOFError, OSError):
                        raise self._death(worker) from None
                    self._take_over(worker, problem)
            self._give_out()
        except BaseException:  # as Ctrl-C amid a message
            self.close()
            raise

    def _take_over(self, worker: int, problem: tuple[str, str] | None) -> None:
        piece, slot = self.given[worker].popleft()  # a worker answers in order
        self.free.append(slot)
        job = piece.job
        job.pieces -= 1
        job.problem = job.problem or problem
        if not (job.cancelled or job.problem):
            job.out[piece.places] = self.slots[slot, : len(piece.places)]

    def _death(self, worker: int) -> DataError:
        """Say what a worker died of, and end the others."""
        process, row = self.processes[worker], self.at[worker]
        process.join(5)
        code = process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
        self.close()
        if row == STARTING:
            return self._false_start(how)
        where = f"that read {self.name}[{row}]" if row >= 0 else f"of {self.name}"
        return DataError(f"a worker {where} {how}" + " (too little memory?)" * (code == -signal.SIGKILL))

    def _false_start(self, how: str) -> DataError:
        """Say what may have kept a worker from starting."""
        return DataError(
            f"a worker of {self.name} {how} as it started; it may have said above why. The class of the Dataset must "
            'be of a module that can be imported, and a script must train below if __name__ == "__main__":, as workers '
            "import it; or workers must be 0"
        )


def _end(processes: list[Any], connections: list[connection.Connection]) -> None:
    for process in processes:
        process.kill()
    for ours in connections:
        ours.close()
    for process in processes:
        process.join()
    processes.clear()
    connections.clear()


class _RemoteTraceback(Exception):
    """What went wrong in a worker, as it was told there."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _SharedMemory:
    """Memory of this process and the workers, which takes room as it is written to.

    Without a name, so that nothing of it outlives them, and not of /dev/shm, which containers keep small.
    """

    def __init__(self, n_workers: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if hasattr(os, "memfd_create"):
            self.file = os.memfd_create("ssdml_fast")
        else:
            with tempfile.TemporaryFile() as file:
                self.file = os.dup(file.fileno())
        self.layout = n_workers, shape, dtype
        os.ftruncate(self.file, HEADER + math.prod(shape) * dtype.itemsize)
        self._map()
        self.at[:] = STARTING

    def _map(self) -> None:
        n_workers, shape, dtype = self.layout
        memory = mmap.mmap(self.file, 0)
        self.at = np.ndarray(n_workers, np.int64, memory)
        self.slots = np.ndarray(shape, dtype, memory, HEADER)

    def close(self) -> None:
        """Close the file; what is mapped stays."""
        os.close(self.file)

    def __getstate__(self) -> tuple[Any, ...]:
        return reduction.DupFd(self.file), self.layout

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        file, self.layout = state
        self.file = file.detach()
        self._map()
        self.close()


def _work(
    theirs: connection.Connection, memory: _SharedMemory, form: Form, dataset: Any, name: str, worker: int
) -> None:
    """Decode what is asked for until nobody asks any more."""
    for number in ENDING:  # a terminal and torchrun send them to all of a group; who asks ends this one, or goes on
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)  # the cores are the other workers'
    np.empty(KEPT_BY_MALLOC, np.uint8)
    memory.at[worker] = IDLE
    while True:
        try:
            slot, rows = theirs.recv()
        except (EOFError, OSError):
            return
        problem = None
        try:
            for i, row in enumerate(rows):
                memory.at[worker] = row
                memory.slots[slot, i] = read_example(dataset, row, name, form)
        except DataError as error:
            problem = str(error), traceback.format_exc()
        except MemoryError:
            problem = f"{name}[{row}] cannot be read: too little memory", traceback.format_exc()
        memory.at[worker] = IDLE
        try:
            theirs.send(problem)
        except OSError:
            return
