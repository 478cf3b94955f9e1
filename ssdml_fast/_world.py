"""The processes that work together: who they are, where they meet, and where they must agree.

Alone, there is nothing to do: nothing is waited for or sent.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

from .exceptions import ProcessError, first_line

Value = TypeVar("Value")
SECONDS = 5.0  # that a process which lost another waits for its message
INTERRUPTED = "was interrupted"
_failures: dict[str, Iterator[int]] = defaultdict(count)
"""Numbers of the blocks of `together` that fail, by the group's name: each is every process's, so all number alike."""


@dataclass(frozen=True)
class World:
    """The processes that work together, as torch.distributed has them.

    Attributes
    ----------
    rank, size : int
        The number of this process, from 0, and how many there are.
    group : torch.distributed.ProcessGroup, optional
        What connects them; None: the default group, or nothing where this process is alone.

    Examples
    --------
    >>> world = World.here()
    >>> world.rank, world.size, world.same("a decision")
    (0, 1, 'a decision')
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @classmethod
    def here(cls, group: Any = None) -> World:
        """A process group, by default the one that has been initialised, or this process alone.

        Raises
        ------
        ValueError
            If this process is none of the group's.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        rank = distributed.get_rank(group)
        if rank < 0:
            raise ValueError("group must hold this process, found one that does not")
        return cls(rank, distributed.get_world_size(group), group)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size}"

    # --- rows ---------------------------------------------------------------------------------------------------------

    def shard(self, n: int, unit: int = 1) -> slice:
        """The rows, of n, that are this process's: parts in order of rank, cut between units of so many rows; their
        numbers of units differ by at most one."""
        return self._shard_of(self.rank, n, unit)

    def gather(self, part: Tensor, n: int, unit: int = 1) -> Tensor:
        """Join the parts of every process, cut by :meth:`shard`, to all n rows."""
        if self.size == 1:
            return part
        shards = [self._shard_of(rank, n, unit) for rank in range(self.size)]
        sizes = [shard.stop - shard.start for shard in shards]
        shape, n_bytes = part.shape[1:], part.shape[1:].numel() * part.element_size()
        of_equal_size = max(sizes), n_bytes
        padded = torch.zeros(of_equal_size, dtype=torch.uint8, device=self.carrier(part.device))
        if part.numel():
            padded[: len(part)] = part.contiguous().view(torch.uint8).reshape(len(part), n_bytes)
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded, self.group)
        rows = torch.cat([each[:size] for each, size in zip(parts, sizes, strict=True)]).to(part.device)
        return rows.view(-1).view(part.dtype).reshape(n, *shape)

    def fill_(self, arrays: Sequence[np.ndarray]) -> None:
        """Put the rows that other processes have of each array, cut by :meth:`shard`, beside this one's."""
        if self.size > 1:
            for array in arrays:
                for rank in range(self.size):
                    rows = torch.from_numpy(array)[self._shard_of(rank, len(array), 1)]
                    carried = rows.to(self.carrier(rows.device))
                    if len(rows):
                        distributed.broadcast(carried, src=self._in_default(rank), group=self.group)
                        rows.copy_(carried)

    def join(self, part: Tensor) -> Tensor:
        """Join the parts of every process, of any numbers of rows, in order of rank, in memory for these rows alone."""
        if self.size == 1:
            return part
        sizes = self.every(len(part))
        whole = part.new_empty((sum(sizes), *part.shape[1:]), device=self.carrier(part.device))
        for rank, rows in enumerate(whole.split(sizes)):
            if rank == self.rank:
                rows.copy_(part)
            if rows.numel():
                distributed.broadcast(rows, src=self._in_default(rank), group=self.group)
        return whole.to(part.device)

    def _shard_of(self, rank: int, n: int, unit: int) -> slice:
        units = -(-n // unit)
        return slice(min(n, units * rank // self.size * unit), min(n, units * (rank + 1) // self.size * unit))

    # --- agreement ----------------------------------------------------------------------------------------------------

    def same(self, value: Value) -> Value:
        """The value of the first process, for every process: what is decided is decided once."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=self._in_default(0), group=self.group)
        return values[0]

    def same_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by that of the first process."""
        if self.size > 1:
            for tensor in tensors:
                carried = tensor.to(self.carrier(tensor.device)).contiguous()
                distributed.broadcast(carried, src=self._in_default(0), group=self.group)
                tensor.copy_(carried)

    def every(self, value: Value) -> list[Value]:
        """The values of all processes, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value, self.group)
        return values

    def once(self, work: Callable[[], Value]) -> Value:
        """Do something in the first process; every process gets its result, or raises its error."""
        if self.size == 1:
            return work()
        value, error = None, None
        if self.is_main:
            try:
                value = work()
            except Exception as raised:
                error = raised
        value, told = self.same((value, None if error is None else _portable(error)))
        if error is not None:
            raise error
        if told is not None:
            raise told
        return value  # type: ignore[return-value]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        self._reduce_(tensors, distributed.ReduceOp.SUM)

    def max_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its largest entries over the processes."""
        self._reduce_(tensors, distributed.ReduceOp.MAX)

    def _reduce_(self, tensors: Sequence[Tensor], how: Any) -> None:
        if self.size > 1:
            for tensor in tensors:
                carried = tensor.to(self.carrier(tensor.device))
                distributed.all_reduce(carried, how, self.group)
                tensor.copy_(carried)

    def carrier(self, device: torch.device) -> torch.device:
        """Where a tensor of a device has to be for the group to carry it: gloo reads host memory, NCCL the device's."""
        served = dict(pair.split(":") for pair in distributed.get_backend_config(self.group).split(","))
        if device.type in served and (device.type == "cpu" or served[device.type] != "gloo"):
            return device
        return torch.device("cpu") if "cpu" in served else torch.device("cuda", torch.cuda.current_device())

    def _in_default(self, rank: int) -> int:
        """The rank of a process in the default group, by which torch numbers senders."""
        return rank if self.group is None else distributed.get_global_rank(self.group, rank)

    # --- failure ------------------------------------------------------------------------------------------------------

    @contextmanager
    def together(self) -> Iterator[None]:
        """Fail together: a process that another has left raises what that one failed by.

        Raises
        ------
        ProcessError
            In place of what torch says of a connection that was closed.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except BaseException as error:
            group: Any = self.group or distributed.group.WORLD
            key = f"ssdml_fast/failed/{group.group_name}/{next(_failures[group.group_name])}"
            is_left, is_stop = is_of_connection(error), isinstance(error, KeyboardInterrupt)
            told = self._told(key, SECONDS if is_left else 0) if is_left or is_stop else ""
            if told and not (is_stop and told.endswith(INTERRUPTED)):  # else whoever stopped one stopped all
                raise ProcessError(told) from None
            if is_left:
                told = f"another process than {self} ended without a word: {_of_gloo(error)}"  # or does not answer
                raise ProcessError(told) from error
            self._tell(key, error)
            raise

    def speaker(self) -> Callable[[], bool]:
        """Make a function that says whether this process is to speak for all, also when they have parted.

        The first is, or, where that does not call it within some seconds, whoever called it then.
        """
        if self.size == 1:
            return lambda: True
        store, key, own = _store(), "ssdml_fast/speaker", str(self.rank)

        def speaks() -> bool:
            end = time.monotonic() + (0 if self.is_main else SECONDS)
            with suppress(Exception):  # whoever kept the words is gone
                while time.monotonic() < end and not store.check([key]):
                    time.sleep(0.05)
                return store.compare_set(key, "", own).decode() == own
            return True

        return speaks

    def _tell(self, key: str, error: BaseException) -> None:
        """Leave word of an error where the others look; the first word stays."""
        what = INTERRUPTED if isinstance(error, KeyboardInterrupt) else f"failed: {_described(error)}"
        with suppress(Exception):  # whoever kept the words is gone
            _store().compare_set(key, "", f"{self} {what}")

    def _told(self, key: str, seconds: float) -> str:
        """What another process failed by, if that is known, or becomes so within some seconds."""
        end = time.monotonic() + seconds
        with suppress(Exception, KeyboardInterrupt):  # torchrun interrupts a process soon after it lost another
            while not _store().check([key]):
                if time.monotonic() > end:
                    return ""
                time.sleep(0.05)
            return _store().get(key).decode()
        return ""


@contextmanager
def met(timeout: timedelta | None = None) -> Iterator[World]:
    """Meet the processes that torchrun started with this one, or whatever sets the variables that it sets.

    Parameters
    ----------
    timeout : datetime.timedelta, optional
        How long to wait for the others, there and later; torch's own by default.

    Yields
    ------
    World
        Of this process alone where there are no others. Where the processes have met already, theirs.

    Raises
    ------
    ProcessError
        If they do not meet.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1 or distributed.is_initialized():
        yield World.here()
        return
    backend = "gloo"
    if torch.cuda.is_available() and distributed.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    try:
        waiting: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        store, rank, _ = next(distributed.rendezvous("env://", **waiting))
        # torchrun keeps what the processes leave each other, gloo's addresses too, when it starts them again
        start = distributed.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        distributed.init_process_group(backend, timeout=timeout, store=start, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        at = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ProcessError(f"the {size} processes did not meet at {at}: {first_line(error)}") from error
    try:
        yield World.here()
    finally:
        distributed.destroy_process_group()


def is_of_connection(error: BaseException) -> bool:
    """Whether an error says that another process cannot be reached any more.

    Examples
    --------
    >>> is_of_connection(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:35563"))
    True
    >>> is_of_connection(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    if not distributed.is_available():
        return False
    # No other RuntimeError than gloo's own is meant: those that tell of one may quote it.
    return isinstance(error, distributed.DistError) or (type(error) is RuntimeError and "gloo/" in str(error))


def _of_gloo(error: BaseException) -> str:
    """What gloo says of a connection, without its place in gloo and its advice.

    Examples
    --------
    >>> _of_gloo(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:355. This is"))
    'Connection closed by peer [127.0.0.1]:355'
    """
    return first_line(error).partition(".cc:")[2].partition("] ")[2].partition(". ")[0] or first_line(error)


def _store() -> Any:
    """Where the processes of the default group leave each other word."""
    return distributed.distributed_c10d._get_default_store()


def _described(error: BaseException) -> str:
    if isinstance(message := getattr(error, "message", None), str):  # a sentence of the command line
        return message
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _portable(error: Exception) -> Exception:
    """An error as another process can raise it: itself, or, where it cannot be pickled, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(_described(error))
    return error
