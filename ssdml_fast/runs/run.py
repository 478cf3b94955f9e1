"""A run and what it was trained on, each part loaded when it is first needed; parts may be missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..data.dataset import Dataset, select
from ..data.examples import as_examples
from ..data.settings import from_stored
from ..models.metric import HEADS, MetricModel
from ..models.networks import Choice
from .fingerprint import difference, fingerprint
from .folder import RunError, RunFolder
from .inputs import Inputs, stored_inputs
from .records import best_of

SHOWN = 2000  # training examples at most, where there are no validation examples to look at

T = TypeVar("T")


class Missing(RunError):
    """Something that a run lacks; the message is a sentence, for a report to say in its place."""


@dataclass(frozen=True)
class Shown:
    """Examples that are looked at.

    Attributes
    ----------
    what : str
        Of which part: ``"validation"`` or ``"training"``.
    images, decoded : array or map-style Dataset
        As the network takes them, and as they were decoded.
    labels : (N,) int64 array
        Their classes; -1: not known.
    """

    what: str
    images: Any
    decoded: Any
    labels: np.ndarray


class Run:
    """One run.

    Parameters
    ----------
    path : str or path
        Its folder; ``config.json`` must be readable, all else may be missing or damaged.
    moved : mapping, optional
        Where what lies now that was moved since; see :func:`~ssdml_fast.runs.inputs.stored_inputs`.

    Raises
    ------
    RunError
        If there is no such run. Properties raise :class:`Missing` where the run lacks what they are made of.
    """

    def __init__(self, path: str | Path, moved: Mapping[str, str] | None = None) -> None:
        self.folder = RunFolder(path)
        self.stored = self.folder.read_stored()
        self.moved = dict(moved or {})

    @property
    def dataset(self) -> dict[str, Any]:
        """What it takes to load the data, from where they lie now."""
        if not self.moved:
            return self.folder.dataset
        return from_stored(self.folder.dataset, self.moved).stored(has_unlabelled=False)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decided the training, the data set first."""
        return (
            self.dataset
            | self.folder.network
            | {"method": self.stored.method}
            | self.stored.settings
            | self.stored.training
        )

    def setting(self, name: str) -> Any:
        """Return one setting of the method or the training."""
        for settings in (self.stored.settings, self.stored.training):
            if name in settings:
                return settings[name]
        raise Missing(f"The run's config.json has no setting {name}.")

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """Records of the validations, at least one."""
        records = _or_missing("The metrics cannot be read", self.folder.read_history)
        if not records:
            raise Missing("There is no validation yet.")
        return records

    @property
    def best(self) -> dict[str, Any]:
        """The record of the model that was kept."""
        return self.history[-1] if self.keeps_last else best_of(self.history)

    @property
    def keeps_last(self) -> bool:
        """Whether the last model was kept, rather than the best by validation."""
        return self.stored.training.get("select") == "last"

    @cached_property
    def results(self) -> dict[str, Any]:
        """Why the training ended, and its figures on held-out examples."""
        what = "Figures on test examples are measured once, when a training ends"
        return _or_missing(what, self.folder.read_results)

    @cached_property
    def inputs(self) -> Inputs:
        """The data as they were decoded, and the network that goes with them."""
        seed = self.setting("seed")

        what = "The data cannot be loaded"
        inputs = _or_missing(what, lambda: stored_inputs(self.folder, seed, self.moved))
        different = _or_missing("The data cannot be compared", lambda: self._difference(inputs.examples))
        if different:
            raise Missing(f"The data are not those that the run was trained on: {different}.")
        return inputs

    @property
    def examples(self) -> Dataset:
        """The data as they were decoded."""
        return self.inputs.examples

    @property
    def choice(self) -> Choice:
        """The network that goes with the data."""
        return self.inputs.choice

    @cached_property
    def data(self) -> Dataset:
        """The data as the network takes them."""
        return _or_missing("The data cannot be prepared", lambda: self.choice.prepared(self.examples))

    def untrained(self, choice: Choice, data: Dataset) -> MetricModel:
        """Make the model that the run started from, for data and the network that goes with them."""
        dim, seed = self.setting("metric_dim"), self.setting("seed")
        if self.stored.head not in HEADS:
            raise Missing(f"The run has a metric that is not known here, {self.stored.head!r:.60}.")
        head = HEADS[self.stored.head]
        return _or_missing("The model cannot be made", lambda: choice.untrained(data.images, dim, seed, head))

    def trained(self, choice: Choice, data: Dataset) -> MetricModel:
        """Load the best model of the run, for data and the network that goes with them."""
        model = self.untrained(choice, data)
        weights = _or_missing("The model cannot be loaded", self.folder.read_model)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            why = " ".join(" ".join(str(error).splitlines()[:2]).split())  # the first tensor; there may be hundreds
            raise Missing(f"The model in {self.folder.path} does not fit its config.json: {why}") from None
        return model

    @cached_property
    def embedding(self) -> np.ndarray:
        """What is shown, embedded by the best model."""
        return self.embed(self)

    @cached_property
    def embedding_before(self) -> np.ndarray:
        """What is shown, embedded by the untrained model."""
        return self.untrained(self.choice, self.data).embed(self.shown.images)

    @cached_property
    def shown(self) -> Shown:
        """Validation examples; where there are none, some training examples drawn at random."""
        data, decoded = self.data, self.examples
        if data.val_images is not None and data.val_labels is not None:
            return Shown("validation", data.val_images, decoded.val_images, data.val_labels)
        rows = np.sort(np.random.default_rng(0).permutation(len(data.labels))[:SHOWN])
        return Shown("training", select(data.images, rows), select(decoded.images, rows), data.truth[rows])

    def embed(self, other: Run) -> np.ndarray:
        """Embed what is shown of a run on the same data by the best model of this one.

        They are read once for both runs, unless these have other networks: then as this run's takes them.
        """
        seen = other if other.folder.network == self.folder.network else self
        embedding = self.trained(seen.choice, seen.data).embed(seen.shown.images)
        if not np.isfinite(embedding).all():
            raise Missing(f"The model in {self.folder.path} embeds {seen.shown.what} examples by NaN or infinity.")
        return embedding

    @cached_property
    def propagated(self) -> np.ndarray:
        """(rounds, N) int64 labels that the unlabelled examples got; -1: none."""
        what = "Propagated labels are kept from the end of the first partition on"
        propagated = _or_missing(what, self.folder.read_propagated)
        if propagated.shape[1] != len(self.data.truth):
            raise Missing("The data are not those that the run was trained on: their number differs.")
        if propagated.size and propagated.max() >= len(self.data.classes):
            raise Missing("The data are not those that the run was trained on: they have fewer classes.")
        return propagated

    def _difference(self, data: Dataset) -> str | None:
        """Say how data differ from those of the training, as far as that can be told."""
        was = self.folder.read_fingerprint()
        if was:
            decoded = data.decoded or data
            images = as_examples(decoded.images, "images", cache_gb=0)
            val = None if decoded.val_images is None else as_examples(decoded.val_images, "images", cache_gb=0)
            now = fingerprint(images, data.labels, val, data.val_labels)
            what = difference(was, {part: now[part] for part in now.keys() & was.keys()})
            if what:
                return f"{what} differ"
        if self.moved:
            with suppress(RunError):
                if self.folder.read_propagated().shape[1] != len(data.labels):
                    return "their number differs"
        return None

    def shares_data(self, other: Run) -> bool:
        """Whether the runs saw the same examples, split alike."""
        return self.dataset == other.dataset and self.setting("seed") == other.setting("seed")


def _or_missing(what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except (ImportError, OSError, RunError, TypeError, ValueError) as error:
        raise Missing(f"{what}: {error}.") from None
