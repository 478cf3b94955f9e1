"""Goes through the legs of a method: seeds, steps, running mean, validation, stopping, saving and resuming."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _arrays as arrays
from .. import _scalars as scalars
from ..data.examples import Examples
from ..evaluate import score_embedding
from ..exceptions import RangeError
from ..models.metric import BATCH, MetricModel
from ..runs.fingerprint import difference, fingerprint
from ..runs.folder import RunError, RunFolder
from ..runs.records import best_of
from .aid import Aid
from .config import ELSEWHERE, Config
from .feed import Feed
from .learner import Learner
from .method import Batch, Diverged, Leg, Method, TrainingSet, Work
from .records import COLLAPSED, DIVERGED, FINISHED, PATIENCE
from .timing import StageTimes

COLLAPSE_DROP = 0.1  # below the best validation score so far; on digits, good trainings vary by 0.03
TOLD_ON_DEVICE = 25  # mini-batches between two losses that are read from a device, which waits for them
Told = Callable[[dict[str, Any]], None] | None  # someone who wants to know


@dataclass(frozen=True)
class Fitted:
    """What :func:`ssdml_fast.train.fit` returns.

    Attributes
    ----------
    model : MetricModel
        The network and its head with the best validation score; the untrained ones if nothing was better. With `select`
        as ``"last"``, the last.
    history : list of dict
        One record per validation, as given to `on_validation`; the first is of the untrained model.
    best : dict
        The record of `model`.
    stopped : str
        Why the training ended: ``"finished"`` all its legs; ``"patience"``: no better score for that many
        validations; ``"collapsed"``: the validation score fell by more than 0.1 below its best; ``"diverged"``: the
        embedding became infinite or NaN.

    Examples
    --------
    >>> from torch import nn
    >>> from ssdml_fast.data import load
    >>> from ssdml_fast.train import fit
    >>> data = load("digits")
    >>> network = nn.Sequential(nn.Flatten(), nn.LayerNorm(64, elementwise_affine=False))  # L alone is trained
    >>> fitted = fit(network, data, settings={"rounds": 1, "epochs": 1}, device="cpu")
    >>> fitted.stopped, fitted.best["validation"] == fitted.history[fitted.best["validation"]]["validation"]
    ('finished', True)
    >>> fitted.model.embed(data.test_images).shape
    (599, 64)
    """

    model: MetricModel
    history: list[dict[str, Any]]
    best: dict[str, Any]
    stopped: str


class Engine(Learner):
    """A learner that goes through the legs of a method: the state of a training, and how it moves on.

    Parameters
    ----------
    model : MetricModel
        The untrained model, on the CPU.
    method : Method
        What to train it by.
    examples, val_examples : Examples
        Training examples and, with `select` as ``"validation"``, those that the model is chosen on.
    data : TrainingSet
        What is known of the training examples.
    val_labels : int64 array, optional
        Labels of `val_examples`.
    config : Config
        Settings.
    device : torch.device
        Where the network learns.
    decoded : (Examples, Examples or None), optional
        What `examples` and `val_examples` were computed from; the fingerprint is of these in their place.
    """

    def __init__(
        self,
        model: MetricModel,
        method: Method,
        examples: Examples,
        data: TrainingSet,
        val_examples: Examples | None,
        val_labels: np.ndarray | None,
        config: Config,
        device: torch.device,
        decoded: tuple[Examples, Examples | None] | None = None,
    ) -> None:
        method.check(config)
        super().__init__(model, method, config, device)
        self.data = data
        self.feed = Feed(examples, device, model.prepare)
        self.val_feed = None if val_examples is None else Feed(val_examples, device, model.prepare)
        self.val_labels = val_labels
        self.decoded = decoded or (examples, val_examples)
        self.plan = [(stage, leg) for stage in method.stages() for leg in _legs(stage)]
        self.ways = _ways([leg for _, leg in self.plan])
        self.planned = sum(leg.passes * self._validations(leg) for _, leg in self.plan)
        self.warmups = sum(leg.passes * self._validations(leg) for _, leg in self.plan if leg.round == 0)
        self.done = 0  # legs
        self.history: list[dict[str, Any]] = []
        self.propagated: list[Tensor] = []  # by round, of every training example
        self.times = StageTimes()
        self.best_model: dict[str, Tensor] = {}
        self.stopped: str | None = None
        self.aid = Aid(self)

    # --- the way ------------------------------------------------------------------------------------------------------

    def to_the_end(self, run: RunFolder | None, on_validation: Told, on_batch: Told) -> None:
        """Go through one leg after another, saving in between, until there is a reason to stop."""
        if run:
            self.save(run)
        while self.stopped is None and self.done < len(self.plan):
            try:
                self.one_leg(*self.plan[self.done], on_validation, on_batch)
            except (Diverged, RangeError):
                self.stopped = DIVERGED
            self.done += 1
            if run:
                self.save(run)

    def one_leg(self, method: Method, leg: Leg, on_validation: Told, on_batch: Told) -> None:
        """Prepare a leg, and train on what it gives."""
        aid = self.aid
        aid.rng = self.seeded(leg)
        work = method.prepare(leg, aid)
        if not isinstance(work, Work):
            raise TypeError(f"prepare of {type(method).__name__} must return a Work, found {type(work).__name__}")
        if work.propagated is not None and leg.round:
            self.keep_propagated(leg.round, *work.propagated)
        epoch = sum(earlier.passes for _, earlier in self.plan[: self.done] if earlier.round > 0)
        for through in range(leg.passes):
            aid.through = self.way(leg, through)
            method.begin_pass(work, aid)
            told = {name: value.item() if hasattr(value, "item") else value for name, value in work.record.items()}
            losses = self.losses(method, leg, work, through)
            before = len(self.history)
            for n_batches in even_parts(work.n_batches, self._validations(leg)):
                record = told | {"round": leg.round, "partition": leg.partition}
                record["epoch"] = epoch + through + 1 if leg.round else 0
                self.one_part(islice(losses, n_batches), n_batches, record, on_validation, on_batch)
                if self.stopped:
                    return
            if len(self.history) == before:
                raise ValueError(f"nothing can be learnt from {leg}: no mini-batch has a loss")

    def one_part(
        self, losses: Iterator[Tensor | None], n_batches: int, record: dict[str, Any], on_validation: Told,
        on_batch: Told,
    ) -> None:  # fmt: skip
        """Take the steps whose `losses` these are, validate, and tell; not if no mini-batch has one."""
        self.examples = 0
        # Losses of the host are kept as floats: a small tensor each would lie in the way of the mini-batches, whose
        # memory glibc then takes anew from the system at every step.
        kept: list[Any] = []
        with self.times.stage("train"):
            for done, loss in enumerate(losses, 1):
                if loss is None:
                    continue
                kept.append(loss.item() if self.looks else loss)
                if on_batch and (self.looks or done % TOLD_ON_DEVICE == 0 or done == n_batches):
                    place = {"validation": len(self.history), "planned": self.planned, "done": done}
                    on_batch(place | {"batches": n_batches, "examples": self.examples, "loss": loss.item()})
            if not kept:
                return
            mean = math.fsum(kept if self.looks else torch.stack(kept).tolist()) / len(kept)
        if not self.world.same(math.isfinite(mean)):
            raise Diverged
        self.validate(record | {"validation": len(self.history), "loss": mean, "examples": self.examples})
        if on_validation:
            on_validation(self.history[-1])

    def losses(self, method: Method, leg: Leg, work: Work, through: int) -> Iterator[Tensor | None]:
        """Take a step for each mini-batch of a pass, and yield its loss; None: there was nothing to learn from."""
        batches = islice(work.batches(self.aid.rng), work.n_batches)  # none more, whoever reads how far ahead
        for i, batch in enumerate(self.feed.ahead(batches)):
            self.aid.through = self.way(leg, through, i, work.n_batches)
            yield self.step(method, batch, self.rate(leg, through, i, work.n_batches))

    def seeded(self, leg: Leg) -> np.random.Generator:
        """Seed by the position in the training, so that resuming needs no saved state; torch's generators too."""
        rng = np.random.default_rng([self.config.seed, *leg.position])
        seed = int(rng.integers(2**63))  # of augmentation, and of networks that draw: dropout
        torch.default_generator.manual_seed(seed)
        if self.network_device.type == "cuda":
            with torch.cuda.device(self.network_device):
                torch.cuda.manual_seed(seed)
        elif self.network_device.type == "mps":
            torch.mps.manual_seed(seed)
        return rng

    def position(self, leg: Leg, through: int, i: int = 0, n_batches: int = 1) -> float:
        """Weight of what lies behind the i-th mini-batch of a pass, among the legs of its kind."""
        return self.ways[leg.position][0] + leg.weight * through + leg.weight * i / n_batches

    def way(self, leg: Leg, through: int, i: int = 0, n_batches: int = 1) -> float:
        """The same as a share of all of its kind, in [0, 1]."""
        return self.position(leg, through, i, n_batches) / self.ways[leg.position][1]

    def rate(self, leg: Leg, through: int, i: int = 0, n_batches: int = 1) -> float:
        """Step on the network at the i-th mini-batch of a pass."""
        way = self.way(leg, through, i, n_batches)
        rate = self.config.learning_rate if leg.rate is None else leg.rate
        if leg.ramp:
            rate *= min(1, (self.position(leg, through, i, n_batches) + 1) / leg.ramp)
        return rate * ((1 + math.cos(math.pi * way)) / 2 if self.config.schedule == "cosine" else 1.0)

    def _validations(self, leg: Leg) -> int:
        return self.config.validations if leg.validations is None else leg.validations

    def keep_propagated(self, round_: int, rows: np.ndarray, labels: np.ndarray) -> None:
        """Note the labels that unlabelled examples got; -1: labelled, not yet in a partition of this round, or none."""
        while len(self.propagated) < round_:
            self.propagated.append(torch.full((len(self.data),), -1, dtype=torch.int64))
        unlabelled = self.data.labels[rows] < 0
        self.propagated[round_ - 1][torch.from_numpy(rows[unlabelled])] = torch.from_numpy(labels[unlabelled])

    # --- a step -------------------------------------------------------------------------------------------------------

    def step(self, method: Method, batch: Batch, rate: float) -> Tensor | None:
        """Move whatever the loss of a mini-batch depends on; return the loss, or None where there is none.

        Where to look at it costs no waiting, a loss that is not finite raises Diverged and moves nothing.
        """
        with arrays.trusted():  # what lies on a device has been checked, or was made here
            loss = method.loss(batch, self.aid)
            if loss is None:
                return None
            if not isinstance(loss, Tensor) or loss.ndim:
                found = f"one of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
                raise TypeError(f"loss of {type(method).__name__} must be a scalar tensor or None, found {found}")
            if self.looks and not math.isfinite(loss.detach()):
                raise Diverged
            if loss.requires_grad:
                self.move(loss, rate)
            self.update_average()
        return loss.detach()

    # --- validation ---------------------------------------------------------------------------------------------------

    @property
    def best(self) -> dict[str, Any]:
        """The record of the model that is kept: of equal scores the earliest."""
        return self.history[-1] if self.config.select == "last" else best_of(self.history)

    def validate(self, record: dict[str, Any]) -> None:
        """Score the model, keep it if it is the best so far, and see whether to stop.

        Without validation examples there is no score.
        """
        record = record | {"planned": self.planned}
        with self.times.stage("validate"):
            embedding = self.embedded_for_comparison()
            if not self.world.same(np.isfinite(embedding).all()):
                raise Diverged
            if self.val_feed is not None:
                figures = self.world.same(score_embedding(embedding, self.val_labels, ks=(1,)))
                record["score"] = (figures["nmi"] + figures["recall@1"]) / 2
                record |= {f"val_{name}": value for name, value in figures.items()}
        diagnostics: dict[str, float] = getattr(self.average.metric, "diagnostics", dict)()
        self.history.append(record | diagnostics | {"seconds": self.times.take()})
        if self.best is self.history[-1]:
            self.best_model = _copy(self.average.state_dict())
        if self.config.select == "validation":
            self.stopped = self.reason_to_stop()

    def reason_to_stop(self) -> str | None:
        """Why the training should not go on after the last validation, by the scores so far."""
        best, last = self.best, self.history[-1]
        if last["score"] < best["score"] - COLLAPSE_DROP:
            return COLLAPSED
        without_better = last["validation"] - max(best["validation"], self.warmups)
        return PATIENCE if without_better >= self.config.patience else None

    @torch.no_grad()
    def embedded_for_comparison(self) -> np.ndarray:
        """Validation examples, or without any the first training examples, as the model that would be kept does."""
        feed = self.val_feed or self.feed
        n = len(feed.examples) if self.val_feed else min(BATCH, len(feed.examples))  # a few tell a model of NaN
        z = self.embedded(self.average, feed, torch.arange(n))
        return self.average.metric(z).cpu().numpy()

    # --- saving -------------------------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What tells the data of this training from others."""
        train, val = self.decoded
        return fingerprint(train, self.data.labels, val, self.val_labels)

    def save(self, run: RunFolder) -> None:
        """Write all that resuming needs, once for all processes."""
        if not self.world.is_main:
            return
        checkpoint = {
            "config": asdict(self.config),
            "settings": asdict(self.method.settings),
            "fingerprint": self.fingerprint,
            "done": self.done,
            "steps": self.steps,
            "history": self.history,
            "propagated": self.propagated,
            "stopped": self.stopped,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "best_model": self.best_model,
            "method": self.method.state_dict(),
            "optimizers": [each and each.state_dict() for each in (self.optimizer, self.head_optimizer)],
            "scaler": self.scaler.state_dict(),
        }
        with self.times.stage("save"):
            run.write_progress(checkpoint)

    def load(self, run: RunFolder) -> None:
        """Go on from what :meth:`save` wrote, on whatever device.

        Raises
        ------
        RunError
            If it is missing, damaged, or of other settings or data.
        """
        checkpoint = run.read_checkpoint()
        try:
            for name, now in (("config", _reached_by(self.config)), ("settings", asdict(self.method.settings))):
                was = {key: value for key, value in checkpoint[name].items() if key not in ELSEWHERE}
                if was != now:
                    differ = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
                    raise ValueError(f"it was trained with other settings: {', '.join(differ)}")
            different = difference(checkpoint["fingerprint"], self.fingerprint)
            if different:
                raise ValueError(f"it was trained on other data: {different} differ")
            if checkpoint["stopped"] not in (None, FINISHED, PATIENCE, COLLAPSED, DIVERGED):
                raise ValueError(f"it stopped for a reason that is none, {checkpoint['stopped']!r:.60}")
            self.model.load_state_dict(checkpoint["best_model"])  # to see that it fits
            self.model.load_state_dict(checkpoint["model"])
            self.average.load_state_dict(checkpoint["average"])
            self.method.load_state_dict(checkpoint["method"])
            for optimizer, state in zip((self.optimizer, self.head_optimizer), checkpoint["optimizers"], strict=True):
                if optimizer is not None:
                    optimizer.load_state_dict(_of_this_device(state, optimizer))
            self.scaler.load_state_dict(checkpoint["scaler"])
            self.done = scalars.as_int(checkpoint["done"], "done", 0, len(self.plan))
            self.steps = scalars.as_int(checkpoint["steps"], "steps", 0)
            self.history = checkpoint["history"]
            self.propagated = checkpoint["propagated"]
            if any(len(labels) != len(self.data) for labels in self.propagated):
                raise ValueError("it has propagated labels of another number of examples")
            self.best_model = checkpoint["best_model"]
            self.stopped = checkpoint["stopped"]
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(f"the checkpoint in {run.path} does not fit: {error}") from None

    def result(self) -> Fitted:
        """The model that is kept, and how it came."""
        self.model.load_state_dict(self.best_model)
        self.model.eval()
        return Fitted(self.model, self.history, self.best, self.stopped or FINISHED)


def even_parts(n_batches: int, parts: int) -> list[int]:
    """Cut a pass's mini-batches into parts that differ by at most one; return how many each has, at least one."""
    parts = max(1, min(parts, n_batches))
    return [n_batches * (i + 1) // parts - n_batches * i // parts for i in range(parts)]


def _legs(method: Method) -> Sequence[Leg]:
    """What a method plans, checked."""
    legs = method.legs()
    if not isinstance(legs, Sequence) or not all(isinstance(leg, Leg) for leg in legs):
        raise TypeError(f"legs of {type(method).__name__} must return a list of Leg, found {legs!r:.60}")
    return legs


def _ways(legs: list[Leg]) -> dict[tuple[int, ...], tuple[float, float]]:
    """By a leg's position, the weight of the legs of its kind that lie before it, and of all of its kind."""
    total: dict[str, float] = {}
    before = {}
    for leg in legs:
        before[leg.position] = total.setdefault(leg.kind, 0.0)
        total[leg.kind] += leg.weight * leg.passes
    if len(before) < len(legs):
        raise ValueError("position must be another for each leg, found one twice")
    return {leg.position: (before[leg.position], total[leg.kind]) for leg in legs}


def _reached_by(config: Config) -> dict[str, Any]:
    """The settings that decide what a training reaches."""
    return {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}


def _of_this_device(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state, wherever it was saved, with the kernels that are used here."""
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    here = [saved | {name: own[name] for name in ("foreach", "fused") if name in own} for saved, own in groups]
    return state | {"param_groups": here}


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
