"""Algorithm 1 of the SSDML paper: partitions, graph, propagated labels, triplets, and updates of L and the network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ssdml_fast as sf

from .. import _arrays as arrays
from ..data.augment import cut_out, mix_channels, mix_up, random_affine
from ..evaluate import score_embedding
from ..models.metric import MetricModel, untrained
from ..runs.folder import RunError, RunFolder, Stored
from ..runs.records import best_of
from .config import Config
from .mining import mine
from .partition import count, partitions
from .timing import StageTimes
from .warmup import CosineSoftmax, warmup_batches

WARMUP_PART = 250  # mini-batches of the warm-up between two validations
RAMP = 50  # mini-batches in which the warm-up's step grows to its size: full ones harm small untrained weights
WARMUP = 2**31  # in place of the round, in the seeds of the warm-up
CG_ITERATIONS = 10  # at once, as in the paper
MOMENTUM = 0.9  # of SGD
AUGMENTATION: dict[str, Callable[[Tensor], Tensor]] = {  # by a little for the side of the images
    "none": lambda images: images,
    "affine": lambda images: random_affine(images, shift=images.shape[-1] / 14),
    "strong": lambda images: cut_out(
        mix_channels(random_affine(images, scale=0.2, shift=images.shape[-1] / 8, flip=True, padding="reflection")),
        side=images.shape[-1] * 3 // 8,
    ),
}
Told = Callable[[dict[str, Any]], None] | None  # someone who wants to know
COLLAPSE_DROP = 0.1  # below the best validation score so far; on digits, good trainings vary by 0.03


@dataclass(frozen=True)
class Fitted:
    """What :func:`fit` returns.

    Attributes
    ----------
    model : MetricModel
        The network and L with the best validation score; the untrained ones if nothing was better.
    history : list of dict
        One record per validation, as given to `on_validation`; the first is of the untrained model.
    best : dict
        The record of `model`.
    stopped : str
        Why the training ended: ``"finished"`` all its rounds; ``"patience"``: no better score for that many
        validations; ``"collapsed"``: the validation score fell by more than 0.1 below its best; ``"diverged"``: the
        embedding became infinite or NaN.
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
    on_validation: Callable[[dict[str, Any]], None] | None = None,
    on_batch: Callable[[dict[str, Any]], None] | None = None,
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
        Validation images, at least two, and all their labels, for choosing the model.
    config : Config, optional
        Settings; the defaults if not given.
    run : RunFolder, optional
        Where to write metrics, the best model, and after every partition, and every 250 mini-batches of the warm-up, a
        checkpoint.
    resume : bool
        Continue from the checkpoint in `run`. The result is the same as without the interruption.
    on_validation : callable, optional
        Called after each validation: of the untrained model, then after each pass over a partition or, where the
        setting `validations` is more than 1, each such part of it, and after up to 250 mini-batches of the warm-up. The
        record: ``validation`` (its number, 0 for the untrained model), ``planned`` (number of the last, unless the
        training stops early), ``epoch`` (passes over partitions, the one that this is in or ends included, as
        `max_epochs` counts them; 0: the warm-up), ``round`` (0: the warm-up), ``partition``, ``loss`` (mean over the
        mini-batches since the validation before), ``triplets`` (of the pass),
        ``examples`` (trained on since then, each time it was), ``val_nmi``, ``val_recall@1`` (both in [0, 1]),
        ``score`` (their mean), ``orthogonality_error`` (largest magnitude in LᵀL - I), ``seconds`` (wall time of each
        stage since the record before: ``embed``, ``graph``, ``propagate``, ``mine``, ``train``, ``validate``,
        ``save``). That of the untrained model lacks what tells of training.
    on_batch : callable, optional
        Called after each mini-batch with ``validation`` (number of the next), ``planned``, ``done`` (mini-batches since
        the one before), ``batches`` (between the two), ``examples`` (since the one before), ``loss`` (of the
        mini-batch).

    Returns
    -------
    Fitted

    Raises
    ------
    TypeError, ValueError
        If an argument does not have the form above, as a network that embeds `val_images` by NaN or infinity before it
        is trained; the message names it.
    RunError
        If the folder of `run` holds files already; if `resume` is set and the checkpoint is missing, damaged, or of
        other settings.

    Notes
    -----
    First, if `warmup` is set, the labelled examples alone are classed by a softmax on the embedding. Then on each
    partition: embed, :func:`ssdml_fast.knn_graph`, propagate, choose what to train on (see
    ``ssdml_fast.train.mining``), and per mini-batch update L, as `metric_update` says, to lower the mean
    :func:`ssdml_fast.angular_loss`, and with that L take one step on the network; with `softmax_weight` the softmax
    goes on beside it, moving the network but not L. With `average`, graphs, validation and the result use a running
    mean of the network's weights. Random choices depend only on the seed and the position in the training, and the
    caller's global generators are left as they were.

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
                run.create(Stored("ssdml", "OrthogonalMetric", {}, asdict(config)))  # first, as it may be refused
            training.validate(validation=0, epoch=0)
            if not training.history:
                raise ValueError("network must embed val_images by finite numbers, found NaN or inf before training")
            if on_validation:
                on_validation(training.history[0])
        training.to_the_end(run, on_validation, on_batch)
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
        self.average = copy.deepcopy(self.model) if config.average else self.model  # embeds, is validated and kept
        self.learner: Callable[[Tensor], Tensor] = torch.compile(network) if config.compile else network
        known = np.unique(labels[labels >= 0])
        self.classes = torch.from_numpy(np.searchsorted(known, labels))  # 0 … C - 1 where labelled
        self.n_classes = len(known)
        self.softmax = CosineSoftmax(config.metric_dim, self.n_classes, config.seed)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        parameters = [*trained, *self.softmax.parameters()]
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(parameters, weight_decay=config.weight_decay)
            if config.optimizer == "adam"
            else torch.optim.SGD(parameters, momentum=MOMENTUM, weight_decay=config.weight_decay)
        )
        orthogonal = config.metric_update != "unconstrained"
        self.metric_optimizer = sf.optim.CayleySGD(  # has no state
            self.model.metric.parameters(), config.metric_step, stiefel=orthogonal
        )
        self.per_round = count(labels, config.partition_size)
        self.partitions = config.rounds * self.per_round
        self.warmups = -(-config.warmup // WARMUP_PART)
        planned = self.partitions * config.epochs
        self.passes = min(planned, config.max_epochs or planned)
        self.planned = self.warmups + self.passes * config.validations  # validations
        self.done = 0  # parts of the warm-up and then partitions
        self.steps = 0  # on the network
        self.examples = 0  # trained on since the last validation
        self.history: list[dict[str, Any]] = []
        self.propagated: list[Tensor] = []  # by round, of every training image; for reports, nothing is trained on it
        self.times = StageTimes()
        self.best_model: dict[str, Tensor] = {}
        self.stopped: str | None = None

    @property
    def best(self) -> dict[str, Any]:
        return best_of(self.history)

    @property
    def over(self) -> bool:
        """Whether all that is planned is done."""
        return (self.done - self.warmups) * self.config.epochs >= self.passes

    def to_the_end(self, run: RunFolder | None, on_validation: Told, on_batch: Told) -> None:
        """Warm up, then train on one partition after another, saving in between, until there is a reason to stop."""
        if run:
            self.save(run)
        while not (self.stopped or self.over):
            if self.done < self.warmups:
                self.warm_up(on_validation, on_batch)
            else:
                self.one_partition(on_validation, on_batch)
            self.done += 1
            if self.over:
                self.stopped = self.stopped or "finished"
            if run:
                self.save(run)

    def warm_up(self, on_validation: Told, on_batch: Told) -> None:
        """Train on the labelled examples alone, for WARMUP_PART mini-batches or what is left of the warm-up."""
        config, first = self.config, self.done * WARMUP_PART
        rng = self.seeded(WARMUP, self.done)
        n_batches = min(WARMUP_PART, config.warmup - first)
        batches = warmup_batches(self.labels, config.batch_size, n_batches, rng)
        losses = (
            self.warmup_step(rows, config.warmup_rate * min(1, (i + 1) / RAMP) * self.decay(i / config.warmup))
            for i, rows in enumerate(batches, first)
        )
        self.part_done(losses, n_batches, on_validation, on_batch, epoch=0, round=0, partition=0, triplets=0)

    def one_partition(self, on_validation: Told, on_batch: Told) -> None:
        """Build the graph of the next partition, mine it, and train on its triplets."""
        config, done = self.config, self.done - self.warmups
        round_, part = divmod(done, self.per_round)
        members = partitions(self.labels, config.partition_size, np.random.default_rng([config.seed, round_]))[part]
        rng = self.seeded(round_, part)
        share = config.confident + (config.confident_last - config.confident) * done / max(self.partitions - 1, 1)

        images = self.images[torch.from_numpy(members)]
        with self.times.stage("embed"):
            z = self.average.features(images)
        if not torch.isfinite(z).all():
            self.stopped = "diverged"
            return
        mined = mine(z, self.labels[members], config, share, self.times)
        self.keep_propagated(round_, members, mined.propagated)
        first = done * config.epochs
        for through in range(first, min(first + config.epochs, self.passes)):  # passes
            labelled = warmup_batches(self.labels, config.batch_size, mined.n_batches, rng)
            if config.metric_update == "partition" and mined.triplets is not None:
                with self.times.stage("embed"):
                    z = self.model.features(images)
                with self.times.stage("train"):
                    self.solve_metric(z, mined.triplets)
            losses = (
                self.triplet_step(images[rows], draw, labelled, self.rate(through + i / mined.n_batches))
                for i, (rows, draw) in enumerate(mined.batches(rng))
            )
            before = len(self.history)
            for n_batches in even_parts(mined.n_batches, config.validations):
                self.part_done(
                    islice(losses, n_batches), n_batches, on_validation, on_batch,
                    epoch=through + 1, round=round_ + 1, partition=part + 1, triplets=mined.n_triplets,
                )  # fmt: skip
                if self.stopped:
                    return
            if len(self.history) == before:
                raise ValueError(f"no triplet can be drawn from partition {part + 1} of round {round_ + 1}")

    def keep_propagated(self, round_: int, members: np.ndarray, propagated: np.ndarray) -> None:
        """Note the labels that the unlabelled examples of a partition got; -1: labelled, or not yet in a partition."""
        if round_ == len(self.propagated):
            self.propagated.append(torch.full(self.labels.shape, -1))
        unlabelled = self.labels[members] < 0
        self.propagated[round_][torch.from_numpy(members[unlabelled])] = torch.from_numpy(propagated[unlabelled]).long()

    def seeded(self, *position: int) -> np.random.Generator:
        """Seed by the position in the training, so that resuming needs no saved state; torch's generator too."""
        rng = np.random.default_rng([self.config.seed, *position])
        torch.default_generator.manual_seed(int(rng.integers(2**63)))  # augmentation, and networks that draw: dropout
        return rng

    def rate(self, through: float) -> float:
        """Step on the network after that many passes over partitions."""
        return self.config.learning_rate * self.decay(through / self.passes)

    def decay(self, through: float) -> float:
        """Factor of the step at a share of the way."""
        return (1 + math.cos(math.pi * through)) / 2 if self.config.schedule == "cosine" else 1.0

    def part_done(
        self,
        losses: Iterator[float | None],
        n_batches: int,
        on_validation: Told,
        on_batch: Told,
        **record: Any,
    ) -> None:
        """Take the steps whose `losses` these are, validate, and tell; not if no mini-batch has triplets."""
        self.examples = 0
        with self.times.stage("train"):
            loss = _mean(self.told(losses, n_batches, on_batch))
        if loss is None:
            return
        if not math.isfinite(loss):
            self.stopped = "diverged"
            return
        self.validate(validation=len(self.history), loss=loss, examples=self.examples, **record)
        if on_validation:
            on_validation(self.history[-1])

    def told(self, losses: Iterator[float | None], n_batches: int, on_batch: Told) -> Iterator[float | None]:
        """Tell of each mini-batch as it is done, and pass its loss on."""
        for done, loss in enumerate(losses, 1):
            if on_batch and loss is not None:
                place = {"validation": len(self.history), "planned": self.planned, "done": done, "batches": n_batches}
                on_batch(place | {"examples": self.examples, "loss": loss})
            yield loss

    def warmup_step(self, rows: Tensor, rate: float) -> float:
        """Move the network and L so that a softmax tells the labelled examples' classes; return its loss.

        One that is not finite, as of an embedding that is not, moves nothing.
        """
        loss, L = self.softmax_loss(rows), self.model.metric.L
        if not torch.isfinite(loss):
            return math.nan
        L.grad = None
        self.move_network(loss, rate)
        self.metric_optimizer.step()
        self.update_average()
        return loss.item()

    def triplet_step(
        self, images: Tensor, draw: Callable[[Tensor], Tensor], labelled: Iterator[Tensor], rate: float
    ) -> float | None:
        """Move L, and with that L the network, along the loss of a mini-batch, and the softmax on a labelled one.

        Returns the loss: NaN once an embedding is not finite, None if no triplet can be drawn.
        """
        z, L, alpha = self.embedded(self.augmented(images)), self.model.metric.L, self.config.alpha
        if not torch.isfinite(z).all():
            return math.nan
        fixed = z.detach()
        with self.times.stage("mine"):
            triplets = draw(fixed)
        if len(triplets) == 0:
            return None
        if self.config.metric_update == "conjugate":
            self.solve_metric(fixed, triplets)
        elif self.config.metric_update != "partition":
            _, _, L.grad = sf.angular_loss_and_grad(fixed, triplets, L, alpha, reduction="mean")
            self.metric_optimizer.step()
        loss = sf.angular_loss(z, triplets, L.detach(), alpha, reduction="mean")
        if self.config.softmax_weight:
            loss = loss + self.config.softmax_weight * self.softmax_loss(next(labelled))
        self.move_network(loss, rate)
        self.update_average()
        return loss.item()

    def softmax_loss(self, rows: Tensor) -> Tensor:
        """How far the softmax is from telling the classes of labelled examples, augmented and mixed up."""
        images, classes = self.augmented(self.images[rows]), self.classes[rows]
        if self.config.mixup:
            images, classes = mix_up(images, F.one_hot(classes, self.n_classes).to(images), self.config.mixup)
        return self.softmax(self.embedded(images) @ self.model.metric.L, classes)

    def augmented(self, images: Tensor) -> Tensor:
        """Change the images of a mini-batch at random."""
        return AUGMENTATION[self.config.augment](images)

    @torch.no_grad()
    def solve_metric(self, z: Tensor, triplets: Tensor) -> None:
        """Move L by Riemannian conjugate gradients on points that stay."""
        L = self.model.metric.L
        L.copy_(sf.riemannian_cg(L, z, triplets, self.config.alpha, CG_ITERATIONS, reduction="mean").L)

    def embedded(self, images: Tensor) -> Tensor:
        """Embed a mini-batch, to learn from."""
        self.model.network.train()
        self.examples += len(images)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            z = self.learner(images)
        return z.float()

    def move_network(self, loss: Tensor, rate: float) -> None:
        """Take one step on whatever of the network and the softmax `loss` depends on."""
        if not loss.requires_grad:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1

    def update_average(self) -> None:
        """Move the running mean towards the weights: fast at first, as it began with untrained ones."""
        if self.average is self.model:
            return
        decay = min(self.config.average, self.steps / (self.steps + 9))
        now, mean = self.model.network.state_dict(), self.average.network.state_dict()
        for name, tensor in mean.items():
            if tensor.is_floating_point():
                tensor.lerp_(now[name], 1 - decay)
            else:
                tensor.copy_(now[name])  # counters
        self.average.metric.load_state_dict(self.model.metric.state_dict())  # a mean would not be orthogonal

    def validate(self, **record: Any) -> None:
        """Score the model, keep it if it is the best so far, and see whether to stop."""
        with self.times.stage("validate"):
            embedding = self.average.embed(self.val_images)
            if not np.isfinite(embedding).all():
                self.stopped = "diverged"
                return
            figures = score_embedding(embedding, self.val_labels, ks=(1,))
        score = (figures["nmi"] + figures["recall@1"]) / 2
        self.history.append(
            record
            | {"planned": self.planned, "score": score}
            | {f"val_{name}": value for name, value in figures.items()}
            | {"orthogonality_error": self.average.metric.orthogonality_error(), "seconds": self.times.take()}
        )
        best = self.best
        if best is self.history[-1]:
            self.best_model = _copy(self.average.state_dict())
        elif score < best["score"] - COLLAPSE_DROP:
            self.stopped = "collapsed"
        elif record["validation"] - max(best["validation"], self.warmups) >= self.config.patience:
            self.stopped = "patience"

    def save(self, run: RunFolder) -> None:
        checkpoint = {
            "config": asdict(self.config),
            "done": self.done,
            "steps": self.steps,
            "history": self.history,
            "propagated": self.propagated,
            "stopped": self.stopped,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "best_model": self.best_model,
            "softmax": self.softmax.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with self.times.stage("save"):
            run.write_progress(checkpoint)

    def load(self, run: RunFolder) -> None:
        checkpoint = run.read_checkpoint()
        try:
            if checkpoint["config"] != asdict(self.config):
                raise ValueError("it was trained with other settings")
            self.model.load_state_dict(checkpoint["model"])
            self.average.load_state_dict(checkpoint["average"])
            self.softmax.load_state_dict(checkpoint["softmax"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.done = checkpoint["done"]
            self.steps = checkpoint["steps"]
            self.history = checkpoint["history"]
            self.propagated = checkpoint["propagated"]
            self.best_model = checkpoint["best_model"]
            self.stopped = checkpoint["stopped"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise RunError(f"the checkpoint in {run.path} does not fit: {error}") from None

    def result(self) -> Fitted:
        self.model.load_state_dict(self.best_model)
        self.model.eval()
        return Fitted(self.model, self.history, self.best, self.stopped or "finished")


def even_parts(n_batches: int, parts: int) -> list[int]:
    """Cut a pass's mini-batches into parts that differ by at most one; return how many each has, at least one."""
    parts = max(1, min(parts, n_batches))
    return [n_batches * (i + 1) // parts - n_batches * i // parts for i in range(parts)]


def _mean(losses: Iterator[float | None]) -> float | None:
    """Mean of those there are, None without any; the first that is not finite ends it."""
    kept = []
    for loss in losses:
        if loss is None:
            continue
        if not math.isfinite(loss):
            return loss
        kept.append(loss)
    return math.fsum(kept) / len(kept) if kept else None


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _check(
    images: np.ndarray, labels: np.ndarray, val_images: np.ndarray, val_labels: np.ndarray, config: Config
) -> np.ndarray:
    """Refuse what the training cannot work with; return the labels as int64."""
    for name, array in (("images", images), ("val_images", val_images)):
        arrays.check_not_masked(array, name)
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            found = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"{name} must be a NumPy array of type float32 in native byte order, found {found}")
        arrays.check_finite(array, name)
    labels = arrays.as_integers(labels, "labels", ndim=1, like=images)
    arrays.check_shape(labels, (len(images),), "labels", "one per image")
    val_labels = arrays.as_integers(val_labels, "val_labels", ndim=1, like=val_images)
    arrays.check_shape(val_labels, (len(val_images),), "val_labels", "one per image of val_images")
    if len(val_labels) < 2:
        raise ValueError(f"val_images must hold at least two examples, to find neighbours of, found {len(val_labels)}")
    if val_labels.min() < 0:
        raise ValueError(f"val_labels must all be known (at least 0), found {val_labels.min()}")
    n_classes = len(np.unique(labels[labels >= 0]))
    if n_classes < 2:
        raise ValueError(f"labels must hold at least two classes besides -1, found {n_classes}")
    n_labelled = int((labels >= 0).sum())
    if config.augment != "none" and images.ndim != 4:
        raise ValueError(
            f"augment must be 'none' for examples that are no images, found {config.augment!r} for examples of shape "
            f"{images.shape[1:]}"
        )
    smallest = n_labelled + (len(labels) - n_labelled) // count(labels, config.partition_size)
    if config.neighbors >= smallest:
        raise ValueError(
            f"neighbors must be less than the examples of a partition, {smallest}, found {config.neighbors}"
        )
    return labels
