"""A run and what it was trained on, each part loaded when it is first needed; parts may be missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..data.dataset import Dataset
from ..data.load import load
from ..models.metric import MetricModel
from ..models.networks import Choice, choose
from .folder import RunError, RunFolder

T = TypeVar("T")


class Missing(RunError):
    """Something that a run lacks; the message is a sentence, for a report to say in its place."""


def load_examples(folder: RunFolder, seed: int) -> Dataset:
    """Load the data set that a run folder names, split by a seed, as it was decoded.

    Raises
    ------
    RunError
        If the folder names none.
    DataError, ImportError, TypeError, ValueError
        As :func:`ssdml_fast.data.load`.
    """
    if set(folder.dataset) != {"name", "labels_per_class"}:
        raise RunError(f"run folder {folder.path} is of an unknown data set, {folder.dataset}")
    return load(folder.dataset["name"], seed, folder.dataset["labels_per_class"])


class Run:
    """One run.

    Parameters
    ----------
    path : str or path
        Its folder; ``config.json`` must be readable, all else may be missing or damaged.

    Raises
    ------
    RunError
        If there is no such run. Properties raise :class:`Missing` where the run lacks what they are made of.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder(path)
        self.training = self.folder.read_settings()

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decided the training, the data set first."""
        return self.folder.dataset | self.training

    def setting(self, name: str) -> Any:
        """Return one setting of the training."""
        if name not in self.training:
            raise Missing(f"The run's config.json has no setting {name}.")
        return self.training[name]

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
        return max(self.history, key=lambda record: record["score"])

    @cached_property
    def results(self) -> dict[str, Any]:
        """Why the training ended, and its figures on held-out examples."""
        what = "Figures on test examples are measured once, when a training ends"
        return _or_missing(what, self.folder.read_results)

    @cached_property
    def examples(self) -> Dataset:
        """The data as they were decoded."""
        seed = self.setting("seed")
        return _or_missing("The data cannot be loaded", lambda: load_examples(self.folder, seed))

    @cached_property
    def choice(self) -> Choice:
        """The network that goes with the data."""
        shape = self.examples.images.shape[1:]
        return _or_missing("The data cannot be looked at", lambda: choose(shape))

    @cached_property
    def data(self) -> Dataset:
        """The data as the network takes them."""
        return self.choice.prepared(self.examples)

    def untrained(self, choice: Choice, data: Dataset) -> MetricModel:
        """Make the model that the run started from, for data and the network that goes with them."""
        dim, seed = self.setting("metric_dim"), self.setting("seed")
        return _or_missing("The model cannot be made", lambda: choice.untrained(data.images, dim, seed))

    def trained(self, choice: Choice, data: Dataset) -> MetricModel:
        """Load the best model of the run, for data and the network that goes with them."""
        model = self.untrained(choice, data)
        weights = _or_missing("The model cannot be loaded", self.folder.read_model)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise Missing(f"The model in {self.folder.path} does not fit its config.json: {error}") from None
        return model

    @cached_property
    def embedding(self) -> np.ndarray:
        """Validation examples embedded by the best model."""
        return self.embed(self)

    @cached_property
    def embedding_before(self) -> np.ndarray:
        """Validation examples embedded by the untrained model."""
        return self.untrained(self.choice, self.data).embed(self.data.val_images)

    def embed(self, other: Run) -> np.ndarray:
        """Embed the validation examples of a run on the same data by the best model of this one."""
        return self.trained(other.choice, other.data).embed(other.data.val_images)

    @cached_property
    def propagated(self) -> np.ndarray:
        """(rounds, N) labels that the unlabelled examples got; -1: none."""
        what = "Propagated labels are kept from the end of the first partition on"
        propagated = _or_missing(what, self.folder.read_propagated)
        if propagated.ndim != 2 or propagated.shape[1] != len(self.data.truth):
            raise Missing("The data are not those that the run was trained on: their number differs.")
        return propagated

    def shares_data(self, other: Run) -> bool:
        """Whether the runs saw the same examples, split alike."""
        return self.folder.dataset == other.folder.dataset and self.setting("seed") == other.setting("seed")


def _or_missing(what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except (ImportError, OSError, RunError, TypeError, ValueError) as error:
        raise Missing(f"{what}: {error}.") from None
