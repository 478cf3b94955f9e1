"""The figures of a run on held-out data: raw pixels or features, the untrained network, the trained one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..data.dataset import Dataset
from ..data.examples import as_examples
from ..evaluate import FIGURES, report_embedding
from ..models.metric import MetricModel
from .files import error_told

RAW, FEATURES, BEFORE, AFTER = "raw pixels", "raw features", "untrained network", "trained network"
PCA = "PCA of features"
SIDE = 32  # pixels, the longer side of raw images; of larger ones distances take gigabytes, and hardly differ
AT_ONCE = 256  # images


@dataclass(frozen=True)
class HeldOut:
    """Embeddings of the test examples, and their figures, by what embedded them.

    Attributes
    ----------
    embeddings : dict of (N, d) arrays
        None of what could not embed them.
    figures : dict of dict
        None for a figure that is not defined, or could not be computed. Empty where there are no test examples.
    labels : (N,) int64 array
        Classes of the test examples.
    classes : tuple of str
        Name of each class.
    notes : tuple of str
        What is to be known of the figures, a sentence each: what was embedded, and what could not be computed, and why.
    """

    embeddings: dict[str, np.ndarray]
    figures: dict[str, dict[str, float | None]]
    labels: np.ndarray
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, before: MetricModel, after: MetricModel, data: Dataset) -> HeldOut:
        """Compare a trained model on the test examples with these as they are and with the model that it started from.

        Where the examples are features, also with as many of their principal components as the embedding has
        dimensions, learned from the training examples. What fails takes nothing else with it.
        """
        if data.test_images is None or data.test_labels is None:
            return cls({}, {}, np.empty(0, np.int64), data.classes)
        images, notes = data.test_images, list[str]()
        try:
            embedders = _baselines(data, after.dim)
        except Exception as error:  # as of a file that can no longer be read
            notes.append(f"The examples cannot be compared as they are: {error_told(error)}.")
            embedders = {}
        embedders |= {BEFORE: lambda: before.embed(images), AFTER: lambda: after.embed(images)}
        embeddings, figures = {}, {}
        for name, embed in embedders.items():
            figures[name] = dict.fromkeys(FIGURES)
            try:
                embedding = embed()
            except Exception as error:  # of memory, of a file that cannot be read: the other rows stand
                notes.append(f"There are no figures of the {name}: {error_told(error)}.")
                continue
            embeddings[name] = embedding
            if wrong := int((~np.isfinite(embedding)).any(1).sum()):  # a network may overflow on what it has not seen
                notes.append(f"The {name} embeds {wrong} of {len(embedding)} by NaN or infinity.")
                continue
            failed: dict[str, Exception] = {}
            figures[name] = report_embedding(embedding, data.test_labels, failed)
            notes += [
                f"The {figure} of the {name} cannot be computed: {error_told(e)}." for figure, e in failed.items()
            ]
        return cls(embeddings, figures, data.test_labels, data.classes, tuple(notes))


def percent(value: float | None, decimals: int = 2) -> str:
    """Write a figure in percent, or a dash where it is not defined."""
    return "–" if value is None else f"{100 * value:.{decimals}f}"


def _baselines(data: Dataset, dim: int) -> dict[str, Callable[[], np.ndarray]]:
    """What embeds test examples without a network, by name."""
    images = data.test_images
    shape = images.shape[1:] if isinstance(images, np.ndarray) else as_examples(images, "images", cache_gb=0).shape
    if len(shape) != 1:
        size = _reduced(shape)
        name = RAW if size is None else f"{RAW}, {size[0]}x{size[1]}"
        return {name: lambda: _rows(images)}
    baselines: dict[str, Callable[[], np.ndarray]] = {FEATURES: lambda: _rows(images)}
    if dim < shape[0]:
        baselines[PCA] = lambda: _principal(_rows(data.images), _rows(images), dim)
    return baselines


def _rows(images: Any) -> np.ndarray:
    """Examples as float32 rows, images that are larger than SIDE averaged to it."""
    examples = as_examples(images, "images", cache_gb=0)
    size, rows = _reduced(examples.shape), []
    for part in examples.stream(torch.arange(len(examples)).split(AT_ONCE)):
        part = part.float()
        rows.append((part if size is None else F.adaptive_avg_pool2d(part, size)).flatten(1))
    return torch.cat(rows).numpy()


def _reduced(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Height and width that images of a shape are averaged to, None where they are small."""
    if len(shape) != 3 or max(shape[1:]) <= SIDE:
        return None
    height, width = (max(1, round(side * SIDE / max(shape[1:]))) for side in shape[1:])
    return height, width


def _principal(train: np.ndarray, test: np.ndarray, dim: int) -> np.ndarray:
    """Principal components of (N, d) rows, learned from others; at most as many as those tell."""
    from sklearn.decomposition import PCA as Components  # deferred: scikit-learn takes a second to import

    return Components(min(dim, len(train) - 1), random_state=0).fit(train).transform(test)
