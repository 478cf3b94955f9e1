"""Goes through the legs of a method: seeds, steps, running mean, validation, stopping, saving and resuming."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
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
from ..runs.files import is_number
from ..runs.fingerprint import difference, fingerprint
from ..runs.folder import WITHOUT_WITHIN, RunError, RunFolder
from ..runs.records import best_of
from .aid import Aid
from .config import ELSEWHERE, Config
from .feed import Feed
from .interrupt import Held
from .learner import Learner
from .method import Batch, Diverged, Leg, Method, TrainingSet, Work
from .place import Place
from .records import COLLAPSED, DIVERGED, FINISHED, PATIENCE
from .seeds import OF_BATCHES, OF_BEGINNING, generator_at, seed_torch
from .timing import StageTimes

SAVED_EVERY = 50.0  # seconds within a leg, so that at most a minute's work is lost
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
        self.feed = Feed(examples, device, model.prepare, self.world)
        self.val_feed = None if val_examples is None else Feed(val_examples, device, model.prepare, self.world)
        self.val_labels = val_labels
        self.decoded = decoded or (examples, val_examples)
        self.plan = [(stage, leg) for stage in method.stages() for leg in _legs(stage)]
        self.ways = _ways([leg for _, leg in self.plan])
        self.planned = sum(leg.passes * self._validations(leg) for _, leg in self.plan)
        self.warmups = sum(leg.passes * self._validations(leg) for _, leg in self.plan if leg.round == 0)
        self.place = Place()
        self.history: list[dict[str, Any]] = []
        self.propagated: list[Tensor] = []  # by round, of every training example
        self.times = StageTimes()
        self.best_model: dict[str, Tensor] = {}
        self.stopped: str | None = None
        self.held = Held(follows=not self.world.is_main)
        self.run: RunFolder | None = None
        self.checkpoint = ""  # tells the one that was written last from others
        self.saved = 0.0  # when that was, or what was written within its leg
        self.within: dict[str, Any] | None = None  # read, and to be gone on from once its leg is prepared
        self.aid = Aid(self)

    # --- the way ------------------------------------------------------------------------------------------------------

    def to_the_end(self, run: RunFolder | None, on_validation: Told, on_batch: Told) -> None:
        """Go through one leg after another, saving in between, until there is a reason to stop.

        With a run folder, signals that end the program wait for the end of a step, and what they stop is saved.
        """
        self.run = run
        with self.held.signals() if run else nullcontext():
            if self.within is None:
                self.save()
            while self.stopped is None and self.place.leg < len(self.plan):
                try:
                    self.one_leg(*self.plan[self.place.leg], on_validation, on_batch)
                except (Diverged, RangeError):
                    self.stopped = DIVERGED
                with self.held:
                    self.place = Place(self.place.leg + 1)
                    self.save()

    def one_leg(self, method: Method, leg: Leg, on_validation: Told, on_batch: Told) -> None:
        """Prepare a leg, and train on what it gives, from where it was saved within."""
        work = self.prepared(method, leg)
        if self.within is None:
            self.place = Place(self.place.leg, record=_numbers(work.record))
        else:
            self.go_on_within(work)
        try:
            while self.place.through < leg.passes and self.stopped is None:
                self.one_pass(method, leg, work, on_validation, on_batch)
        except (KeyboardInterrupt, SystemExit):
            if not self.held.broken:
                self.save_within()
            raise

    def prepared(self, method: Method, leg: Leg) -> Work:
        """What a leg trains on."""
        self.agree()
        self.aid.rng = self.seeded(leg)
        work = method.prepare(leg, self.aid)
        if not isinstance(work, Work):
            raise TypeError(f"prepare of {type(method).__name__} must return a Work, found {type(work).__name__}")
        if work.propagated is not None and leg.round:
            self.keep_propagated(leg.round, *work.propagated)
        return work

    def one_pass(self, method: Method, leg: Leg, work: Work, on_validation: Told, on_batch: Told) -> None:
        """Go through the mini-batches of a pass that are yet to come, in parts with a validation after each."""
        place = self.place
        if not place.begun:
            with self.held:
                self.aid.rng = self.seeded(leg, place.through, OF_BEGINNING)
                self.aid.through = self.way(leg, place.through)
                method.begin_pass(work, self.aid)
                place.record, place.begun = _numbers(work.record), True
        epoch = sum(earlier.passes for _, earlier in self.plan[: place.leg] if earlier.round > 0)
        record = place.record | {"round": leg.round, "partition": leg.partition}
        record["epoch"] = epoch + place.through + 1 if leg.round else 0
        losses, end = self.losses(method, leg, work), 0
        for n_batches in even_parts(work.n_batches, self._validations(leg)):
            first, end = end, end + n_batches
            if end >= place.batch:
                self.one_part(losses, first, end, record, on_validation, on_batch)
            if self.stopped:
                return
        if not place.validated:
            raise ValueError(f"nothing can be learnt from {leg}: no mini-batch has a loss")
        self.place = Place(place.leg, place.through + 1, record=place.record)

    def one_part(
        self, losses: Iterator[Tensor | None], first: int, end: int, record: dict[str, Any], on_validation: Told,
        on_batch: Told,
    ) -> None:  # fmt: skip
        """Take the steps up to the `end`-th, whose `losses` these are, validate, and tell; not if there is no loss."""
        place = self.place
        if place.batch == first:
            self.examples = 0
        with self.times.stage("train"):
            for loss in islice(losses, end - place.batch):
                if self.run and self.world.is_main and time.monotonic() - self.saved >= SAVED_EVERY:
                    self.save_within()
                done = place.batch - first
                if on_batch and loss is not None and (self.looks or done % TOLD_ON_DEVICE == 0 or place.batch == end):
                    told = {"validation": len(self.history), "planned": self.planned, "done": done}
                    on_batch(told | {"batches": end - first, "examples": self.examples, "loss": loss.item()})
            if not place.losses:
                return
            mean = math.fsum(place.read_losses()) / len(place.losses)
        if not self.world.same(math.isfinite(mean)):
            raise Diverged
        self.validate(record | {"validation": len(self.history), "loss": mean, "examples": self.examples})
        if on_validation:
            on_validation(self.history[-1])

    def losses(self, method: Method, leg: Leg, work: Work) -> Iterator[Tensor | None]:
        """Take a step for each mini-batch of a pass to come, and yield its loss; None: there was nothing to learn."""
        place = self.place
        self.aid.rng = generator_at(self.config.seed, leg, place.through, OF_BATCHES)
        seed = int(self.aid.rng.integers(2**63))
        # Those that are done are drawn again; none beyond the pass are, whoever reads how far ahead.
        batches = islice(work.batches(self.aid.rng), place.batch, work.n_batches)
        for batch in self.feed.ahead(batches):
            i = place.batch
            with self.held:
                seed_torch((seed + i) % 2**63, self.network_device)
                self.aid.through = self.way(leg, place.through, i, work.n_batches)
                loss = self.step(method, batch, self.rate(leg, place.through, i, work.n_batches))
                place.batch += 1
                if loss is not None:
                    # Losses of the host are kept as floats: a small tensor each would lie in the way of the
                    # mini-batches, whose memory glibc then takes anew from the system at every step.
                    place.losses.append(loss.item() if self.looks else loss)
            yield loss

    def seeded(self, leg: Leg, *place: int) -> np.random.Generator:
        """Seed by the place in the training, so that resuming needs no saved state; torch's generators too."""
        rng = generator_at(self.config.seed, leg, *place)
        seed_torch(int(rng.integers(2**63)), self.network_device)  # for augmentation, and networks that draw: dropout
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
        self.forwards = 0
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
                figures = self.world.once(lambda: score_embedding(embedding, self.val_labels, ks=(1,)))
                record["score"] = (figures["nmi"] + figures["recall@1"]) / 2
                record |= {f"val_{name}": value for name, value in figures.items()}
        diagnostics: dict[str, float] = getattr(self.average.metric, "diagnostics", dict)()
        with self.held:
            self.history.append(self.world.same(record | diagnostics | {"seconds": self.times.take()}))
            if self.best is self.history[-1]:
                self.best_model = _copy(self.average.state_dict())
            if self.config.select == "validation":
                self.stopped = self.reason_to_stop()
            self.place.validated, self.place.losses, self.examples = True, [], 0

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

    def save(self) -> None:
        """Write all that resuming needs between legs, once for all processes."""
        if self.run is not None:
            self.world.once(self._save)

    def _save(self) -> None:
        assert self.run is not None
        self.checkpoint = secrets.token_hex(16)
        checkpoint = {
            "id": self.checkpoint,
            "config": asdict(self.config),
            "settings": asdict(self.method.settings),
            "fingerprint": self.fingerprint,
            "done": self.place.leg,
        }
        with self.times.stage("save"):
            self.run.write_progress(checkpoint | self.state())
        self.saved = time.monotonic()

    def save_within(self) -> None:
        """Write what resuming needs within a leg beside the checkpoint of its beginning, once for all processes."""
        if self.run is None or not self.world.is_main:
            return
        self.place.read_losses()
        place = {"place": vars(self.place), "examples": self.examples, "seconds": self.times.seconds}
        with self.held, self.times.stage("save"):
            self.run.write_within({"checkpoint": self.checkpoint} | place | self.state())
        self.saved = time.monotonic()

    def state(self) -> dict[str, Any]:
        """What moves on, wherever in a training."""
        return {
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

    def load(self, run: RunFolder) -> None:
        """Go on from what was saved last, on whatever device.

        Raises
        ------
        RunError
            If it is missing, damaged, or of other settings or data.
        """
        checkpoint, within = self.world.once(lambda: _read(run))
        self.checkpoint = checkpoint.get("id", "")
        with _fitting(f"the checkpoint in {run.path} does not fit"):
            for name, now in (("config", _reached_by(self.config)), ("settings", asdict(self.method.settings))):
                was = {key: value for key, value in checkpoint[name].items() if key not in ELSEWHERE}
                if was != now:
                    differ = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
                    raise ValueError(f"it was trained with other settings: {', '.join(differ)}")
            different = difference(checkpoint["fingerprint"], self.fingerprint)
            if different:
                raise ValueError(f"it was trained on other data: {different} differ")
            self.place = Place(scalars.as_int(checkpoint["done"], "done", 0, len(self.plan)))
        if within is not None:
            with _fitting(f"{run.within} does not fit", WITHOUT_WITHIN):
                self.place_of(within)
                self.go_on_from(within)  # to see that it fits
        with _fitting(f"the checkpoint in {run.path} does not fit"):
            self.go_on_from(checkpoint)
        self.within, self.saved = within, time.monotonic()

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        if state["stopped"] not in (None, FINISHED, PATIENCE, COLLAPSED, DIVERGED):
            raise ValueError(f"it stopped for a reason that is none, {state['stopped']!r:.60}")
        self.model.load_state_dict(state["best_model"])  # to see that it fits
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.method.load_state_dict(state["method"])
        for optimizer, each in zip((self.optimizer, self.head_optimizer), state["optimizers"], strict=True):
            if optimizer is not None:
                optimizer.load_state_dict(_of_this_device(each, optimizer))
        self.scaler.load_state_dict(state["scaler"])
        self.steps = scalars.as_int(state["steps"], "steps", 0)
        self.history = state["history"]
        self.propagated = state["propagated"]
        if any(len(labels) != len(self.data) for labels in self.propagated):
            raise ValueError("it has propagated labels of another number of examples")
        self.best_model = state["best_model"]
        self.stopped = state["stopped"]

    def place_of(self, within: dict[str, Any]) -> Place:
        """The place within a leg where what :meth:`save_within` wrote goes on."""
        place = Place(**within["place"])
        _, leg = self.plan[self.place.leg]
        scalars.as_int(place.leg, "leg", self.place.leg, self.place.leg)
        scalars.as_int(place.through, "through", 0, leg.passes)
        scalars.as_int(place.batch, "batch", 0)
        scalars.as_int(within["examples"], "examples", 0)
        if not all(map(is_number, (*place.losses, *within["seconds"].values()))):
            raise ValueError("it has losses or seconds that are no numbers")
        if not isinstance(place.record, dict):
            raise ValueError(f"it has a record that is none, {place.record!r:.60}")
        return place

    def go_on_within(self, work: Work) -> None:
        """Go on in the middle of a leg that has been prepared."""
        assert self.within is not None
        self.go_on_from(self.within)
        self.place, self.examples = self.place_of(self.within), self.within["examples"]
        self.place.batch = min(self.place.batch, work.n_batches)
        work.record = dict(self.place.record)
        self.times.add(self.within["seconds"])
        self.within = None

    def result(self) -> Fitted:
        """The model that is kept, and how it came."""
        self.model.load_state_dict(self.best_model)
        self.world.same_(list(self.model.state_dict().values()))
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


def _numbers(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose numbers, of whatever library, are Python's."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in record.items()}


@contextmanager
def _fitting(what: str, hint: str = "") -> Iterator[None]:
    """Tell of a file whose content is not what this training takes."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{what}: {error}{hint}") from None


def _read(run: RunFolder) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The checkpoint of a run, and what was written within its leg."""
    checkpoint = run.read_checkpoint()
    return checkpoint, run.read_within(checkpoint.get("id", ""))


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
