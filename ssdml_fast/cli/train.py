"""``ssdml-fast train``: trains on a data set and reports on held-out examples."""

from __future__ import annotations

import dataclasses
import shlex
from contextlib import closing, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..data.load import LOADERS, absolute
from ..runs.folder import RunFolder
from ..train.config import Config
from ..train.recipes import settings
from .settings import CALLS, errors_told, read_settings, with_settings

if TYPE_CHECKING:  # torch and scikit-learn are imported inside the commands, so that --help answers at once
    from ..train.loop import Fitted


@with_settings
def train(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make.", show_default="runs/<date and time>", file_okay=False)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run folder to continue; takes every setting from it.", metavar="RUN")
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML file of these settings, as in `rounds = 3`; the command line overrides it.",
            is_eager=True,
            callback=read_settings,
            metavar="FILE",
        ),
    ] = None,
    data: Annotated[
        str, typer.Option(help=f"'digits', which come with scikit-learn, or KIND:PATH; KIND: {', '.join(LOADERS)}.")
    ] = "digits",
    labels_per_class: Annotated[int, typer.Option(help="Labelled training examples of each class.")] = 10,
    recipe: Annotated[
        str,
        typer.Option(
            help="Settings to start from: 'default', which measures best, or 'paper', the SSDML paper's; every setting "
            "below overrides it."
        ),
    ] = "default",
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Write TensorBoard logs to the run folder; may be given with --resume."),
    ] = False,
    **settings: Any,
) -> None:
    """Train on a data set, most of it unlabelled, and report on held-out examples.

    Without --data: scikit-learn's handwritten digits. The network goes with the data: the SSDML paper's for images of
    28x28 (MNIST, Fashion-MNIST) and for colour images of 32x32 (CIFAR-10), none for features, where L alone is trained.
    Each goes with settings of its own, rather than with the defaults below: see config.json in the run folder.
    """
    sources = {name: context.get_parameter_source(name) for name in context.params if name not in CALLS}
    given = {name for name, source in sources.items() if source and source.name in ("COMMANDLINE", "DEFAULT_MAP")}
    with errors_told():
        if resume is None:
            config = Config(**settings)
            path = out or Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
            run = RunFolder(path, {"name": absolute(data), "labels_per_class": labels_per_class})
        else:
            if given:
                raise ValueError(f"resume takes every setting from the run; found also {', '.join(sorted(given))}")
            run = RunFolder(resume)
            config = run.read_config()
    try:
        _run(run, config, None if resume else recipe, given, tensorboard)
    except KeyboardInterrupt:
        console = Console()
        if run.resumable:
            console.print(f"\nStopped; the training is saved in {run.path}. To continue:", soft_wrap=True)
            console.print(f"  ssdml-fast train --resume {shlex.quote(str(run.path))}", soft_wrap=True, highlight=False)
        else:
            console.print("\nStopped before there was anything to save.")
        raise typer.Exit(130) from None


def _run(run: RunFolder, config: Config, recipe: str | None, given: set[str], tensorboard: bool) -> None:
    """Train, report, and fill the run folder; settings that are not `given` are the recipe's. Without one: resume."""
    console = Console()
    from ..models.networks import choose
    from ..models.seeded import seeded
    from ..runs.figures import HeldOut, load_data
    from ..train.loop import fit
    from ..train.tensorboard import TensorBoard
    from .live import Live

    with errors_told():
        logs = TensorBoard(run.tensorboard) if tensorboard else None
        data = load_data(run, config)
        choice = choose(data.images.shape[1:])
        if recipe is not None:
            own = {name: value for name, value in settings(recipe, data.images.shape[1:]).items() if name not in given}
            config = dataclasses.replace(config, **own)
    n_labelled = int((data.labels >= 0).sum())
    console.print(
        f"{run.dataset['name']}: {n_labelled} labelled and {len(data.labels) - n_labelled} unlabelled training "
        f"examples, {len(data.val_labels)} validation, {len(data.test_labels)} test",
        soft_wrap=True,
    )
    with Live(console) as live, closing(logs) if logs else nullcontext(), errors_told():

        def on_validation(record: dict[str, Any]) -> None:
            live.validation(record)
            if logs:
                logs(record)

        fitted = fit(
            seeded(choice.network, config.seed), data.images, data.labels, data.val_images, data.val_labels,
            config, run, recipe is None, on_validation, live.batch,
        )  # fmt: skip
    console.print(_verdict(fitted), soft_wrap=True)

    held_out = HeldOut.of(fitted.model, config, data)
    run.write_results(
        {"stopped": fitted.stopped, "best_validation": fitted.best["validation"], "test": held_out.figures}
    )
    held_out.draw(run)
    console.print(held_out.table())
    console.print(f"run folder: {run.path}", soft_wrap=True, highlight=False)


def _verdict(fitted: Fitted) -> str:
    best, last = fitted.best["validation"], fitted.history[-1]["validation"]
    why = {
        "finished": "All rounds are done.",
        "patience": f"Stopped early at validation {last}: no better score for a while.",
        "collapsed": f"[bold red]The embedding collapsed[/]: the validation score fell from {fitted.best['score']:.3f} "
        f"at validation {best} to {fitted.history[-1]['score']:.3f} at validation {last}, where training was stopped.",
        "diverged": f"[bold red]The embedding diverged[/] after validation {last} (not finite), where training was "
        "stopped; try a smaller learning_rate or metric_step.",
    }[fitted.stopped]
    if best == 0:
        return why + " [bold red]No validation was better than that of the untrained network, which is what is kept.[/]"
    return why + f" Kept: the model of validation {best}, the best."
