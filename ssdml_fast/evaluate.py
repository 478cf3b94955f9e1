"""How good an embedding is: among each point's nearest neighbours, in clusters, and between classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from . import _arrays as arrays
from . import _scalars as scalars
from ._extras import require
from .ops.knn_graph import knn_graph, knn_search

__all__ = ["clustering_nmi", "map_at_r", "recall_at_k", "report_embedding", "score_embedding", "silhouette"]

RECALL_KS = (1, 2, 4, 8)
FIGURES = ("nmi", *(f"recall@{k}" for k in RECALL_KS), "map@r", "silhouette")
"""Names of the figures of :func:`report_embedding`, in its order."""

FOUND_AT_ONCE = 1 << 23  # neighbours, in map_at_r


def recall_at_k(embedding: Any, labels: Any, ks: tuple[int, ...] = RECALL_KS) -> dict[int, float]:
    """Share of points with a same-class point among their K nearest others (Euclidean).

    Parameters
    ----------
    embedding : (N, d) float32 or float64 array or tensor
        One row per point; N greater than the largest K.
    labels : (N,) integer array or tensor
        Class of each point.
    ks : tuple of int
        The values of K, each at least 1.

    Returns
    -------
    dict
        Recall in [0, 1] for each K.

    Raises
    ------
    TypeError, ValueError
        If an argument does not have that form; the message names it.

    Notes
    -----
    Exact neighbours from :func:`ssdml_fast.knn_graph`: O(N² d) time, O(N max(ks)) memory.

    Examples
    --------
    >>> import numpy as np
    >>> recall_at_k(np.array([[0.0], [0.1], [5.0], [5.2]]), np.array([0, 0, 1, 0]), ks=(1, 3))
    {1: 0.5, 3: 0.75}
    """
    embedding, labels = _check(embedding, labels)
    ks = tuple(scalars.as_int(k, "ks", 1, len(labels) - 1, " (fewer than there are points)") for k in ks)
    neighbours = knn_graph(embedding, max(ks)).indices
    first_hit = np.where(labels[neighbours] == labels[:, None], np.arange(max(ks)), max(ks)).min(1)
    return {k: float((first_hit < k).mean()) for k in ks}


def clustering_nmi(embedding: Any, labels: Any, n_init: int = 10, seed: int = 0) -> float:
    """Normalised mutual information between the classes and as many k-means clusters.

    Parameters
    ----------
    embedding : (N, d) float32 or float64 array or tensor
        One row per point.
    labels : (N,) integer array or tensor
        Class of each point.
    n_init : int
        Starts of k-means, of which the best is used.
    seed : int
        Seed of the starts.

    Returns
    -------
    float
        NMI in [0, 1], normalised by the arithmetic mean of the two entropies.

    Raises
    ------
    TypeError, ValueError
        If an argument does not have that form; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> clustering_nmi(np.array([[0.0], [0.1], [5.0], [5.2]]), np.array([7, 7, 3, 3]))
    1.0
    """
    require("clustering_nmi", "sklearn", "threadpoolctl")
    from sklearn.cluster import KMeans  # deferred: scikit-learn takes a second to import
    from sklearn.metrics import normalized_mutual_info_score
    from threadpoolctl import threadpool_limits

    embedding, labels = _check(embedding, labels)
    kmeans = KMeans(len(np.unique(labels)), n_init=n_init, random_state=seed)
    with threadpool_limits(1):  # k-means adds its threads' sums in the order they finish; one thread repeats exactly
        clusters = kmeans.fit_predict(embedding.astype(np.float64))
    return float(normalized_mutual_info_score(labels, clusters, average_method="arithmetic"))


def map_at_r(embedding: Any, labels: Any) -> float:
    """Mean average precision at R, where R is the number of other points of each point's class.

    Parameters
    ----------
    embedding : (N, d) float32 or float64 array or tensor
        One row per point.
    labels : (N,) integer array or tensor
        Class of each point. A point alone in its class is found by others but not averaged over.

    Returns
    -------
    float
        Mean over points of (1 / R) Σᵣ P(r), in [0, 1]: the sum runs over those of the R nearest other points
        (Euclidean) that are of the point's class, and P(r) is the share of its class among the r nearest.

    Raises
    ------
    TypeError, ValueError
        If an argument does not have that form, or no class has two points.

    Notes
    -----
    Exact neighbours from :func:`ssdml_fast.knn_search`: O(N² d) time; about 200 MB of memory besides.

    Source: Musgrave, Belongie, Lim, "A metric learning reality check", ECCV 2020.

    Examples
    --------
    >>> import numpy as np
    >>> round(map_at_r(np.array([[0.0], [0.1], [5.0], [5.2]]), np.array([0, 0, 1, 0])), 3)
    0.417
    """
    embedding, labels = _check(embedding, labels)
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    r = counts[inverse] - 1
    order = np.argsort(r, kind="stable")[int((r == 0).sum()) :]
    if not len(order):
        raise ValueError("labels must give at least two points to one class")
    block = max(1, FOUND_AT_ONCE // int(counts.max()))
    total = 0.0
    for queries in np.split(order, range(block, len(order), block)):
        width = int(r[queries[-1]])  # the largest of the block
        found = knn_search(embedding[queries], embedding, width + 1).indices
        others = found != queries[:, None]
        others[others.all(1), -1] = False  # among many duplicates the point itself may not be found
        found = found[others].reshape(len(queries), width)
        ranks = np.arange(1, width + 1)
        hits = (labels[found] == labels[queries, None]) & (ranks <= r[queries, None])
        total += float(((hits * hits.cumsum(1) / ranks).sum(1) / r[queries]).sum())
    return total / len(order)


def silhouette(embedding: Any, labels: Any) -> float:
    """Mean silhouette coefficient of the classes, as scikit-learn's ``silhouette_score`` with Euclidean distances.

    Parameters
    ----------
    embedding : (N, d) float32 or float64 array or tensor
        One row per point.
    labels : (N,) integer array or tensor
        Class of each point: at least two classes, and fewer than points.

    Returns
    -------
    float
        In [-1, 1]: 1 where every point is much nearer to its class than to any other.

    Raises
    ------
    TypeError, ValueError
        If an argument does not have that form.

    Examples
    --------
    >>> import numpy as np
    >>> round(silhouette(np.array([[0.0], [0.1], [5.0], [5.2]]), np.array([7, 7, 3, 3])), 3)
    0.97
    """
    require("silhouette", "sklearn")
    from sklearn.metrics import silhouette_score  # deferred, as above

    embedding, labels = _check(embedding, labels)
    classes = len(np.unique(labels))
    if not 2 <= classes < len(labels):
        raise ValueError(
            f"labels must hold at least two classes, and fewer than points, found {classes} for {len(labels)} points"
        )
    return float(silhouette_score(embedding.astype(np.float64), labels))


def score_embedding(embedding: Any, labels: Any, ks: tuple[int, ...] = RECALL_KS) -> dict[str, float]:
    """NMI and Recall@K of an embedding under the names ``"nmi"`` and ``"recall@K"``, all in [0, 1].

    Parameters
    ----------
    embedding, labels, ks
        As in :func:`recall_at_k` and :func:`clustering_nmi`.

    Returns
    -------
    dict
        ``{"nmi": ..., "recall@1": ..., ...}``

    Examples
    --------
    >>> import numpy as np
    >>> score_embedding(np.array([[0.0], [0.1], [5.0], [5.2]]), np.array([7, 7, 3, 3]), ks=(1,))
    {'nmi': 1.0, 'recall@1': 1.0}
    """
    recalls = recall_at_k(embedding, labels, ks)
    return {"nmi": clustering_nmi(embedding, labels)} | {f"recall@{k}": recall for k, recall in recalls.items()}


def report_embedding(
    embedding: Any, labels: Any, failed: dict[str, Exception] | None = None
) -> dict[str, float | None]:
    """All figures of an embedding that its points define: NMI, Recall@1/2/4/8, MAP@R and the silhouette.

    Parameters
    ----------
    embedding, labels
        As in :func:`recall_at_k`; of any number of points and classes.
    failed : dict, optional
        Where given, a figure whose computation fails, as for lack of memory, is None, and what was raised is put here
        by its name; the others are computed all the same.

    Returns
    -------
    dict
        ``{"nmi": ..., "recall@1": ..., ..., "map@r": ..., "silhouette": ...}``. None where a figure is not defined: NMI
        of less than two classes; Recall@K of no more than K points; MAP@R where each point is alone in its class; the
        silhouette of less than two classes, or of as many as there are points.

    Raises
    ------
    TypeError, ValueError
        If an argument does not have that form; the message names it.
    Exception
        Without `failed`, whatever a figure's computation raises.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.repeat([[0.0], [9.0]], 5, axis=0)
    >>> report_embedding(x, np.repeat([0, 1], 5))["map@r"]
    1.0
    """
    embedding, labels = _check(embedding, labels)
    n, classes = len(labels), len(np.unique(labels))
    figures: dict[str, float | None] = dict.fromkeys(FIGURES)
    ks = tuple(k for k in RECALL_KS if k < n)

    def compute(names: tuple[str, ...], of: Callable[[], Iterable[float]]) -> None:
        try:
            figures.update(zip(names, of(), strict=True))
        except Exception as error:  # whatever a library finds in the numbers, or lacks for them
            if failed is None:
                raise
            failed.update(dict.fromkeys(names, error))

    if classes > 1:
        compute(("nmi",), lambda: [clustering_nmi(embedding, labels)])
    if ks:
        compute(tuple(f"recall@{k}" for k in ks), lambda: recall_at_k(embedding, labels, ks).values())
    if classes < n:
        compute(("map@r",), lambda: [map_at_r(embedding, labels)])
    if 1 < classes < n:
        compute(("silhouette",), lambda: [silhouette(embedding, labels)])
    return figures


def _check(embedding: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    embedding = arrays.to_numpy(arrays.as_floats(embedding, "embedding", ndim=2))
    labels = arrays.to_numpy(arrays.as_integers(labels, "labels", ndim=1))
    arrays.check_shape(labels, (len(embedding),), "labels", "one per row of embedding")
    arrays.check_finite(embedding, "embedding")
    if labels.size and labels.min() < 0:
        raise ValueError(f"labels must all be known (at least 0) to evaluate, found {labels.min()}")
    return embedding, labels
