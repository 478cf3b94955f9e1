"""The figures of a run on held-out data: raw pixels, the untrained network, the trained one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data.dataset import Dataset
from ..evaluate import FIGURES, report_embedding
from ..models.metric import MetricModel

RAW, BEFORE, AFTER = "raw pixels", "untrained network", "trained network"


@dataclass(frozen=True)
class HeldOut:
    """Embeddings of the test images, and their figures, by what embedded them; None: a figure that is not defined."""

    embeddings: dict[str, np.ndarray]
    figures: dict[str, dict[str, float | None]]
    labels: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def of(cls, before: MetricModel, after: MetricModel, data: Dataset) -> HeldOut:
        """Compare a trained model on the test images with their pixels and with the model that it started from."""
        embeddings = {
            RAW: data.test_images.reshape(len(data.test_images), -1),
            BEFORE: before.embed(data.test_images),
            AFTER: after.embed(data.test_images),
        }
        figures = {name: _figures(embedding, data.test_labels) for name, embedding in embeddings.items()}
        return cls(embeddings, figures, data.test_labels, data.classes)


def percent(value: float | None, decimals: int = 2) -> str:
    """Write a figure in percent, or a dash where it is not defined."""
    return "—" if value is None else f"{100 * value:.{decimals}f}"


def _figures(embedding: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """All figures; none is defined where a network overflowed on an image that it was not validated on."""
    return report_embedding(embedding, labels) if np.isfinite(embedding).all() else dict.fromkeys(FIGURES)
