"""Exact neighbours among points that several processes hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .. import _arrays as arrays
from .. import _scalars as scalars
from .._run import knn_graph as run
from .._world import World
from ..graph import Neighbors
from .agreement import everywhere, the_same
from .ring import Ring
from .shard import GraphShard

ROWS = 1 << 16
"""Rows that are merged at once on a device, so that what merging takes is little beside what it makes."""


def knn_graph(
    x_shard: Any,
    k: int,
    metric: str = "sqeuclidean",
    group: Any = None,
    num_threads: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> GraphShard:
    """Find the k nearest neighbours of every point among those of all processes, exactly.

    The rows that a process gets are, bit for bit, those that :func:`ssdml_fast.knn_graph` would give its points if it
    were called with the points of all processes, in order of rank. Every process of the group must call this.

    Parameters
    ----------
    x_shard : (n_shard, d) array
        The points of this process, which follow those of the processes before it: float32 or float64, or float16 or
        bfloat16, which are computed and answered in float32; of NumPy, torch or CuPy, or of a library that speaks
        DLPack or ``__cuda_array_interface__``. Shards may be of any sizes, and empty, with d columns.
    k : int
        Neighbours per point, at least 1 and less than the number of all points.
    metric : {"sqeuclidean", "euclidean", "cosine", "inner_product"}
        As for :func:`ssdml_fast.knn_graph`.
    group : torch.distributed.ProcessGroup, optional
        The processes, connected by gloo or NCCL; by default all, or this one alone where no group was initialised.
    num_threads : int, optional
        Threads on the CPU; by default what OMP_NUM_THREADS or threadpoolctl says, or all cores.
    progress : callable, optional
        Called now and then with the share of this process's work that is done, from 0 to 1.

    Returns
    -------
    GraphShard
        ``indices`` (n_shard, k) int64, numbers among the points of all processes, and ``distances`` (n_shard, k) in the
        type of `x_shard`, each row sorted by distance, then index; in the library and where `x_shard` is.

    Raises
    ------
    TypeError
        In every process, if an argument of one is not of a type above, or the types of shards differ.
    ValueError
        In every process, if the shard of one is not 2-D, not finite or so large that distances overflow; if `k` or
        `metric` is out of range, or they, or the columns of shards, differ between processes. The message names the
        rank.
    ssdml_fast.exceptions.ProcessError
        If another process ends, or fails by something else than an argument.

    Notes
    -----
    Shards go half way round, one on its way while another is computed with, and what is found for their points goes
    back: each pair of points is compared once. Of N points in P equal parts, a process compares N² / (2 P) pairs: time
    O(N² d / P). Memory O(N / P (d + k)), that of three shards and five times their neighbours, plus at most 256 MiB. A
    process sends at most P / 2 times N / P points of d coordinates, as wide as their type, and for as many the distance
    that they look within and the 12 k bytes (in float64, 16 k) of what they found. Work is as even as shards are. Gloo
    carries host memory, by way of which points of devices go then; NCCL carries that of devices. Shards hold fewer than
    2³² points. Where one process fails, the others learn of it when they have compared the shards at hand.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> graph = sf.distributed.knn_graph(np.array([[0.0], [1.0], [3.0], [3.5]]), k=2)  # of this process alone
    >>> graph
    GraphShard(first=0, rows=4, n=4, k=2)
    >>> graph.indices
    array([[1, 2],
           [0, 2],
           [3, 1],
           [2, 1]])
    """
    world = World.here(group)
    with world.together():
        own = _agreed(world, {"x_shard": x_shard}, k, metric, num_threads, progress)
        points, sizes, n = own.points["x_shard"], own.sizes["x_shard"], sum(own.sizes["x_shard"])
        if n == 1:
            raise ValueError("x_shard must hold at least 2 points on all ranks together, found 1")
        k = scalars.as_int(k, "k", 1, n - 1 if n else None, f" with {n} points")
        rank, firsts, meetings = world.rank, _firsts(sizes), _Meetings(sizes)
        parts = _Parts(progress, meetings.pairs(rank))
        nearest = _Nearest.none(points, k)
        ring = Ring(world, points, meetings.steps, meetings.visitors, own.on_host)

        def meet_own() -> _Nearest:
            within = min(k, len(points) - 1)
            if within < 1:
                return _Nearest.none(points, 0)
            part = parts.next(len(points) * (len(points) - 1) / 2)
            return _Nearest(*run.knn_graph(points, within, metric, None, num_threads, part)[:2])

        def meet(hosts: Tensor, visitors: Tensor, of_hosts: Tensor, of_visitors: Tensor) -> tuple[_Nearest, _Nearest]:
            if not (len(hosts) and len(visitors)):
                return _Nearest.none(hosts, k), _Nearest.none(visitors, k)
            part = parts.next(len(hosts) * len(visitors))
            found = run.knn_between(hosts, visitors, k, metric, of_hosts, of_visitors, num_threads, part)
            return _Nearest(*found[0]), _Nearest(*found[1])

        nearest.merge(ring.everywhere(meet_own), firsts[rank], num_threads)
        for step in range(1, meetings.steps + 1):
            host, guest = (rank - step) % world.size, (rank + step) % world.size
            here, away = meetings.hosts(rank, step), meetings.visitors(host, step)
            visitors = ring.arrival()
            (limits,) = ring.exchange([nearest.limits(away)], host, guest, len(visitors))
            ring.send_on()
            of_hosts, of_visitors = ring.everywhere(partial(meet, points[here], visitors, nearest.limits(here), limits))
            back = ring.exchange([of_visitors.indices, of_visitors.distances], guest, host, away.stop - away.start)
            nearest.merge(of_hosts, firsts[guest], num_threads, here)
            nearest.merge(_Nearest(*back), firsts[host] + meetings.hosts(host, step).start, num_threads, away)
    return GraphShard(*nearest.of(own.like), firsts[rank], n)


def knn_search(
    queries_shard: Any,
    base_shard: Any,
    k: int,
    metric: str = "sqeuclidean",
    group: Any = None,
    num_threads: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> Neighbors:
    """Find the k nearest of the base points of all processes for every query, exactly.

    The rows that a process gets are, bit for bit, those that :func:`ssdml_fast.knn_search` would give its queries if it
    were called with the base points of all processes, in order of rank. Every process of the group must call this.

    Parameters
    ----------
    queries_shard : (q_shard, d) array
        The queries of this process; types as for :func:`knn_graph`.
    base_shard : (n_shard, d) array
        The base points of this process, of the same library, device and type.
    k : int
        Neighbours per query, from 1 to the number of all base points.
    metric, group, num_threads, progress
        As for :func:`knn_graph`.

    Returns
    -------
    Neighbors
        ``indices`` (q_shard, k) int64, numbers among the base points of all processes, and ``distances`` (q_shard, k),
        each row sorted by distance, then index.

    Raises
    ------
    TypeError, ValueError, ssdml_fast.exceptions.ProcessError
        As for :func:`knn_graph`.

    Notes
    -----
    Base shards go round. Of Q queries and N base points in P equal parts, time is O(Q N d / P), memory
    O(N / P d + Q / P k), that of three base shards and of the neighbours, plus at most 256 MiB; (P - 1) (N / P) d
    coordinates are sent by each process.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> sf.distributed.knn_search(np.array([[0.0], [5.0]]), np.array([[1.0], [4.0], [0.0]]), k=2)
    Neighbors(indices=array([[2, 0],
           [1, 0]]), distances=array([[ 0.,  1.],
           [ 1., 16.]]))
    """
    world = World.here(group)
    with world.together():
        own = _agreed(
            world, {"queries_shard": queries_shard, "base_shard": base_shard}, k, metric, num_threads, progress
        )
        queries, base, sizes = own.points["queries_shard"], own.points["base_shard"], own.sizes["base_shard"]
        n = sum(sizes)
        if n == 0:
            raise ValueError("base_shard must hold at least one point on all ranks together, found none")
        k = scalars.as_int(k, "k", 1, n, f" with {n} base points")
        rank, firsts = world.rank, _firsts(sizes)
        parts = _Parts(progress, len(queries) * n)
        nearest = _Nearest.none(queries, k)
        ring = Ring(world, base, world.size - 1, lambda r, step: slice(0, sizes[(r + step) % world.size]), own.on_host)

        def find_among(visitors: Tensor) -> _Nearest:
            if not (len(queries) and len(visitors)):
                return _Nearest.none(queries, 0)
            within, part = min(k, len(visitors)), parts.next(len(queries) * len(visitors))
            return _Nearest(*run.knn_search(queries, visitors, within, metric, num_threads, part))

        nearest.merge(ring.everywhere(partial(find_among, base)), firsts[rank], num_threads)
        for step in range(1, world.size):
            visitors = ring.arrival()
            ring.send_on()
            found = ring.everywhere(partial(find_among, visitors))
            nearest.merge(found, firsts[(rank + step) % world.size], num_threads)
    return Neighbors(*nearest.of(own.like))


@dataclass(frozen=True)
class _Agreed:
    """What the processes found each other's arguments to be."""

    points: dict[str, Tensor]  # of this process
    sizes: dict[str, list[int]]  # rows of every process
    on_host: bool  # whether those of any are
    like: Any


def _agreed(world: World, shards: dict[str, Any], k: Any, metric: Any, num_threads: Any, progress: Any) -> _Agreed:
    """Check the arguments of every process, then that they go together."""
    checked: dict[str, Any] = {}

    def check() -> tuple[Any, ...]:
        adopted = dict(zip(shards, arrays.adopt(**shards), strict=True))
        for name, x in adopted.items():
            like = next(iter(checked.values()), None)
            checked[name] = x = run.as_points(x, name, like)
            if like is not None and arrays.dtype_name(x) != arrays.dtype_name(like):
                of, dtype = next(iter(checked)), arrays.dtype_name(like)
                raise TypeError(f"{name} must be of the type of {of}, {dtype}, found {arrays.dtype_name(x)}")
            if like is not None and x.shape[1] != like.shape[1]:
                of = next(iter(checked))
                raise ValueError(f"{name} must have {like.shape[1]} columns like {of}, found shape {tuple(x.shape)}")
            run.check_countable(len(x), name)
            run.check_coordinates(x, name)
        scalars.as_choice(metric, "metric", run.METRICS)
        scalars.as_threads(num_threads)
        scalars.as_callable(progress, "progress")
        x = next(iter(checked.values()))
        number = scalars.as_int(k, "k", 1)
        rows = [len(each) for each in checked.values()]
        return rows, x.shape[1], arrays.dtype_name(x), number, metric, arrays.is_cuda(x)

    rows, columns, dtypes, ks, metrics, on_devices = zip(*everywhere(world, check), strict=True)
    name = next(iter(shards))
    the_same(dtypes, f"{name} must be of the same type", TypeError)
    the_same(columns, f"{name} must have the same number of columns")
    the_same(ks, "k must be the same")
    the_same(metrics, "metric must be the same")
    points = {name: arrays.to_torch(x) for name, x in checked.items()}
    sizes = {name: [each[i] for each in rows] for i, name in enumerate(shards)}
    return _Agreed(points, sizes, not all(on_devices), next(iter(checked.values())))


class _Meetings:
    """Which rows of two shards are compared where, so that each pair of points is compared once.

    Shards go half way round: each process hosts half of the others, and is a guest of the other half. Where their
    number is even, two would host each other at the last step: there the first hosts one half of the second, whose
    other half hosts the first.
    """

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.steps = sizes, len(sizes) // 2

    def hosts(self, rank: int, step: int) -> slice:
        """The rows of a process that are compared with those that visit it."""
        n, half = self.sizes[rank], self._half(rank, step)
        return slice(n // 2 if half == "second" else 0, n)

    def visitors(self, rank: int, step: int) -> slice:
        """The rows of its guest's that visit a process."""
        n, half = self.sizes[(rank + step) % len(self.sizes)], self._half(rank, step)
        return slice(0, n // 2 if half == "first" else n)

    def pairs(self, rank: int) -> float:
        """How many pairs a process compares."""
        within = self.sizes[rank] * (self.sizes[rank] - 1) / 2
        rows = [(self.hosts(rank, step), self.visitors(rank, step)) for step in range(1, self.steps + 1)]
        return within + sum((a.stop - a.start) * (b.stop - b.start) for a, b in rows)

    def _half(self, rank: int, step: int) -> str:
        """Where two would host each other: all of the first meet the first half of the second there, the rest here."""
        if 2 * step != len(self.sizes):
            return ""
        return "first" if rank < step else "second"


def _firsts(sizes: list[int]) -> list[int]:
    """Numbers of the first points of shards."""
    return [0, *accumulate(sizes)][:-1]


@dataclass(frozen=True)
class _Nearest:
    """The k nearest of what each row has met so far, by distance, then index; infinitely far where it met fewer."""

    indices: Tensor
    distances: Tensor

    @classmethod
    def none(cls, rows: Tensor, k: int) -> _Nearest:
        dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        indices = torch.full((len(rows), k), -1, device=rows.device)
        return cls(indices, torch.full((len(rows), k), torch.inf, dtype=dtype, device=rows.device))

    def limits(self, rows: slice) -> Tensor:
        """How far the farthest are: what is farther is not among the k nearest of all."""
        return self.distances[rows, -1].contiguous()

    def merge(self, found: _Nearest, first: int, num_threads: int | None, among: slice = slice(None)) -> None:
        """Take in what some of the rows found among others, whose numbers begin at `first`."""
        indices, distances = self.indices[among], self.distances[among]
        if not arrays.is_cuda(indices):
            run.merge_neighbors(indices, distances, found.indices, found.distances, first, num_threads)
            return
        k = indices.shape[1]
        for low in range(0, len(indices), ROWS):
            rows = slice(low, low + ROWS)
            both = torch.cat((indices[rows], found.indices[rows] + first), 1)
            lengths = torch.cat((distances[rows], found.distances[rows]), 1)
            order = both.argsort(1)  # then by distance, which leaves those that are equal in this order
            both, lengths = both.gather(1, order), lengths.gather(1, order)
            order = lengths.argsort(dim=1, stable=True)[:, :k]
            indices[rows], distances[rows] = both.gather(1, order), lengths.gather(1, order)

    def of(self, like: Any) -> tuple[Any, Any]:
        """As arrays of the library of `like`."""
        return arrays.of_torch(self.indices, like), arrays.of_torch(self.distances, like)


class _Parts:
    """The progress of work that is done in parts."""

    def __init__(self, progress: Callable[[float], object] | None, total: float) -> None:
        self.progress, self.total, self.done = progress, total, 0.0

    def next(self, part: float) -> Callable[[float], object] | None:
        """What a part of the work is to report to, which is so much of the total."""
        before, self.done = self.done, self.done + part
        return run.part_of(self.progress, before / self.total, self.done / self.total)
