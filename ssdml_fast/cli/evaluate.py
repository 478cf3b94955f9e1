"""``ssdml-fast evaluate``: the figures of a run's best model, or of embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..data.load import read
from ..runs.folder import RunFolder
from .settings import errors_told


def evaluate(
    what: Annotated[
        Path,
        typer.Argument(
            help="Run folder that `ssdml-fast train` made; or embeddings: an .npz file, or a folder of .npy files, of "
            "x and y, or of x_test and y_test, of which the test part is evaluated.",
            metavar="RUN|FEATURES",
        ),
    ],
) -> None:
    """Report NMI, Recall@K, MAP@R and silhouette of a run's best model on its held-out examples, or of embeddings."""
    with errors_told():
        if what.suffix == ".npz" or any(what.glob("*.npy")):
            _evaluate_features(what)
            return
        folder = RunFolder(what)
        config = folder.read_config()
        from ..runs.figures import HeldOut, load_data, load_model

        data = load_data(folder, config)
        model = load_model(folder, config, data)
    Console().print(HeldOut.of(model, config, data).table())


def _evaluate_features(path: Path) -> None:
    from ..evaluate import RECALL_KS, report_embedding
    from ..runs.figures import figures_table

    source = read(f"features:{path}")
    x, y = (source.images, source.labels) if source.test_images is None else (source.test_images, source.test_labels)
    if len(x) <= max(RECALL_KS):
        raise ValueError(f"{path} must hold at least {max(RECALL_KS) + 1} embeddings to evaluate, found {len(x)}")
    Console().print(figures_table(f"{len(x)} embeddings, %", {path.name: report_embedding(x, y)}))
