"""``ssdml-fast evaluate``: the figures of a run's best model, or of embeddings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..data.load import read
from ..data.tables import SUFFIXES
from ..runs.folder import RunFolder
from .console import plain_console
from .places import Data, Labels, Unlabelled, Weights, given
from .settings import errors_told


def evaluate(
    what: Annotated[
        Path,
        typer.Argument(
            help="Run folder that `ssdml-fast train` made; or embeddings and their labels: an .npz file or a folder of "
            ".npy files of x and y, or a table; of a file that has a test part, that is evaluated.",
            metavar="RUN|FEATURES",
        ),
    ],
    data: Data = None,
    unlabelled: Unlabelled = None,
    labels: Labels = None,
    weights: Weights = None,
) -> None:
    """Report NMI, Recall@K, MAP@R and silhouette of a run's best model on its held-out examples, or of embeddings."""
    moved = given(data=data, unlabelled=unlabelled, labels=labels, weights=weights)
    with errors_told():
        if what.suffix.lower() in (".npz", *SUFFIXES) or (os.path.isdir(what) and any(what.glob("*.npy"))):
            for name in moved:
                raise ValueError(f"{name} must be given with a run folder alone, found {what}, which holds embeddings")
            _evaluate_features(what)
            return
        RunFolder(what).read_stored()  # an error here comes before the seconds that imports take
        from ..runs.figures import HeldOut
        from ..runs.run import Run
        from .tables import held_out_table

        run = Run(what, moved)
        before, after = run.untrained(run.choice, run.data), run.trained(run.choice, run.data)
        table = held_out_table(HeldOut.of(before, after, run.data))
    plain_console().print(table)


def _evaluate_features(path: Path) -> None:
    from ..evaluate import report_embedding
    from ..runs.files import error_told
    from .tables import figures_table

    source = read(f"features:{path}")
    x, y = source.images, source.labels
    if source.test_labels is not None:
        x, y = source.test_images, source.test_labels
    known = np.flatnonzero(y >= 0)
    if len(known) < 2:
        raise ValueError(f"{path} must hold at least 2 embeddings with a label to evaluate, found {len(known)}")
    console = plain_console()
    for entry in source.account.left_out:
        console.print(f"left out: {entry.name} ({entry.why})")
    if len(known) < len(y):
        console.print(f"left out: {len(y) - len(known)} of {len(y)} embeddings (no label)")
    failed: dict[str, Exception] = {}
    figures = report_embedding(x[known], y[known], failed)
    notes = [f"The {name} cannot be computed: {error_told(error)}." for name, error in failed.items()]
    console.print(figures_table(f"{len(known)} embeddings, %", {path.name: figures}, notes))
