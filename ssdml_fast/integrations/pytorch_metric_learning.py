"""pytorch-metric-learning: a miner for its losses, and a loss for its miners, wrappers, reducers and trainers.

Needs ``pip install pytorch-metric-learning``; written for its version 2.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.miners import BaseMiner
from pytorch_metric_learning.utils import loss_and_miner_utils
from torch import Tensor

from .. import _scalars as scalars
from ..ops.affinity import propagate_affinity
from ..ops.angular_loss import angular_loss
from ..ops.knn_graph import knn_graph
from ..ops.mine_triplets import mine_triplets

__all__ = ["AffinityMiner", "AngularLoss"]


class AffinityMiner(BaseMiner):
    """Mines the neighbourhoods of a partly labelled batch: kNN graph, propagated affinities, triplets.

    Parameters
    ----------
    k : int
        Neighbours of each point, at least 2; at most one less than the points where a batch is smaller.
    gamma : float
        Share of an affinity that comes from the neighbours, between 0 and 1.
    **kwargs
        Of pytorch-metric-learning's ``BaseMiner``, such as `distance`: an ``LpDistance`` with ``p=2``, which decides
        whether embeddings are normalised first (the default does).

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of range or `distance` another one; on a call, if embeddings and reference embeddings
        differ (neighbours are those within one set) or labels are below -1.

    Notes
    -----
    Called with embeddings (N, d) and labels (N,), -1 = unlabelled, it returns the tuple (anchors, positives, negatives)
    that every loss of pytorch-metric-learning accepts; see :func:`ssdml_fast.mine_triplets`. Losses that read labels
    beside the tuple take -1 for a class.

    Examples
    --------
    >>> import torch
    >>> from pytorch_metric_learning.losses import TripletMarginLoss
    >>> from ssdml_fast.integrations.pytorch_metric_learning import AffinityMiner
    >>> embeddings, labels = torch.randn(100, 16), torch.arange(100) % 5 - 1
    >>> triplets = AffinityMiner(k=10)(embeddings, labels)
    >>> [len(column) for column in triplets]
    [500, 500, 500]
    >>> loss = TripletMarginLoss()(embeddings, labels, triplets)
    """

    def __init__(self, k: int = 10, gamma: float = 0.99, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_distance(self.distance)
        self.k = scalars.as_int(k, "k", 2)
        self.gamma = scalars.as_float(gamma, "gamma", 0, 1)
        self.add_to_recordable_attributes(list_of_names=["k", "gamma"], is_stat=False)

    def mine(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The triplets of a batch; called by pytorch-metric-learning."""
        if ref_emb is not embeddings:
            raise ValueError("ref_emb must be left out: neighbours are found among the embeddings themselves")
        k = min(self.k, len(embeddings) - 1)
        if k < 2:
            return (labels.new_empty(0, dtype=torch.int64),) * 3
        graph = knn_graph(self.distance.maybe_normalize(embeddings), k)
        anchor, positive, negative = mine_triplets(graph, propagate_affinity(graph, labels, self.gamma)).unbind(1)
        return anchor, positive, negative

    def get_default_distance(self) -> LpDistance:
        return LpDistance()


class AngularLoss(BaseMetricLossFunction):
    """The angular loss per triplet, :func:`ssdml_fast.angular_loss`, with a loss value for each of them to reduce.

    Parameters
    ----------
    alpha : float
        Upper bound of the angle at the negative, in degrees, between 0 and 90.
    metric : OrthogonalMetric, optional
        Points are compared under its L, which receives gradients; without it as they are.
    **kwargs
        Of pytorch-metric-learning's ``BaseMetricLossFunction``: `reducer`, `distance` (an ``LpDistance`` with ``p=2``,
        which decides whether embeddings are normalised first; the default does), `embedding_regularizer`.

    Raises
    ------
    TypeError, ValueError
        If `alpha` is out of range or `distance` another one.

    Notes
    -----
    Takes what any of the library's losses takes: labels alone (then all triplets count), the tuple of a triplet or pair
    miner, and reference embeddings, hence ``CrossBatchMemory``. Reducers see one value per triplet; the default is
    their mean.

    The library's own ``AngularLoss`` sums over all negatives of a pair and leaves out a constant: with unit vectors and
    t = tan² alpha, the m of :func:`ssdml_fast.angular_loss` is

        m = 4 t (z_i + z_p)·z_q - 2 (1 + t) z_i·z_p + 2 - 6 t,

    and its exponent is this without 2 - 6 t. So for unit vectors the two losses are equal where a pair has one negative
    and t = 1/3, that is alpha = 30 degrees; elsewhere they weigh triplets differently. (It does not normalise negatives
    itself; this one does.)

    Examples
    --------
    >>> import torch
    >>> from pytorch_metric_learning.miners import TripletMarginMiner
    >>> from ssdml_fast.integrations.pytorch_metric_learning import AngularLoss
    >>> embeddings, labels = torch.randn(20, 8, requires_grad=True), torch.arange(20) % 4
    >>> AngularLoss(alpha=45.0)(embeddings, labels, TripletMarginMiner()(embeddings, labels)).backward()
    """

    def __init__(self, alpha: float = 40.0, metric: torch.nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_distance(self.distance)
        self.alpha = scalars.as_float(alpha, "alpha", 0, 90)
        self.metric = metric
        self.add_to_recordable_attributes(list_of_names=["alpha"], is_stat=False)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> dict[str, dict[str, Any]]:
        """Losses of the triplets, in the form that reducers read; called by pytorch-metric-learning."""
        if labels is None and indices_tuple is None:
            raise ValueError("labels or indices_tuple must be given, found neither")
        indices = loss_and_miner_utils.convert_to_triplets(indices_tuple, labels, ref_labels, t_per_anchor="all")
        if len(indices[0]) == 0:
            return self.zero_losses()
        z = self.distance.maybe_normalize(embeddings)
        triplets = torch.stack(indices, dim=1)
        if ref_emb is not embeddings:  # positives and negatives are rows of another tensor, here put below the first
            z = torch.cat([z, self.distance.maybe_normalize(ref_emb)])
            triplets = triplets + torch.tensor([0, len(embeddings), len(embeddings)], device=triplets.device)
        L = torch.eye(z.shape[1], dtype=z.dtype, device=z.device) if self.metric is None else self.metric.L
        losses = angular_loss(z, triplets, L, self.alpha, reduction="none")
        return {"loss": {"losses": losses, "indices": indices, "reduction_type": "triplet"}}

    def get_default_distance(self) -> LpDistance:
        return LpDistance()


def _check_distance(distance: Any) -> None:
    """Refuse any but the Euclidean distance, of embeddings as they are or normalised."""
    if not isinstance(distance, LpDistance):
        raise TypeError(f"distance must be an LpDistance, found {type(distance).__name__}")
    if (distance.p, distance.power) != (2, 1):
        raise ValueError(f"distance must have p=2 and power=1, found p={distance.p} and power={distance.power}")
