"""Puts the sections of a report into one HTML file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from .. import __version__
from ..runs.figures import percent
from ..runs.files import error_told
from ..runs.folder import write_atomically
from ..runs.run import Missing, Run
from .sections import Section, sections

_STOPPED = {
    "finished": "all that was planned is done",
    "patience": "stopped early: no better validation score for a while",
    "collapsed": "the embedding collapsed",
    "diverged": "the embedding diverged",
}


def write_report(paths: Sequence[str | Path], out: str | Path, moved: Mapping[str, str] | None = None) -> None:
    """Write the report of a run as one HTML file, images and style within.

    Parameters
    ----------
    paths : sequence of str or path
        Run folders: that of the run to report on, and those of runs to compare it with. Of the first, anything but
        ``config.json`` may be missing, as when it was interrupted; the report says what is.
    out : str or path
        The file, written atomically.
    moved : mapping, optional
        Where what lies now that the first run was given, if it was moved since; see
        :func:`~ssdml_fast.runs.inputs.stored_inputs`.

    Raises
    ------
    RunError
        If a folder is no run.

    Notes
    -----
    The data are loaded again from where the run had them, for maps, retrieval and propagated labels. Each map (t-SNE
    of at most 2,000 validation examples) takes some seconds.
    """
    from jinja2 import Environment, PackageLoader

    runs = [Run(path) for path in paths]
    if moved:
        runs = [Run(runs[0].folder.path, moved), *(_found_again(run, runs[0], moved) for run in runs[1:])]
    page = Environment(loader=PackageLoader("ssdml_fast.report", ""), autoescape=True, trim_blocks=True)
    text = page.get_template("page.html").render(
        title=runs[0].dataset.get("name", "A run"),
        path=runs[0].folder.path,
        version=__version__,
        cards=_cards(runs[0]),
        sections=[(section, _rendered(section)) for section in sections(runs)],
    )
    write_atomically(Path(out), lambda file: file.write(text.encode()))


def _found_again(run: Run, first: Run, moved: Mapping[str, str]) -> Run:
    """A run with the places of what it was given as another was, if that was moved since."""
    if run.dataset.get("name") != first.dataset.get("name"):
        return run
    return Run(run.folder.path, {name: moved[name] for name in moved if name in ("data", *run.settings)})


def _cards(run: Run) -> list[tuple[str, str, str]]:
    """Name, value and remark of what matters most."""
    try:
        start, last, best = run.history[0], run.history[-1], run.best
    except Missing:
        return []
    try:
        remark = _STOPPED.get(str(run.results.get("stopped")), "not finished")
    except Missing:
        remark = "not finished"
    scores = [("NMI", "val_nmi"), ("R@1", "val_recall@1")]
    return [
        *(
            (f"validation {name}", percent(best[key], 1), f"untrained: {percent(start.get(key), 1)}")
            for name, key in scores
            if best.get(key) is not None
        ),
        ("validations", f"{last['validation']} of {last['planned']}", remark),
        ("kept", f"validation {best['validation']}", "the last" if run.keeps_last else "the best"),
    ]


def _rendered(section: Section) -> list[tuple[str, int, str]]:
    """Caption, width in pixels of the page, and PNG of each figure; what cannot be drawn is said to be missing."""
    made = []
    for caption, figure in section.figures:
        try:
            made.append((caption, round(96 * figure.get_figwidth()), _png(figure)))
        except Exception as error:  # whatever a library finds in names and numbers: the others stand
            section.missing = f"{section.missing} This cannot be drawn: {error_told(error)}.".strip()
    return made


def _png(figure: Figure) -> str:
    """Render a figure as the base64 text of a PNG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return b64encode(buffer.getvalue()).decode()
