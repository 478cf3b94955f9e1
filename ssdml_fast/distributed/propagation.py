"""Propagation along a graph that every process has, with its columns divided among them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from .. import _arrays as arrays
from .. import _scalars as scalars
from .._run import affinity as run_affinity
from .._run import propagate_labels as run_labels
from .._world import World
from ..graph import EdgeAffinity, KnnGraph, LabelPosteriors
from ..ops import affinity as affinity_alone
from ..ops import propagate_labels as labels_alone
from .agreement import everywhere, the_same
from .peers import divided


def propagate_labels(
    graph: KnnGraph,
    labels: Any,
    gamma: float = 0.99,
    tol: float = 1e-6,
    group: Any = None,
    num_threads: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> LabelPosteriors:
    """Propagate labels along a kNN graph that every process has; each solves a part of the classes.

    Every process gets, bit for bit, what :func:`ssdml_fast.propagate_labels` answers. Every process of the group must
    call this, with the same arguments.

    Parameters
    ----------
    graph : KnnGraph
        N points with k neighbours each, such as :meth:`GraphShard.gather` makes; the same on every process, on the CPU
        or on CUDA devices.
    labels : (N,) integer array
        Class of each point, any integers from 0; -1 for an unlabelled point. The same on every process.
    gamma, tol : float
        As for :func:`ssdml_fast.propagate_labels`; the same on every process.
    group : torch.distributed.ProcessGroup, optional
        The processes, connected by gloo or NCCL; by default all, or this one alone where no group was initialised.
    num_threads : int, optional
        Threads on the CPU; by default what OMP_NUM_THREADS or threadpoolctl says, or all cores.
    progress : callable, optional
        Called now and then with the share of this process's work that is done, from 0 to 1.

    Returns
    -------
    LabelPosteriors
        Of all points, on every process.

    Raises
    ------
    TypeError, ValueError
        In every process, if an argument of one is not as :func:`ssdml_fast.propagate_labels` wants it, or is not the
        same on all. The message names the rank.
    ssdml_fast.exceptions.ProcessError
        If another process ends, or fails by something else than an argument.

    Warns
    -----
    ConvergenceWarning
        As :func:`ssdml_fast.propagate_labels` does.

    Notes
    -----
    Panels of 8 classes of a connected component are dealt out, so that up to ⌈C / 8⌉ processes share a graph that is
    connected: time O(N k 8 ⌈C / (8 P)⌉ · steps) with P processes, memory O(N (k + C)) on each. Each sums N C numbers of
    8 bytes with the others every time that it improves them, as a rule once or twice: 16 (P - 1) / P N C bytes are
    sent. On CUDA devices panels are of 32 classes, of all components at once, and what is sent goes by way of the host.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> graph = sf.distributed.knn_graph(np.array([[0.0], [1.0], [10.0], [11.0]]), k=1).gather()
    >>> sf.distributed.propagate_labels(graph, np.array([3, -1, -1, 5])).labels
    array([3, 3, 5, 5])
    """
    world = World.here(group)
    if world.size == 1:
        return labels_alone.propagate_labels(graph, labels, gamma, tol, num_threads, progress)
    with world.together():
        labels = _agreed(world, graph, labels, gamma, tol, num_threads, progress)
        of_graph = graph.indices, graph.distances, graph.ptr, graph.weights
        return LabelPosteriors(
            *divided(
                world,
                lambda peers: run_labels.propagate_labels(*of_graph, labels, gamma, tol, num_threads, progress, peers),
            )
        )


def propagate_affinity(
    graph: KnnGraph,
    labels: Any,
    gamma: float = 0.99,
    tol: float = 1e-6,
    group: Any = None,
    num_threads: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> EdgeAffinity:
    """Propagate affinities along a kNN graph that every process has; each solves a part of the columns.

    Every process gets, bit for bit, what :func:`ssdml_fast.propagate_affinity` answers. Every process of the group must
    call this, with the same arguments.

    Parameters
    ----------
    graph, labels, gamma, tol, group, num_threads, progress
        As for :func:`propagate_labels`.

    Returns
    -------
    EdgeAffinity
        Of all edges, on every process.

    Raises
    ------
    TypeError, ValueError, ssdml_fast.exceptions.ProcessError
        As for :func:`propagate_labels`.

    Warns
    -----
    ConvergenceWarning
        As :func:`ssdml_fast.propagate_affinity` does.

    Notes
    -----
    Small components are dealt out whole, and of a large one panels of 16 columns (8 in float64): time
    O(N² / P (k · sweeps + M)) with P processes, besides O(N k) and what the M slow modes take, O(N M (k + M)), which
    every process finds for itself; memory as for :func:`ssdml_fast.propagate_affinity` on each. What the processes sum
    are the entries of columns that edges need, O(N k) numbers of 8 bytes, and the class mass, N (C + 1) of them; each
    sends 2 (P - 1) / P of these bytes. Processes wait for the slowest of them, which has to be within the time-out of
    their group. On CUDA devices panels are of up to 16 columns, all 2 N k entries are summed, and what is sent goes by
    way of the host; devices of several kinds answer within the bound, not to the bits of one of them.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> graph = sf.distributed.knn_graph(np.array([[0.0], [1.0], [10.0], [11.0]]), k=1).gather()
    >>> sf.distributed.propagate_affinity(graph, np.array([0, -1, 1, -1]), gamma=0.5).values.round(3).ravel()
    array([0.333, 0.333, 0.333, 0.333])
    """
    world = World.here(group)
    if world.size == 1:
        return affinity_alone.propagate_affinity(graph, labels, gamma, tol, num_threads, progress)
    with world.together():
        labels = _agreed(world, graph, labels, gamma, tol, num_threads, progress)
        of_graph = graph.indices, graph.distances, graph.weights
        return EdgeAffinity(
            *divided(
                world,
                lambda peers: run_affinity.propagate_affinity(
                    *of_graph, labels, gamma, tol, num_threads, progress, peers
                ),
            )
        )


def _agreed(
    world: World,
    graph: KnnGraph,
    labels: Any,
    gamma: float,
    tol: float,
    num_threads: int | None,
    progress: Callable[[float], object] | None,
) -> Any:
    """Check the arguments of every process, then that they are the same; returns the labels."""
    adopted: list[Any] = []

    def check() -> tuple[str, str, float, float]:
        if not isinstance(graph, KnnGraph):
            raise TypeError(f"graph must be a KnnGraph, found {type(graph).__name__}")
        adopted[:] = arrays.adopt(graph.indices, labels=labels)
        scalars.as_callable(progress, "progress")
        classes, column, weights, gamma_, tol_, _ = run_affinity.prepare(
            graph.indices, graph.weights, adopted[0], gamma, tol, num_threads
        )
        dtype, checksum = run_affinity.type_of(graph.distances), _checksum(graph.indices, graph.ptr, weights)
        where = "a CUDA device" if arrays.is_cuda(graph.indices) else "the CPU"
        edges = f"{graph} of {dtype} on {where} with checksum {checksum}"
        return edges, f"checksum {_checksum(classes, column)}", gamma_, tol_

    graphs, columns, gammas, tols = zip(*everywhere(world, check), strict=True)
    the_same(graphs, "graph must be the same")
    the_same(columns, "labels must be the same")
    the_same(gammas, "gamma must be the same")
    the_same(tols, "tol must be the same")
    return adopted[0]


def _checksum(*xs: Any) -> str:
    """What is the same where arrays, or Nones, are, and hardly ever else."""
    checksum = 0
    for x in xs:
        if x is not None:
            checksum = zlib.crc32(arrays.to_numpy(x).ravel().data, zlib.crc32(b",", checksum))
    return f"{checksum:08x}"
