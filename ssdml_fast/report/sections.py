"""The sections of a report: what each shows of the runs, and what it says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .. import knn_graph
from ..evaluate import FIGURES, RECALL_KS
from ..runs.figures import AFTER, PCA, percent
from ..runs.files import error_told, is_number
from ..runs.run import Missing, Run
from .charts import MEASURED, draw_confusion, draw_convergence, draw_sensitivity, draw_times
from .maps import DRAWN, LEAST, draw_maps
from .names import names, written
from .retrieval import as_pictures, draw_retrieval

PREPARING = ("graph", "propagate", "mine")
COMPARED = 4  # runs at most beside the first in maps, each of which takes seconds
LOOKED_UP = 10  # queries in a retrieval grid
FOUND = 6  # neighbours of each
CONFUSABLE = 100  # classes at most in a confusion matrix; more are unreadable


@dataclass
class Section:
    """One part of a report.

    Attributes
    ----------
    title, text : str
        Heading, and what is to be seen.
    figures : list of (str, matplotlib.figure.Figure)
        Captions and what is drawn above them.
    header, rows : list of str, list of list of str
        A table below the figures; without rows there is none.
    missing : str
        Why there is less to see than there could be.
    folded : bool
        Whether the table is shown only when asked for.
    """

    title: str
    text: str = ""
    figures: list[tuple[str, Figure]] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    missing: str = ""
    folded: bool = False


def sections(runs: list[Run]) -> list[Section]:
    """Make every section of the report on ``runs[0]``, compared with the other runs; what is missing is said in it."""
    made = []
    for title, make in _SECTIONS.items():
        section = Section(title)
        try:
            make(section, runs)
        except Missing as missing:
            section.missing = str(missing)
        except Exception as error:  # whatever a library finds in the numbers, or lacks for them: the others stand
            section.missing = f"This cannot be shown: {error_told(error)}."
        made.append(section)
    return made


def _test_figures(section: Section, runs: list[Run]) -> None:
    run, *others = runs
    section.text = (
        "In percent, on examples that neither the training nor the choice of the model has seen. NMI: of k-means "
        "clusters with the classes; R@K: share of examples with one of their class among their K nearest. "
        "A dash: not defined for so few examples or classes."
    )
    section.header = ["embedding", "NMI", *(f"R@{k}" for k in RECALL_KS), "MAP@R", "silhouette"]  # as in FIGURES
    tested = dict(run.results["test"])
    if not tested:
        raise Missing("The run was not tested: the data have no test part.")
    if PCA in tested:
        section.text += f" {PCA}: principal components, as many as the embedding has dimensions."
    for name, other in zip(names(runs)[1:], others, strict=True):
        try:
            tested[f"{AFTER}: {name}"] = other.results["test"][AFTER]
        except (KeyError, Missing):
            section.missing = "Runs that have not ended, or were not tested, are left out."
    section.missing = " ".join([*run.results["notes"], *[section.missing] * bool(section.missing)])
    section.rows = [[name, *(percent(row.get(figure)) for figure in FIGURES)] for name, row in tested.items()]


def _convergence(section: Section, runs: list[Run]) -> None:
    run, best = runs[0], runs[0].best
    histories, kept = {}, {}
    for name, each in zip(names(runs), runs, strict=True):
        try:
            histories[name], kept[name] = each.history, each.best
        except Missing:
            if each is run:
                raise
            section.missing = "Runs without a validation are left out."
    if best.get("score") is None:
        section.missing = "The run has no validation examples, and so no scores."
    if not any(record.get(key) is not None for record in run.history for key in MEASURED):
        raise Missing("Nothing was measured yet.")
    why = "the last" if run.keeps_last or best.get("score") is None else "the best mean of NMI and R@1"
    shaded = "; every other round over the unlabelled examples is shaded" if any(map(_round, run.history)) else ""
    section.text = (
        f"A star marks the model that is kept: of validation {best['validation']}, {why}. "
        f"Validation 0 is of the untrained network{shaded}."
    )
    section.figures.append(("Loss and scores by validation", draw_convergence(histories, kept)))


def _sensitivity(section: Section, runs: list[Run]) -> None:
    run = runs[0]
    series = [each for each in runs if _without(each, "alpha", "seed") == _without(run, "alpha", "seed")]
    if not is_number(run.settings.get("alpha")):
        raise Missing("The method of the run has no α.")
    points = [
        (each.setting("alpha"), each.best["val_nmi"], each.best["val_recall@1"])
        for each in series
        if is_number(each.setting("alpha"))
        and all(each.best.get(key) is not None for key in ("val_nmi", "val_recall@1"))
    ]
    if len({alpha for alpha, *_ in points}) < 2:
        raise Missing(
            "α shapes the loss, so each value needs a training of its own. Give the folders of runs that differ in "
            "alpha (and in the seed, if you like) after this one: ssdml-fast report RUN OTHER OTHER …"
        )
    section.text = (
        f"{len(points)} runs that differ in α (and seed) alone, each by the model it kept; the line joins means. "
        f"Dotted: this run, α = {run.setting('alpha'):g}°."
    )
    section.figures.append(("Validation scores by α", draw_sensitivity(points, run.setting("alpha"))))


def _maps(section: Section, runs: list[Run]) -> None:
    run, others = runs[0], runs[1:]
    what, labels = run.shown.what, run.shown.labels
    if len(labels) < LEAST:
        raise Missing(f"A map needs at least {LEAST} {what} examples; there are {len(labels)}.")
    start, best = run.history[0], run.best
    # A run that differs in alpha alone is no other method, but a point of the sensitivity to alpha.
    others = [each for each in others if _without(each, "alpha", "seed") != _without(run, "alpha", "seed")]
    own, *their = names([run, *others]) if others else ["trained"]
    panels = {_scored("untrained", start): run.embedding_before, _scored(own, best): run.embedding}
    for name, other in zip(their, others, strict=True):
        if len(panels) == 2 + COMPARED or not other.shares_data(run):
            section.missing = f"Besides this run, up to {COMPARED} are drawn that were given the same data and seed."
            continue
        try:
            panels[_scored(name, other.best)] = other.embed(run)
        except Missing as missing:
            section.missing = f"{name}: {missing}"
    some = np.sort(np.random.default_rng(0).permutation(len(labels))[:DRAWN])
    section.text = (
        f"t-SNE of {len(some):,} {what} examples, coloured by their true class"
        + (f"; scores, in percent, are of all {len(labels):,}. " if what == "validation" else " where it is known. ")
        + "Distances between clusters mean little in such maps."
    )
    if not others and run.settings.get("metric_update") not in (None, "unconstrained"):
        section.text += (
            " To see beside it what orthogonality is worth, train with --metric-update unconstrained too, and give "
            "that run's folder after this one."
        )
    drawn = {title: embedding[some] for title, embedding in panels.items()}
    section.figures.append((f"Maps of the {what} examples", draw_maps(drawn, labels[some], run.data.classes)))


def _retrieval(section: Section, runs: list[Run]) -> None:
    run = runs[0]
    what, labels, classes = run.shown.what, run.shown.labels, run.data.classes
    if len(labels) < 2:
        raise Missing(f"There is nothing to look up among {what} examples, of which there are {len(labels)}.")
    k = min(FOUND, len(labels) - 1)
    found = {
        name: knn_graph(embedding, k).indices
        for name, embedding in {"untrained": run.embedding_before, "trained": run.embedding}.items()
    }
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    known = order[labels[order] >= 0]
    _, first = np.unique(labels[known], return_index=True)  # one random example of each class
    spread = np.sort(rng.permutation(known[first])[:LOOKED_UP])
    spread = spread[np.argsort(labels[spread], kind="stable")]
    nearest = labels[found["trained"][known, 0]]
    wrong = known[(nearest != labels[known]) & (nearest >= 0)]
    section.text = (
        f"{what.capitalize()} examples and the nearest others to them, nearest first, before and after training. "
        "Framed green: of the query's class; orange with a cross: of another."
        + " Without a frame: of an unknown one."
        * (len(known) < len(labels))
    )
    grids = {
        f"One example drawn at random from each class, of at most {LOOKED_UP} classes": spread,
        f"Drawn at random from the {len(wrong):,} examples of {len(known):,} whose nearest neighbour after training "
        "is wrong": wrong[:LOOKED_UP],
        "Drawn at random": np.sort(order[:LOOKED_UP]) if not len(known) else order[:0],
    }
    for caption, queries in grids.items():
        if len(queries):
            rows = {name: indices[queries] for name, indices in found.items()}
            pictures = as_pictures(run.shown.decoded, np.concatenate([queries, *map(np.ravel, rows.values())]))
            section.figures.append((caption, draw_retrieval(pictures, labels, queries, rows, classes)))


def _propagated(section: Section, runs: list[Run]) -> None:
    run = runs[0]
    truth, classes = run.data.truth, run.data.classes
    if not (run.data.labels < 0).any():
        raise Missing("Every training example is labelled: nothing was propagated.")
    if not len(run.propagated) or (run.propagated < 0).all():
        raise Missing("No unlabelled example got a label.")
    is_known, n_unlabelled = truth >= 0, int((run.data.labels < 0).sum())
    section.text = (
        "What labels the unlabelled examples of each round got along the graph. Some get none: no labelled example is "
        "connected to them, or they are in no partition of the round yet."
    )
    section.header = ["round", "got a label", "got none"]
    if is_known[run.data.labels < 0].any():
        section.text += " True labels are used here alone; training never sees them."
        section.header[2:2] = ["right", "most frequent mistake (share of the true class)"]
        if not is_known.all():
            section.text += f" Those of {int((~is_known).sum()):,} examples are not known, and not counted as right."
    else:
        section.missing = "How many are right nobody can tell: no true label of an unlabelled example is known."
    present = np.unique(np.concatenate([truth[is_known], run.propagated[run.propagated >= 0]]))
    panels = {}
    rounds = np.flatnonzero((run.propagated >= 0).any(1)) + 1  # a method may propagate in some alone
    for number in rounds:
        labels = run.propagated[number - 1]
        n_labels, known = int((labels >= 0).sum()), (labels >= 0) & is_known
        measured = ["–", "–"]
        if known.any():
            rows, columns = (np.searchsorted(present, of[known]) for of in (truth, labels))
            cells, counts = np.unique(rows * len(present) + columns, return_counts=True)
            of, to = np.divmod(cells, len(present))
            right = counts[of == to].sum() / counts.sum()
            sizes = np.bincount(rows, minlength=len(present))
            mistakes = np.where(of == to, 0, counts)
            worst = int(mistakes.argmax())
            share = counts[worst] / sizes[of[worst]]
            most = f"{classes[present[of[worst]]]} → {classes[present[to[worst]]]} ({share:.1%})"
            measured = [f"{right:.1%}", most if mistakes[worst] else "none"]
            if number in (rounds[0], rounds[-1]) and len(present) <= CONFUSABLE:
                matrix = np.zeros((len(present), len(present)), np.int64)
                matrix[of, to] = counts
                panels[f"round {number}: {right:.1%} right"] = matrix
        measured = measured if len(section.header) > 3 else []
        section.rows.append([str(number), f"{n_labels:,}", *measured, f"{n_unlabelled - n_labels:,}"])
    if panels:
        matrices = draw_confusion(panels, tuple(classes[c] for c in present))
        section.figures.append(("Propagated labels in the first and the last round", matrices))
    elif len(present) > CONFUSABLE and not section.missing:
        section.missing = f"{len(present)} classes are too many for a confusion matrix."


def _times(section: Section, runs: list[Run]) -> None:
    history = runs[0].history
    seconds: dict[str, float] = {}
    for record in history[1:] + history[:1]:  # the untrained network is only validated, which comes late in others
        for stage, value in (record.get("seconds") or {}).items():
            seconds[stage] = seconds.get(stage, 0.0) + value
    seconds = dict(sorted(seconds.items(), key=lambda item: item[0] == "save"))  # the last, though of the record before
    total = sum(seconds.values())
    if not total:
        raise Missing("The run kept no times.")
    section.text = (
        f"{total:,.1f} s in all, wall time; of that, graph, propagation and mining "
        f"{sum(seconds.get(stage, 0) for stage in PREPARING) / total:.1%}."
    )
    if seconds.get("train"):
        rate = sum(record.get("examples") or 0 for record in history) / seconds["train"]
        section.text += f" {rate:,.0f} examples a second while training."
    section.figures.append(("Wall time of each stage", draw_times(seconds)))


def _settings(section: Section, runs: list[Run]) -> None:
    section.folded = True
    section.header = ["setting", *(names(runs) if len(runs) > 1 else ["value"])]
    settings = [run.settings for run in runs]
    section.rows = [[name, *(written(each.get(name, "")) for each in settings)] for name in settings[0]]


def _without(run: Run, *left_out: str) -> dict[str, Any]:
    return {name: value for name, value in run.settings.items() if name not in left_out}


def _round(record: dict[str, Any]) -> int:
    return record.get("round") or 0  # also of the warm-up


def _scored(name: str, record: dict[str, Any]) -> str:
    """Title of a panel: a name, and below it the scores, if there are any."""
    if record.get("score") is None:
        return name
    return f"{name}\nNMI {percent(record.get('val_nmi'), 1)}   R@1 {percent(record.get('val_recall@1'), 1)}"


_SECTIONS: dict[str, Callable[[Section, list[Run]], None]] = {
    "Figures on test examples": _test_figures,
    "Convergence": _convergence,
    "Sensitivity to α": _sensitivity,
    "Before and after": _maps,
    "Retrieval": _retrieval,
    "Propagated labels": _propagated,
    "Time": _times,
    "Settings": _settings,
}
