"""The results that travel between operations: the kNN graph, affinities on its edges, class posteriors."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import Any, NamedTuple

import numpy as np

from . import _arrays as arrays
from . import _scalars as scalars

__all__ = ["EdgeAffinity", "KnnGraph", "LabelPosteriors", "Neighbors"]


@dataclass(frozen=True, eq=False)
class KnnGraph:
    """Directed graph in which every point has exactly ``k`` neighbours.

    Made by :func:`ssdml_fast.knn_graph`, or from your own neighbour lists: whatever reaches this constructor is
    validated. Leave the arrays as they are afterwards: operations check again only that indices are in range.

    Parameters
    ----------
    indices : (N, k) int64 array
        ``indices[i]`` are the neighbours of point ``i``: distinct, never ``i`` itself, and of the same segment.
        Other integer types are converted.
    distances : (N, k) float32 or float64 array, optional
        Distance to each neighbour, finite and ascending along a row. Needed only to break ties between equal
        affinities (without it, ties fall to the smaller index) and to say in which precision to compute (without it,
        float64).
    ptr : (S + 1,) int64 array, optional
        Boundaries of ``S`` independent segments: segment ``s`` holds the points ``ptr[s]`` to ``ptr[s + 1] - 1``.
        Without it all points form one segment.
    weights : (N, k) float32 or float64 array, optional
        Weight of each edge, finite and at least 0, with some of every row positive. A walk on the graph takes the edges
        of a point in proportion to them; without them, all alike.

    Attributes
    ----------
    indices, distances, ptr, weights
        As above; arrays of the library (NumPy, torch, CuPy) that `indices` came from.

    Raises
    ------
    TypeError, ValueError
        If an argument does not have the properties above; the message names it and the offending entry.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> graph = sf.KnnGraph(np.array([[1], [0], [1]]))
    >>> graph
    KnnGraph(n=3, k=1, segments=1)
    """

    indices: Any
    distances: Any = None
    ptr: Any = None
    weights: Any = None
    _validated: InitVar[bool] = False

    def __post_init__(self, _validated: bool) -> None:
        if _validated:
            return
        indices, distances, ptr, weights = arrays.adopt(
            indices=self.indices, distances=self.distances, ptr=self.ptr, weights=self.weights
        )
        arrays.namespace(indices, "indices")
        arrays.check_not_capturing(indices, "making a KnnGraph")
        indices = arrays.as_integers(indices, "indices", ndim=2)
        n, k = indices.shape
        if n and k == 0:
            raise ValueError("indices must have at least one column, found shape " + str(tuple(indices.shape)))
        ptr = arrays.as_ptr(ptr, n, like=indices)
        if distances is not None:
            distances = arrays.as_floats(distances, "distances", ndim=2, like=indices)
            arrays.check_shape(distances, (n, k), "distances", "the shape of indices")
            arrays.check_finite(distances, "distances")
            arrays.check_ascending(distances, "distances")
        if weights is not None:
            weights = arrays.as_floats(weights, "weights", ndim=2, like=indices)
            arrays.check_shape(weights, (n, k), "weights", "the shape of indices")
            arrays.check_weights(weights)
        if not (arrays.is_cuda(indices) and _are_neighbours(indices, ptr)):
            _check_neighbours(arrays.to_numpy(indices), None if ptr is None else arrays.to_numpy(ptr))
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "distances", distances)
        object.__setattr__(self, "ptr", ptr)
        object.__setattr__(self, "weights", weights)

    @classmethod
    def from_scipy(cls, matrix: Any, ptr: Any = None, entries: str = "distances") -> KnnGraph:
        """Take the graph of a SciPy sparse matrix, such as scikit-learn's ``kneighbors_graph(..., mode="distance")``.

        Parameters
        ----------
        matrix : (N, N) SciPy sparse matrix or array
            Entry ``(i, j)``, explicit zeros included, belongs to the edge from ``i`` to its neighbour ``j``. Every row
            must hold the same number of entries, none of them on the diagonal.
        ptr : (S + 1,) int64 array, optional
            Segment boundaries, as in :class:`KnnGraph`.
        entries : {"distances", "weights"}
            What the entries are.

        Returns
        -------
        KnnGraph
            With NumPy arrays, each row sorted by distance, or from the largest weight to the smallest, then by index.

        Raises
        ------
        TypeError, ValueError
            If `matrix` is not a square sparse matrix of that form, or `entries` neither of the two.

        Examples
        --------
        >>> import numpy as np, scipy.sparse, ssdml_fast as sf
        >>> matrix = scipy.sparse.csr_array(np.array([[0, 2.0, 1.0], [2.0, 0, 3.0], [1.0, 3.0, 0]]))
        >>> sf.KnnGraph.from_scipy(matrix).indices
        array([[2, 1],
               [0, 2],
               [0, 1]])
        """
        if not hasattr(matrix, "tocsr"):
            raise TypeError(f"matrix must be a SciPy sparse matrix, found {type(matrix).__name__}")
        scalars.as_choice(entries, "entries", ("distances", "weights"))
        csr = matrix.tocsr().copy()
        n, columns = csr.shape
        if n != columns:
            raise ValueError(f"matrix must be square, found shape {csr.shape}")
        csr.sort_indices()
        counts = np.diff(csr.indptr)
        k = int(counts[0]) if n else 0
        if (counts != k).any():
            row = int(np.flatnonzero(counts != k)[0])
            raise ValueError(
                f"matrix must have the same number of entries in every row, found {k} in row 0 and {counts[row]} in "
                f"row {row}"
            )
        indices = csr.indices.reshape(n, k).astype(np.int64)
        values = csr.data.reshape(n, k)
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float64)
        nearest_first = values if entries == "distances" else -values
        order = np.argsort(nearest_first, axis=1, kind="stable")  # stable: entries of a row are already in index order
        indices, values = (np.take_along_axis(x, order, 1) for x in (indices, values))
        return cls(indices, values, ptr) if entries == "distances" else cls(indices, ptr=ptr, weights=values)

    @classmethod
    def from_search(cls, indices: Any, distances: Any) -> KnnGraph:
        """Take the answer of a search of a set in itself, exact or approximate, such as that of faiss or pynndescent.

        Parameters
        ----------
        indices : (N, k + 1) integer array
            Neighbours of each point, as a rule the point itself among them. It is left out by index; where an
            approximate search or a duplicate has displaced it, the farthest is left out instead.
        distances : (N, k + 1) float32 or float64 array
            Their distances, in any order along a row; smaller is nearer (negate faiss's inner products).

        Returns
        -------
        KnnGraph
            With k neighbours per point, each row sorted by distance, then index.

        Raises
        ------
        TypeError, ValueError
            If shapes or types differ from the above, or a row holds a neighbour twice or fewer than k + 1 (faiss marks
            those that it did not find by -1).

        Examples
        --------
        >>> import numpy as np, ssdml_fast as sf
        >>> sf.KnnGraph.from_search(np.array([[0, 1], [1, 0]]), np.array([[0.0, 4.0], [0.0, 4.0]])).indices
        array([[1],
               [0]])
        """
        indices, distances = arrays.adopt(indices=indices, distances=distances)
        found = arrays.to_numpy(arrays.as_integers(indices, "indices", ndim=2))
        lengths = arrays.to_numpy(arrays.as_floats(distances, "distances", ndim=2, like=indices))
        arrays.check_shape(lengths, found.shape, "distances", "the shape of indices")
        arrays.check_finite(lengths, "distances")
        n, columns = found.shape
        if n and columns < 2:
            raise ValueError(f"indices must have at least two columns, found shape {found.shape}")
        order = np.lexsort((found, lengths))  # along the last axis: by distance, then index
        found, lengths = (np.take_along_axis(x, order, 1) for x in (found, lengths))
        left_out = found == np.arange(n)[:, None]
        left_out[~left_out.any(axis=1), -1:] = True
        if (left_out.sum(axis=1) > 1).any():
            i = int(np.flatnonzero(left_out.sum(axis=1) > 1)[0])
            raise ValueError(f"indices must not repeat a neighbour within a row, found point {i} twice in indices[{i}]")
        found, lengths = (x[~left_out].reshape(n, max(columns - 1, 0)) for x in (found, lengths))
        return cls(arrays.from_numpy(found, like=indices), arrays.from_numpy(lengths, like=indices))

    @property
    def n(self) -> int:
        """Number of points."""
        return int(self.indices.shape[0])

    @property
    def k(self) -> int:
        """Neighbours per point."""
        return int(self.indices.shape[1])

    def __repr__(self) -> str:
        segments = 1 if self.ptr is None else int(self.ptr.shape[0]) - 1
        return f"KnnGraph(n={self.n}, k={self.k}, segments={segments})"


@dataclass(frozen=True, eq=False)
class EdgeAffinity:
    """Propagated affinities on the edges of a :class:`KnnGraph`; made by :func:`ssdml_fast.propagate_affinity`.

    Attributes
    ----------
    values : (N, k) float32 or float64 array
        Symmetrised affinity ``W[i, graph.indices[i, r]]``, in [-1, 1].
    class_mass : (N, C) array
        Share of the random walk from each point that restarts at labelled points of each class, in [0, 1].
    classes : (C,) int64 array
        The label that each column of `class_mass` stands for, ascending.
    iterations : int
        Sweeps over the graph that the slowest column took; 0 where all components were solved directly.
    error_bound : float
        Rigorous upper bound on the largest absolute error of `values`.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> graph = sf.knn_graph(np.array([[0.0], [1.0], [3.0]]), k=1)
    >>> affinity = sf.propagate_affinity(graph, np.array([0, -1, 1]))
    >>> affinity.values.shape, affinity.classes
    ((3, 1), array([0, 1]))
    """

    values: Any
    class_mass: Any
    classes: Any
    iterations: int
    error_bound: float

    def __repr__(self) -> str:
        n, k = self.values.shape
        return (
            f"EdgeAffinity(n={n}, k={k}, classes={len(self.classes)}, iterations={self.iterations}, "
            f"error_bound={self.error_bound:.2g})"
        )


@dataclass(frozen=True, eq=False)
class LabelPosteriors:
    """Class probabilities propagated from a few labels; made by :func:`ssdml_fast.propagate_labels`.

    Attributes
    ----------
    posteriors : (N, C) float32 or float64 array
        Probability of each class at each point; rows sum to 1. All equal where no label is connected.
    classes : (C,) int64 array
        The label that each column stands for, ascending.
    iterations : int
        Steps that the slowest class took.
    error_bound : float
        Rigorous upper bound on the largest absolute error of `posteriors`.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> graph = sf.knn_graph(np.array([[0.0], [1.0], [10.0], [11.0]]), k=1)
    >>> propagated = sf.propagate_labels(graph, np.array([3, -1, -1, 5]))
    >>> propagated.labels
    array([3, 3, 5, 5])
    """

    posteriors: Any
    classes: Any
    iterations: int
    error_bound: float

    @property
    def labels(self) -> Any:
        """(N,) int64 array: the most probable class of each point, the smallest of equals.

        Raises
        ------
        ValueError
            If no point was labelled, so that there is no class.
        """
        if not arrays.is_compiling(self.classes) and len(self.classes) == 0:  # a compiler cannot know
            raise ValueError("labels must hold at least one labelled point for a class to be the most probable")
        return self.classes[self.posteriors.argmax(1)]

    def __repr__(self) -> str:
        n, classes = self.posteriors.shape
        return (
            f"LabelPosteriors(n={n}, classes={classes}, iterations={self.iterations}, "
            f"error_bound={self.error_bound:.2g})"
        )


class Neighbors(NamedTuple):
    """Nearest neighbours between two sets; made by :func:`ssdml_fast.knn_search`.

    Attributes
    ----------
    indices : (Q, k) int64 array
        Rows of the base set nearest to each query.
    distances : (Q, k) float32 or float64 array
        Their distances, ascending.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> indices, distances = sf.knn_search(np.array([[0.0]]), np.array([[2.0], [1.0]]), k=1)
    >>> indices
    array([[1]])
    """

    indices: Any
    distances: Any


def _are_neighbours(indices: Any, ptr: Any) -> bool:
    """Whether _check_neighbours has nothing to refuse, found out where the arrays are."""
    if 0 in indices.shape or arrays.is_trusted(indices):
        return True
    points, low, high = arrays.arange(len(indices), like=indices)[:, None], 0, len(indices)
    if ptr is not None:
        segment = arrays.namespace(indices, "indices").searchsorted(ptr, points, side="right")
        low, high = ptr[segment - 1], ptr[segment]
    ordered = arrays.sort(indices)
    wrong = ((indices < low) | (indices >= high) | (indices == points)).any()
    return not bool(wrong | (ordered[:, 1:] == ordered[:, :-1]).any())


def _check_neighbours(indices: np.ndarray, ptr: np.ndarray | None) -> None:
    """Refuse neighbours that are out of range, of another segment, the point itself, or repeated."""
    n = len(indices)
    if n == 0:
        return
    if ptr is None:
        low, high = np.zeros(n, np.int64), np.full(n, n, np.int64)
    else:
        sizes = np.diff(ptr)
        low, high = np.repeat(ptr[:-1], sizes), np.repeat(ptr[1:], sizes)
    outside = (indices < low[:, None]) | (indices >= high[:, None])
    if outside.any():
        i, r = np.argwhere(outside)[0]
        raise ValueError(f"indices[{i}] must lie in [{low[i]}, {high[i]}), found {indices[i, r]} at indices[{i}, {r}]")
    self_loop = indices == np.arange(n)[:, None]
    if self_loop.any():
        i, r = np.argwhere(self_loop)[0]
        raise ValueError(f"indices must not hold a point's own index, found {i} at indices[{i}, {r}]")
    ordered = np.sort(indices, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    if repeated.any():
        i = int(np.flatnonzero(repeated)[0])
        raise ValueError(f"indices must not repeat a neighbour within a row, found indices[{i}] = {indices[i]}")


def integers_of_edges(graph: KnnGraph) -> type[np.integer]:
    """Type of the indices of a graph as a sparse matrix: int32 if that counts its edges.

    SciPy 1.11 finds connected components by no other, and says nothing of it.
    """
    return np.int32 if graph.n * graph.k < 2**31 else np.int64
