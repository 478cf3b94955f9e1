"""What methods that propagate along graphs have in common: Algorithm 1 of the SSDML paper."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

import ssdml_fast as sf

from .. import _arrays as arrays
from ..graph import KnnGraph, integers_of_edges
from ..models.metric import MetricModel
from ..train.aid import Aid
from ..train.method import Leg, Method, TrainingSet, Work
from .partition import count, partitions
from .settings import GraphSettings
from .warmup import Warmup


def undecided(posteriors: np.ndarray, graph: KnnGraph, labels: np.ndarray) -> np.ndarray:
    """Tell the points that no labelled one is connected to; a tie of classes is none of these.

    Parameters
    ----------
    posteriors : (N, C) array
        Of :func:`ssdml_fast.propagate_labels`, which are equal in such a row.
    graph : KnnGraph
        Of the points.
    labels : (N,) integer array
        Their labels; -1: unlabelled.

    Returns
    -------
    (N,) bool array

    Examples
    --------
    >>> graph, labels = sf.knn_graph(np.array([[0.0], [1.0], [2.0], [8.0], [9.0]]), k=1), np.array([3, -1, 4, -1, -1])
    >>> undecided(sf.propagate_labels(graph, labels).posteriors, graph, labels)
    array([False, False, False,  True,  True])
    """
    equal = (posteriors == posteriors[:, :1]).all(1)
    if not equal.any():
        return equal
    integer = integers_of_edges(graph)
    heads = arrays.to_numpy(graph.indices).ravel().astype(integer)
    ptr = np.arange(0, heads.size + 1, graph.k, dtype=integer)
    edges = csr_array((np.ones(heads.size, bool), heads, ptr), shape=(graph.n, graph.n))
    component = connected_components(edges, directed=False)[1]
    return equal & ~np.isin(component, component[labels >= 0])


class GraphMethod(Method):
    """Goes through random partitions of the data: embeds each, builds its kNN graph, and trains on what that gives.

    A method adds :meth:`mine`, and the loss. A warm-up comes before, where it is set.

    Source: Dutta, Harandi, Sekhar, "Semi-Supervised Metric Learning: A Deep Resurrection", AAAI 2021, Algorithm 1.
    """

    Settings = GraphSettings

    def __init__(self, settings: GraphSettings, model: MetricModel, data: TrainingSet, seed: int) -> None:
        super().__init__(settings, model, data, seed)
        self.warmup = Warmup(settings, model, data, seed)
        n_unlabelled = len(data) - len(data.labelled)
        smallest = len(data.labelled) + n_unlabelled // self.per_round
        if settings.neighbors >= smallest:
            raise ValueError(
                f"neighbors must be less than the examples of a partition, {smallest}, found {settings.neighbors}"
            )

    def stages(self) -> tuple[Method, ...]:
        """The warm-up, and the partitions."""
        return self.warmup, self

    @cached_property
    def per_round(self) -> int:
        """Partitions of a round."""
        return count(self.data.labels, self.settings.partition_size)

    @property
    def n_partitions(self) -> int:
        """Partitions of all rounds, as planned without `max_epochs`."""
        return self.settings.rounds * self.per_round

    def legs(self) -> list[Leg]:
        """Return one leg per partition, as far as `max_epochs` reaches."""
        epochs = self.settings.epochs
        most = self.settings.max_epochs or self.n_partitions * epochs
        legs = []
        for done in range(min(self.n_partitions, -(-most // epochs))):
            round_, part = divmod(done, self.per_round)
            passes = min(epochs, most - done * epochs)
            legs.append(Leg("partition", (round_, part), passes, round=round_ + 1, partition=part + 1))
        return legs

    def members(self, leg: Leg) -> np.ndarray:
        """Examples of a leg's partition."""
        round_, part = leg.position
        rng = np.random.default_rng([self.seed, round_])
        return partitions(self.data.labels, self.settings.partition_size, rng)[part]

    def prepare(self, leg: Leg, aid: Aid) -> Work:
        """Embed the next partition, build its graph, and mine it."""
        members = self.members(leg)
        z = aid.features(members)
        with aid.stage("graph"):
            graph = self.graph(z, aid)
        return self.mine(leg, members, z, graph, aid)

    def graph(self, z: Tensor, aid: Aid) -> KnnGraph:
        """Build the graph of features; of several processes, each finds the neighbours of a part of them."""
        if aid.world.size == 1:
            return sf.knn_graph(z, self.settings.neighbors)
        return sf.distributed.knn_graph(z[aid.world.shard(len(z))], self.settings.neighbors).gather()

    def mine(self, leg: Leg, members: np.ndarray, z: Tensor, graph: KnnGraph, aid: Aid) -> Work:
        """Propagate along a partition's graph, and choose what to train on.

        Parameters
        ----------
        leg : Leg
            Which partition.
        members : (N,) int64 array
            Its examples.
        z : (N, d) float32 tensor
            Their features.
        graph : KnnGraph
            Of those.
        aid : Aid
            For all else.
        """
        raise NotImplementedError
