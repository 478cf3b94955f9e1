"""The figures of a run on held-out data: raw pixels, the untrained network, the trained one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.table import Table

from ..data.dataset import Dataset
from ..data.load import load
from ..evaluate import RECALL_KS, report_embedding
from ..models.metric import MetricModel, untrained
from ..models.networks import choose, prepared
from ..models.seeded import seeded
from ..report.maps import DRAWN, draw_maps
from ..train.config import Config
from .folder import RunError, RunFolder, write_atomically

RAW, BEFORE, AFTER = "raw pixels", "untrained network", "trained network"


def load_examples(run: RunFolder, config: Config) -> Dataset:
    """Load the data set that `run` names, split by the seed of `config`, as it was decoded."""
    if set(run.dataset) != {"name", "labels_per_class"}:
        raise RunError(f"run folder {run.path} is of an unknown data set, {run.dataset}")
    return load(run.dataset["name"], config.seed, run.dataset["labels_per_class"])


def load_data(run: RunFolder, config: Config) -> Dataset:
    """Load the data set that `run` names, split by the seed of `config`, as its network takes it."""
    return prepared(load_examples(run, config))


def load_model(run: RunFolder, config: Config, data: Dataset) -> MetricModel:
    """Load the best model of a run."""
    model = before_training(config, data)
    try:
        model.load_state_dict(run.read_model())
    except RuntimeError as error:
        raise RunError(f"the model in {run.path} does not fit its config.json: {error}") from None
    return model


def before_training(config: Config, data: Dataset) -> MetricModel:
    """Make the model that a training starts from."""
    network = seeded(choose(data.images.shape[1:]).network, config.seed)
    return untrained(network, data.images, config.metric_dim, config.seed)


@dataclass(frozen=True)
class HeldOut:
    """Embeddings of the test images, and their figures, by what embedded them."""

    embeddings: dict[str, np.ndarray]
    figures: dict[str, dict[str, float]]
    labels: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def of(cls, model: MetricModel, config: Config, data: Dataset) -> HeldOut:
        """Compare `model` on the test images with their pixels and with the untrained network it started from."""
        before = before_training(config, data)
        embeddings = {
            RAW: data.test_images.reshape(len(data.test_images), -1),
            BEFORE: before.embed(data.test_images),
            AFTER: model.embed(data.test_images),
        }
        figures = {name: report_embedding(embedding, data.test_labels) for name, embedding in embeddings.items()}
        return cls(embeddings, figures, data.test_labels, data.classes)

    def table(self) -> Table:
        """Lay the figures out as percentages."""
        return figures_table(f"{len(self.labels)} held-out test images, %", self.figures)

    def draw(self, run: RunFolder) -> None:
        """Draw the test images before and after training into the run folder."""
        titles = {
            name: f"{name}\nNMI {100 * self.figures[name]['nmi']:.1f}   R@1 {100 * self.figures[name]['recall@1']:.1f}"
            for name in (BEFORE, AFTER)
        }
        some = np.random.default_rng(0).permutation(len(self.labels))[:DRAWN]
        some.sort()
        figure = draw_maps(
            {titles[name]: self.embeddings[name][some] for name in titles}, self.labels[some], self.classes
        )
        write_atomically(run.picture, figure.savefig)


def figures_table(title: str, figures: dict[str, dict[str, float]]) -> Table:
    """Lay out the figures of :func:`ssdml_fast.evaluate.report_embedding`, one row per embedding, as percentages."""
    table = Table(title=title, title_justify="left")
    table.add_column("embedding", no_wrap=True)
    for heading in ("NMI", *(f"R@{k}" for k in RECALL_KS), "MAP@R", "silh."):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in figures.items():
        table.add_row(name, *(f"{100 * value:.2f}" for value in row.values()))
    return table
