"""Algorithm 1 of the SSDML paper: partitions, graph, propagated labels, triplets, and updates of L and the network."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ssdml_fast as sf

from .. import _arrays as arrays
from ..evaluate import score_embedding
from ..models.metric import MetricModel, untrained
from .config import Config
from .mining import mine
from .partition import count, partitions
from .run import RunError, RunFolder

COLLAPSE_DROP = 0.1  # below the best validation score so far; on digits, good trainings vary by 0.03 between epochs


@dataclass(frozen=True)
class Fitted:
    """What :func:`fit` returns.

    Attributes
    ----------
    model : MetricModel
        The network and L with the best validation score; the untrained ones if nothing was better.
    history : list of dict
        One record per epoch, as given to `on_epoch`; the first is the untrained model, epoch 0.
    best : dict
        The record of `model`.
    stopped : str
        Why the training ended: ``"finished"`` all its rounds; ``"patience"``: no better score for that many epochs;
        ``"collapsed"``: the validation score fell by more than 0.1 below its best; ``"diverged"``: the embedding
        became infinite or NaN.
    """

    model: MetricModel
    history: list[dict[str, Any]]
    best: dict[str, Any]
    stopped: str


def fit(
    network: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    val_images: np.ndarray,
    val_labels: np.ndarray,
    config: Config | None = None,
    run: RunFolder | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> Fitted:
    """Train a network and an orthogonal metric L by SSDML, and keep the model that validates best.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (B, ...) float32 images to (B, d) l2-normalised rows, on the CPU. Trained in place; afterwards it holds
        the best weights. One without parameters that require gradients stays as it is: L alone is trained.
    images : (N, ...) float32 array
        Training images.
    labels : (N,) integer array
        Their labels; -1 = unlabelled. At least two classes need labels.
    val_images, val_labels
        Validation images and all their labels, for choosing the model.
    config : Config, optional
        Settings; the defaults if not given.
    run : RunFolder, optional
        Where to write metrics, the best model, and after every partition a checkpoint.
    resume : bool
        Continue from the checkpoint in `run`. The result is the same as without the interruption.
    on_epoch : callable, optional
        Called with the record of each epoch: ``epoch`` (of ``epochs`` planned), ``round``, ``partition``, ``loss``
        (mean over mini-batches), ``triplets``, ``from_neighborhoods`` (how many of them), ``val_nmi``,
        ``val_recall@1`` (both in [0, 1]), ``score`` (their mean), ``orthogonality_error`` (largest entry of
        |LᵀL - I|), ``seconds``.

    Returns
    -------
    Fitted

    Raises
    ------
    TypeError, ValueError
        If an argument does not have the form above; the message names it.
    RunError
        If the folder of `run` holds files already; if `resume` is set and the checkpoint is missing, damaged, or of
        other settings.

    Notes
    -----
    On each partition: embed, :func:`ssdml_fast.knn_graph`, :func:`ssdml_fast.propagate_affinity`, choose triplets
    (see :mod:`ssdml_fast.train.mining`), then per mini-batch one step of :class:`ssdml_fast.optim.CayleySGD` on L
    along the gradient of the mean :func:`ssdml_fast.angular_loss`, and with that L one Adam step on the network.
    Random choices depend only on the seed and the position in the training, and the caller's global generators are
    left as they were.

    Source: Dutta, Harandi, Sekhar, "Semi-Supervised Metric Learning: A Deep Resurrection", AAAI 2021, Algorithm 1.

    Examples
    --------
    >>> from ssdml_fast.data.digits import load_digits
    >>> from ssdml_fast.models.digits import DigitsNet
    >>> from ssdml_fast.models.seeded import seeded
    >>> data = load_digits()
    >>> fitted = fit(seeded(DigitsNet, 0), data.images, data.labels, data.val_images, data.val_labels, Config(rounds=1))
    >>> fitted.best["score"] > fitted.history[0]["score"]
    True
    """
    config = config or Config()
    labels = _check(images, labels, val_images, val_labels, config)
    with torch.random.fork_rng(devices=[]):
        training = _Training(network, images, labels, val_images, val_labels, config)
        if resume:
            if run is None:
                raise ValueError("run must be given to resume from")
            training.load(run)
        else:
            if run:
                run.create(config)
            training.validate(epoch=0)
            if on_epoch:
                on_epoch(training.history[0])
        training.to_the_end(run, on_epoch)
    return training.result()


class _Training:
    """The state of a training, and how it moves on."""

    def __init__(
        self,
        network: nn.Module,
        images: np.ndarray,
        labels: np.ndarray,
        val_images: np.ndarray,
        val_labels: np.ndarray,
        config: Config,
    ) -> None:
        self.images, self.labels = torch.from_numpy(images), labels
        self.val_images, self.val_labels = val_images, val_labels
        self.config = config
        self.model = untrained(network, images, config.metric_dim, config.seed)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, config.learning_rate) if trained else None
        self.metric_optimizer = sf.optim.CayleySGD(self.model.metric.parameters(), config.metric_step)  # has no state
        self.per_round = count(labels, config.partition_size)
        self.epochs = config.rounds * self.per_round * config.epochs
        self.partitions_done = 0
        self.history: list[dict[str, Any]] = []
        self.best_model: dict[str, Tensor] = {}
        self.stopped: str | None = None

    @property
    def best(self) -> dict[str, Any]:
        return max(self.history, key=lambda record: record["score"])  # the earliest, of equals

    def to_the_end(self, run: RunFolder | None, on_epoch: Callable[[dict[str, Any]], None] | None) -> None:
        """Train on one partition after another, saving in between, until there is a reason to stop."""
        if run:
            self.save(run)
        while self.stopped is None:
            self.one_partition(on_epoch)
            self.partitions_done += 1
            if self.stopped is None and self.partitions_done == self.config.rounds * self.per_round:
                self.stopped = "finished"
            if run:
                self.save(run)

    def one_partition(self, on_epoch: Callable[[dict[str, Any]], None] | None) -> None:
        """Build the graph of the next partition, mine it, and train on its triplets."""
        config = self.config
        round_, part = divmod(self.partitions_done, self.per_round)
        members = partitions(self.labels, config.partition_size, np.random.default_rng([config.seed, round_]))[part]
        rng = np.random.default_rng([config.seed, round_, part])  # seeded by position: nothing to save for resuming
        torch.default_generator.manual_seed(int(rng.integers(2**63)))  # for networks that draw, as dropout does

        images = self.images[torch.from_numpy(members)]
        triplets, from_neighborhoods = mine(self.model.features(images), self.labels[members], config, rng)
        if len(triplets) == 0:
            raise ValueError(f"no triplet can be drawn from partition {part + 1} of round {round_ + 1}")
        for _ in range(config.epochs):
            began = time.perf_counter()
            loss = self.one_epoch(images, torch.from_numpy(rng.permutation(triplets)))
            if not math.isfinite(loss):
                self.stopped = "diverged"
                return
            self.validate(
                epoch=len(self.history),
                round=round_ + 1,
                partition=part + 1,
                loss=loss,
                triplets=len(triplets),
                from_neighborhoods=from_neighborhoods,
                seconds=round(time.perf_counter() - began, 3),
            )
            if on_epoch:
                on_epoch(self.history[-1])
            if self.stopped:
                return

    def one_epoch(self, images: Tensor, triplets: Tensor) -> float:
        """Go once through the triplets in mini-batches; return the mean loss, NaN once an embedding is not finite."""
        model, L, alpha = self.model, self.model.metric.L, self.config.alpha
        model.network.train()
        losses = []
        for batch in triplets.split(self.config.batch_size):
            examples, batch = torch.unique(batch, return_inverse=True)  # each image is embedded once
            z = model.network(images[examples])
            if not torch.isfinite(z).all():
                return math.nan
            loss, _, L.grad = sf.angular_loss_and_grad(z.detach(), batch, L, alpha, reduction="mean")
            self.metric_optimizer.step()
            if self.optimizer:
                loss = sf.angular_loss(z, batch, L.detach(), alpha, reduction="mean")
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            losses.append(loss.item())
        return math.fsum(losses) / len(losses)

    def validate(self, **record: Any) -> None:
        """Score the model, keep it if it is the best so far, and see whether to stop."""
        embedding = self.model.embed(self.val_images)
        if not np.isfinite(embedding).all():
            self.stopped = "diverged"
            return
        figures = score_embedding(embedding, self.val_labels, ks=(1,))
        score = (figures["nmi"] + figures["recall@1"]) / 2
        self.history.append(
            record
            | {"epochs": self.epochs, "score": score}
            | {f"val_{name}": value for name, value in figures.items()}
            | {"orthogonality_error": self.model.metric.orthogonality_error()}
        )
        best = self.best
        if best is self.history[-1]:
            self.best_model = _copy(self.model.state_dict())
        elif score < best["score"] - COLLAPSE_DROP:
            self.stopped = "collapsed"
        elif record["epoch"] - best["epoch"] >= self.config.patience:
            self.stopped = "patience"

    def save(self, run: RunFolder) -> None:
        run.write_progress(
            {
                "config": asdict(self.config),
                "partitions_done": self.partitions_done,
                "history": self.history,
                "stopped": self.stopped,
                "model": self.model.state_dict(),
                "best_model": self.best_model,
                "optimizer": self.optimizer.state_dict() if self.optimizer else {},
            }
        )

    def load(self, run: RunFolder) -> None:
        checkpoint = run.read_checkpoint()
        try:
            if checkpoint["config"] != asdict(self.config):
                raise ValueError("it was trained with other settings")
            self.model.load_state_dict(checkpoint["model"])
            if self.optimizer:
                self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.partitions_done = checkpoint["partitions_done"]
            self.history = checkpoint["history"]
            self.best_model = checkpoint["best_model"]
            self.stopped = checkpoint["stopped"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise RunError(f"the checkpoint in {run.path} does not fit: {error}") from None

    def result(self) -> Fitted:
        self.model.load_state_dict(self.best_model)
        self.model.eval()
        return Fitted(self.model, self.history, self.best, self.stopped or "finished")


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _check(
    images: np.ndarray, labels: np.ndarray, val_images: np.ndarray, val_labels: np.ndarray, config: Config
) -> np.ndarray:
    """Refuse what the training cannot work with; return the labels as int64."""
    for name, array in (("images", images), ("val_images", val_images)):
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            found = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"{name} must be a NumPy array of type float32, found {found}")
        arrays.check_finite(array, name)
    labels = arrays.as_integers(labels, "labels", ndim=1, like=images)
    arrays.check_shape(labels, (len(images),), "labels", "one per image")
    arrays.check_shape(val_labels, (len(val_images),), "val_labels", "one per image of val_images")
    n_classes = len(np.unique(labels[labels >= 0]))
    if n_classes < 2:
        raise ValueError(f"labels must hold at least two classes besides -1, found {n_classes}")
    n_labelled = int((labels >= 0).sum())
    smallest = n_labelled + (len(labels) - n_labelled) // count(labels, config.partition_size)
    if config.neighbors >= smallest:
        raise ValueError(
            f"neighbors must be less than the examples of a partition, {smallest}, found {config.neighbors}"
        )
    return labels
