"""The SSDML paper's Tables 1 and 4 for MNIST, Fashion-MNIST and CIFAR-10: its protocol, by either recipe, over seeds.

    python benchmarks/studies/reproduce.py mnist:PATH cifar10:PATH --recipes default paper --seeds 0 1 2

trains one cell after another, with the paper's labels (10 per class, on CIFAR-10 100), partitions, networks, k, gamma
and alpha. A seed decides the split, the labels and the training. Every model is chosen on validation images; figures
are of the test images. Each finished cell is one JSON line in OUT/cells.jsonl and is not trained again; one that was
interrupted goes on where it was. With ``--table`` nothing is trained; the table of the finished cells is printed.

Methods: ``initial``, the untrained network; ``warmup``, after the softmax on the labelled examples that comes before
the first graph, where the recipe has one (the paper has one on CIFAR-10 and there begins with it); ``ssdml``;
``unconstrained``: SSDML with an L that is not kept orthogonal.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from itertools import product
from pathlib import Path
from typing import Any

from ssdml_fast._settings import divided
from ssdml_fast.data import load
from ssdml_fast.evaluate import score_embedding
from ssdml_fast.methods.recipes import RECIPES
from ssdml_fast.methods.recipes import settings as recipe_settings
from ssdml_fast.methods.settings import SSDMLSettings
from ssdml_fast.models.metric import untrained
from ssdml_fast.models.networks import choose
from ssdml_fast.models.seeded import seeded
from ssdml_fast.runs.folder import RunFolder
from ssdml_fast.train import Config, fit

LABELS_PER_CLASS = {"mnist": 10, "fashion-mnist": 10, "cifar10": 100}
METHODS = ("initial", "warmup", "ssdml", "unconstrained")
PAPER = {  # NMI and Recall@1, %
    ("mnist", "initial"): (17.4, 86.5),
    ("mnist", "ssdml"): (47.5, 93.9),
    ("mnist", "unconstrained"): (42.9, 91.5),
    ("fashion-mnist", "initial"): (32.6, 71.9),
    ("fashion-mnist", "ssdml"): (52.1, 77.6),
    ("fashion-mnist", "unconstrained"): (50.3, 73.3),
    ("cifar10", "warmup"): (20.4, 38.2),
    ("cifar10", "ssdml"): (25.3, 41.4),
    ("cifar10", "unconstrained"): (19.0, 37.4),
}


def train(data: str, recipe: str, method: str, seed: int, folder: Path) -> dict[str, Any] | None:
    """Train one cell and return its test figures, and the seconds that its training took, interrupted or not.

    None: the recipe does not have that method.
    """
    kind = data.partition(":")[0]
    examples = load(data, seed, LABELS_PER_CLASS[kind])
    choice = choose(examples.images.shape[1:])
    dataset = choice.prepared(examples)
    own = {"warmup": {"rounds": 0}, "unconstrained": {"metric_update": "unconstrained"}}.get(method, {})
    own = recipe_settings("ssdml", recipe, dataset.images.shape[1:]) | own | {"seed": seed}
    of_method, of_engine = divided(own, SSDMLSettings, Config)
    settings, config = SSDMLSettings(**of_method), Config(**of_engine)
    if method == "warmup" and not settings.warmup:
        return None
    network = seeded(choice.network, seed)
    if method == "initial":
        model, told = untrained(network, dataset.images, config.metric_dim, seed), {}
    else:
        run = RunFolder(folder)
        if not run.resumable:  # cut off before its first checkpoint, if it was begun at all: nothing to go on with
            shutil.rmtree(folder, ignore_errors=True)
        fitted = fit(
            network, dataset, settings=settings, config=config, run=run, resume=run.resumable,
            on_validation=lambda r: print(f"  validation {r['validation']}: {100 * r['score']:.1f}", flush=True),
        )  # fmt: skip
        model = fitted.model
        seconds = sum(sum(record["seconds"].values()) for record in fitted.history)
        told = {
            "stopped": fitted.stopped, "best_validation": fitted.best["validation"],
            "validation_score": fitted.best["score"], "seconds": round(seconds, 1),
        }  # fmt: skip
    figures = score_embedding(model.embed(dataset.test_images), dataset.test_labels)
    return {"data": kind, "recipe": recipe, "method": method, "seed": seed, **figures, **told}


def table(cells: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over the seeds of each cell, in Markdown, beside the paper's figures."""
    lines = ["| data | method | recipe | seeds | NMI | R@1 | paper: NMI | R@1 |", "|---|---|---|---|---|---|---|---|"]
    for row in product(LABELS_PER_CLASS, METHODS, RECIPES):
        found = [cell for cell in cells if (cell["data"], cell["method"], cell["recipe"]) == row]
        if found:
            own = [_spread([100 * cell[name] for cell in found]) for name in ("nmi", "recall@1")]
            paper = map(str, PAPER.get(row[:2], ("-", "-")))
            lines.append(f"| {' | '.join([*row, str(len(found)), *own, *paper])} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help="KIND:PATH, as for ssdml-fast train --data")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="folder of the cells and their runs")
    parser.add_argument("--table", action="store_true", help="print the table of the finished cells only")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "cells.jsonl"
    cells = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(c["data"], c["recipe"], c["method"], c["seed"]) for c in cells}
    wanted = [
        (data, recipe, method, seed)
        for seed in arguments.seeds
        for data in arguments.data
        for recipe in arguments.recipes
        for method in arguments.methods
    ]
    for data, recipe, method, seed in [] if arguments.table else wanted:
        kind = data.partition(":")[0]
        if kind not in LABELS_PER_CLASS:
            parser.error(f"data must be one of {', '.join(LABELS_PER_CLASS)} with its path, found {data!r}")
        if (kind, recipe, method, seed) in done:
            continue
        print(kind, recipe, method, f"seed {seed}", flush=True)
        cell = train(data, recipe, method, seed, arguments.out / f"{kind}-{recipe}-{method}-{seed}")
        if cell is None:
            continue
        cells.append(cell)
        with file.open("a") as lines:
            lines.write(json.dumps(cell) + "\n")
    print(table(cells))


if __name__ == "__main__":
    main()
