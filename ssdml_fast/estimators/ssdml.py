"""SSDML as a scikit-learn estimator on feature arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.nn import functional as F

from .. import _arrays as arrays
from .. import _scalars as scalars
from ..methods.graph import undecided
from ..methods.ssdml import TOLERANCE
from ..models.seeded import seeded
from ..ops.knn_graph import knn_graph, knn_search
from ..ops.propagate_labels import propagate_labels
from ..train import Config, fit

__all__ = ["SSDML"]

SPREAD = 3.0  # of scaled samples; among nearer ones the loss is almost linear and looks at far triplets most
VALIDATED = 1000  # samples at most that an embedding is judged by after each pass


class SSDML(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Semi-supervised metric learning: a linear map with orthonormal columns, learned from few labels.

    Parameters
    ----------
    n_components : int, optional
        Columns of L, the dimension of the embedding; by default twice the number of classes, but at most half the
        number of features (rounded up), or of the network's outputs.
    hidden_units : int, optional
        Put a network before L: one hidden layer of that many ReLU units, then as many outputs, l2-normalised to the
        length 3. By default there is none, and the embedding is linear.
    n_neighbors : int
        Neighbours of each sample in the graph (k), at least 2; at most one less than there are samples are used.
    gamma : float
        Share of the affinity that propagates at each step of the walk, in (0, 1).
    alpha : float
        Angle of the loss in degrees, in (0, 90).
    max_iter : int
        Passes over the samples, at least 1.
    metric_step : float
        Step of the update of L, greater than 0.
    learning_rate : float
        Adam's step on the network, greater than 0.
    random_state : int, RandomState instance or None
        Decides the start, the triplets and their order. An int for the same result each time.

    Attributes
    ----------
    classes_ : (C,) array
        The labels seen, -1 apart, ascending.
    components_ : (n_components, d) array
        Lᵀ, where d is `n_features_in_` or the number of the network's outputs.
    mean_ : (n_features,) array
        Mean of the training samples.
    scale_ : float
        By which samples are divided, so that the root of their mean squared distance from the mean is 3. Features are
        not scaled one by one: put a ``StandardScaler`` first where their units differ.
    n_features_in_ : int
        Features seen by :meth:`fit`.
    feature_names_in_ : (n_features,) array
        Their names, where `X` had any.
    n_iter_ : int
        Passes made, fewer than `max_iter` where the embedding collapsed.
    best_iter_ : int
        Passes after which the samples were embedded best, 0 at the start; that embedding is kept.
    transduction_ : (n_samples,) array
        Label of each training sample: its own, or the one that reaches it along the graph of the final embedding. Where
        none does, it is -1, and "" among texts.

    Raises
    ------
    TypeError, ValueError
        In :meth:`fit`, if a parameter is out of range, or there are less than two classes or labels of several types,
        or no more samples than classes: triplets need two samples of one class.

    See Also
    --------
    ssdml_fast.train.fit : the same training for any network and images.

    Notes
    -----
    Labels are propagated along the kNN graph of all samples, triplets are drawn from the classes that result, and
    :func:`ssdml_fast.angular_loss` is minimised over them by Cayley steps on L, as :func:`ssdml_fast.train.fit` does in
    one partition of all samples. Of the embeddings after each pass, and of the one at the start, the one with the best
    mean of NMI and Recall@1 is kept, measured on up to 1,000 samples by the labels propagated before the training: the
    labelled ones alone are too few to tell good embeddings apart. Time O(n² d) for the graph of n samples; memory O(n).

    Source: Dutta, Harandi, Sekhar, "Semi-Supervised Metric Learning: A Deep Resurrection", AAAI 2021.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_wine(return_X_y=True)
    >>> few = np.where(np.arange(len(y)) % 12 == 0, y, -1)        # one label in twelve; -1: unlabelled
    >>> model = make_pipeline(StandardScaler(), sf.SSDML(random_state=0)).fit(X, few)
    >>> model.transform(X).shape, model.score(X, y) > 0.9
    ((178, 6), True)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        hidden_units: int | None = None,
        n_neighbors: int = 10,
        gamma: float = 0.9,
        alpha: float = 25.0,
        max_iter: int = 8,
        metric_step: float = 0.5,
        learning_rate: float = 1e-3,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.hidden_units = hidden_units
        self.n_neighbors = n_neighbors
        self.gamma = gamma
        self.alpha = alpha
        self.max_iter = max_iter
        self.metric_step = metric_step
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> SSDML:
        """Learn the embedding.

        Parameters
        ----------
        X : (n_samples, n_features) array
            Samples, labelled and unlabelled.
        y : (n_samples,) array of integers or texts
            Their labels; -1 = unlabelled. Of texts "-1" is too, as which NumPy stores -1 among them, and "".

        Returns
        -------
        self
        """
        arrays.check_not_masked(X, "X")
        arrays.check_not_masked(y, "y")
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_min_samples=3)
        self.classes_, labels = _encode(y)
        if len(X) <= len(self.classes_):
            raise ValueError(
                f"X must hold more samples than there are classes in y, found n_samples={len(X)} of "
                f"{len(self.classes_)} classes"
            )
        seed = int(check_random_state(self.random_state).randint(2**31))
        hidden = None if self.hidden_units is None else scalars.as_int(self.hidden_units, "hidden_units", 1)
        settings, config = self._settings(seed, len(X))
        self.mean_ = X.mean(0, dtype=np.float64)
        distance = float(np.sqrt(np.square(X - self.mean_, dtype=np.float64).sum(1).mean()))
        self.scale_ = distance / SPREAD if distance > 0 else 1.0
        z = self._scaled(X).astype(np.float32)
        network = nn.Identity() if hidden is None else seeded(lambda: _Network(X.shape[1], hidden), seed)
        guessed = self._propagate(z, labels)
        some = np.random.default_rng(seed).permutation(len(z))
        some = some[guessed[some] >= 0][:VALIDATED]
        fitted = fit(network, (z, labels), (z[some], guessed[some]), "ssdml", settings, config)
        self.components_ = fitted.model.metric.state_dict()["L"].numpy().T.astype(np.float64)
        self._network = fitted.model.network.double()  # so that an embedding does not depend on the rows around it
        self._embedding = self.transform(X)
        propagated = self._propagate(self._embedding, labels)
        self.transduction_ = self.classes_[propagated]
        if (propagated < 0).any():
            none = "" if self.classes_.dtype.kind in "OU" else -1
            self.transduction_ = np.where(propagated < 0, none, self.transduction_)
        self.n_iter_, self.best_iter_ = fitted.history[-1]["epoch"], fitted.best["epoch"]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embed samples.

        Parameters
        ----------
        X : (n_samples, n_features) array
            Samples.

        Returns
        -------
        (n_samples, n_components) array
            float32 for float32 samples, float64 otherwise.
        """
        check_is_fitted(self)
        arrays.check_not_masked(X, "X")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        with torch.no_grad():
            z = self._network(torch.from_numpy(self._scaled(X))).numpy()
        return (z @ self.components_.T).astype(X.dtype)

    def score(self, X: Any, y: Any) -> float:
        """Accuracy of the nearest training sample in the embedding: the share of samples with its label, or with the
        label propagated to it.

        Parameters
        ----------
        X : (n_samples, n_features) array
            Samples.
        y : (n_samples,) array of integers or texts
            Their labels; samples of -1 do not count, nor those of the texts "-1" and "".

        Returns
        -------
        float
            In [0, 1]; NaN where no sample has a label.
        """
        arrays.check_not_masked(y, "y")
        embedding = self.transform(X)
        y = np.asarray(y)
        known = ~_is_unlabelled(y)
        if not known.any():
            return float("nan")
        nearest = knn_search(embedding[known], self._embedding.astype(embedding.dtype), 1).indices[:, 0]
        return float((self.transduction_[nearest] == y[known]).mean())

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _propagate(self, z: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The labels that samples have, or else get along the graph of their embeddings; -1 where none reaches them."""
        graph = knn_graph(z, max(1, min(self.n_neighbors, len(z) - 1)))
        found = propagate_labels(graph, labels, self.gamma, tol=TOLERANCE)
        return np.where(labels >= 0, labels, np.where(undecided(found.posteriors, graph, labels), -1, found.labels))

    def _settings(self, seed: int, n: int) -> tuple[dict[str, Any], Config]:
        """The settings of the method and of the training; checks them."""
        width = self.n_features_in_ if self.hidden_units is None else self.hidden_units
        most = (width + 1) // 2
        n_components = min(2 * len(self.classes_), most) if self.n_components is None else self.n_components
        n_neighbors = scalars.as_int(self.n_neighbors, "n_neighbors", 2)
        settings = {
            "rounds": 1,
            "partition_size": n,
            "epochs": scalars.as_int(self.max_iter, "max_iter", 1),
            "neighbors": max(2, min(n_neighbors, n - 1)),
            "gamma": self.gamma,
            "alpha": self.alpha,
        }
        config = Config(
            seed=seed,
            device="cpu",
            patience=self.max_iter,
            learning_rate=self.learning_rate,
            metric_step=self.metric_step,
            metric_dim=scalars.as_int(n_components, "n_components", 1, width, " (what L is applied to)"),
        )
        return settings, config

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        return (X.astype(np.float64, copy=False) - self.mean_) / self.scale_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class _Network(nn.Module):
    """One hidden layer, and outputs of length SPREAD."""

    def __init__(self, n_features: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, hidden))

    def forward(self, x: Tensor) -> Tensor:
        return SPREAD * F.normalize(self.layers(x))


def _is_unlabelled(y: np.ndarray) -> np.ndarray:
    """Where labels are -1; as a text too, which NumPy makes of -1 among names, and where a text is empty."""
    if y.dtype.kind == "U":
        return np.isin(y, ["-1", ""])
    if y.dtype.kind == "O":
        return np.array([label in ("-1", "") if isinstance(label, str) else label == -1 for label in y], bool)
    return y == -1


def _encode(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes, and their numbers in place of labels; -1 stays."""
    unlabelled = _is_unlabelled(y)
    known = y[~unlabelled]
    if known.dtype.kind == "O":
        kinds = {str if isinstance(label, str) else type(label) for label in known}
        if len(kinds) > 1 or type(None) in kinds:
            found = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise ValueError(f"y must hold labels of one type, and -1 where there is none, found {found}")
        known = known if kinds == {str} else np.array(known.tolist())  # integers, say, as such
    if len(known):
        check_classification_targets(known)
    classes = np.unique(known)
    if len(classes) < 2:
        found = "one class" if len(classes) else "none"
        raise ValueError(f"y must hold at least two classes besides -1 (unlabelled), found {found}")
    labels = np.full(len(y), -1, np.int64)
    labels[~unlabelled] = np.searchsorted(classes, known)
    return classes, labels
