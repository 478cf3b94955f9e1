"""``ssdml-fast report``: one HTML file about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runs.folder import RunFolder
from .console import plain_console
from .places import Data, Labels, Unlabelled, Weights, given
from .settings import errors_told


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folder that `ssdml-fast train` made, interrupted ones too; and folders of runs to compare it "
            "with: of other values of alpha, or of another method on the same data.",
            metavar="RUN [OTHER]...",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write.", show_default="RUN/report.html", dir_okay=False)
    ] = None,
    data: Data = None,
    unlabelled: Unlabelled = None,
    labels: Labels = None,
    weights: Weights = None,
) -> None:
    """Write one HTML file about a run: convergence, maps, retrieval, propagated labels, sensitivity to alpha, times."""
    with errors_told():
        for path in runs:
            RunFolder(path).read_stored()  # an error here comes before the seconds that imports take
        from ..report.page import write_report

        out = out or RunFolder(runs[0]).report
        write_report(runs, out, given(data=data, unlabelled=unlabelled, labels=labels, weights=weights))
    plain_console().print(f"report: {out}", soft_wrap=True)
