"""The part of a graph that one process holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import _arrays as arrays
from .._world import World
from ..graph import KnnGraph


@dataclass(frozen=True, eq=False)
class GraphShard:
    """The rows of a :class:`~ssdml_fast.KnnGraph` that one process holds; made by :func:`knn_graph`.

    Attributes
    ----------
    indices : (n_shard, k) int64 array
        ``indices[i]`` are the neighbours of point ``first + i``, numbered among the points of all processes.
    distances : (n_shard, k) float32 or float64 array
        Distance to each neighbour, ascending along a row.
    first : int
        Number of this process's first point.
    n : int
        Points of all processes.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> shard = sf.distributed.knn_graph(np.array([[0.0], [1.0], [3.0]]), k=1)
    >>> shard
    GraphShard(first=0, rows=3, n=3, k=1)
    """

    indices: Any
    distances: Any
    first: int
    n: int

    @property
    def k(self) -> int:
        """Neighbours per point."""
        return int(self.indices.shape[1])

    def __repr__(self) -> str:
        return f"GraphShard(first={self.first}, rows={len(self.indices)}, n={self.n}, k={self.k})"

    def gather(self, group: Any = None) -> KnnGraph:
        """Join the parts of all processes, which all call this, to the whole graph on every one.

        Parameters
        ----------
        group : torch.distributed.ProcessGroup, optional
            That of the call that made the graph.

        Returns
        -------
        KnnGraph
            Of the n points, in the library and where `indices` are.

        Raises
        ------
        ValueError
            In every process, if the parts are not those of one graph, in order of rank.

        Notes
        -----
        Memory O(n k) on every process, to each of which all others send what they hold.

        Examples
        --------
        >>> import numpy as np, ssdml_fast as sf
        >>> sf.distributed.knn_graph(np.array([[0.0], [1.0], [3.0]]), k=1).gather()
        KnnGraph(n=3, k=1, segments=1)
        """
        world = World.here(group)
        with world.together():
            parts = world.every((self.first, len(self.indices), self.n, self.k))
            end = 0
            for rank, (first, rows, n, k) in enumerate(parts):
                if (first, n, k) != (end, self.n, self.k):
                    raise ValueError(
                        f"group must hold the {self.n} points of the graph in order of rank, found one of {n} points "
                        f"and {k} neighbours that goes on at {first}, after {end}, on rank {rank}"
                    )
                end += rows
            if end != self.n:
                raise ValueError(f"group must hold the {self.n} points of the graph, found {end}")
            indices, distances = (world.join(arrays.to_torch(each)) for each in (self.indices, self.distances))
        like = self.indices
        return KnnGraph(arrays.of_torch(indices, like), arrays.of_torch(distances, like), _validated=True)
