"""What a report reads of a run folder, each part when it is first needed; parts may be missing."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..models.networks import prepared
from .figures import before_training, load_examples, load_model
from .folder import RunError, RunFolder


class Missing(Exception):
    """Something that a run lacks, for a report to say instead of showing it; the message is a sentence."""


class Run:
    """One run folder.

    Parameters
    ----------
    path : str or path
        The folder; its ``config.json`` must be readable, all else may be missing or damaged.

    Raises
    ------
    RunError
        If there is no such run.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder(path)
        self.config = self.folder.read_config()

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decided the training, the data set first."""
        return self.folder.dataset | asdict(self.config)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """Records of the validations, at least one; :class:`Missing` if there is none."""
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
        return _or_missing("The data cannot be loaded", lambda: load_examples(self.folder, self.config))

    @cached_property
    def data(self) -> Dataset:
        """The data as the network takes them."""
        return prepared(self.examples)

    @cached_property
    def embedding(self) -> np.ndarray:
        """Validation examples embedded by the best model."""
        return self.embed(self.data)

    @cached_property
    def embedding_before(self) -> np.ndarray:
        """Validation examples embedded by the untrained model."""
        return before_training(self.config, self.data).embed(self.data.val_images)

    def embed(self, data: Dataset) -> np.ndarray:
        """Embed the validation examples of `data` by the best model."""
        model = _or_missing("The model cannot be loaded", lambda: load_model(self.folder, self.config, data))
        return model.embed(data.val_images)

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
        return self.folder.dataset == other.folder.dataset and self.config.seed == other.config.seed


def _or_missing(what: str, read: Any) -> Any:
    try:
        return read()
    except (ImportError, OSError, RunError, TypeError, ValueError) as error:
        raise Missing(f"{what}: {error}.") from None
