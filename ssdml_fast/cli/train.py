"""``ssdml-fast train``: trains on a data set and reports on held-out examples."""

from __future__ import annotations

import shlex
from contextlib import closing, nullcontext
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..data.dataset import DataError
from ..data.load import LOADERS, PHOTOGRAPHS, absolute
from ..methods.recipes import settings as recipe_settings
from ..methods.settings import SSDMLSettings
from ..runs.folder import RunFolder, write_atomically
from ..train.config import Config
from ..train.settings import divided
from ..train.stored import StoredTraining, read_run
from .settings import CALLS, errors_told, read_settings, with_settings

if TYPE_CHECKING:  # torch and scikit-learn are imported inside the commands, so that --help answers at once
    from ..train.engine import Fitted

TRAINED = [kind for kind in LOADERS if kind not in PHOTOGRAPHS]


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
        str, typer.Option(help=f"'digits', which come with scikit-learn, or KIND:PATH; KIND: {', '.join(TRAINED)}.")
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
            own = {name: value for name, value in settings.items() if name in given}
            training = _training(recipe_settings(recipe) | own)  # refuses what no data could make right
            path = out or Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
            run = RunFolder(path, {"name": absolute(_trainable(data)), "labels_per_class": labels_per_class})
        else:
            if given:
                raise ValueError(f"resume takes every setting from the run; found also {', '.join(sorted(given))}")
            own, run = None, RunFolder(resume)
            training = read_run(run)
    try:
        _run(run, training, recipe, own, tensorboard)
    except KeyboardInterrupt:
        console = Console()
        if run.resumable:
            console.print(f"\nStopped; the training is saved in {run.path}. To continue:", soft_wrap=True)
            console.print(f"  ssdml-fast train --resume {shlex.quote(str(run.path))}", soft_wrap=True, highlight=False)
        else:
            console.print("\nStopped before there was anything to save.")
        raise typer.Exit(130) from None


def _trainable(name: str) -> str:
    """Return the name of the data, unless they are of a kind that no network here takes; they are not read for that."""
    kind = name.partition(":")[0]
    if kind in PHOTOGRAPHS:
        raise DataError(
            f"data must be digits or KIND:PATH with KIND one of {', '.join(TRAINED)}, found {kind}: describe its "
            "photographs by features first, as ssdml_fast.models.rmac does, and give those as features:PATH"
        )
    return name


def _training(settings: dict[str, Any]) -> StoredTraining:
    own, engines = divided(settings, SSDMLSettings, Config)
    return StoredTraining("ssdml", SSDMLSettings(**own), Config(**engines))


def _run(run: RunFolder, training: StoredTraining, recipe: str, own: dict[str, Any] | None, tensorboard: bool) -> None:
    """Train, report, and fill the run folder; settings that are not the user's `own` are the recipe's.

    With None of them, resume with those of `training`.
    """
    console = Console()
    from ..models.networks import choose
    from ..models.seeded import seeded
    from ..report.maps import draw_held_out
    from ..runs.figures import HeldOut
    from ..runs.run import load_examples
    from ..train.fit import fit
    from ..train.tensorboard import TensorBoard
    from .live import Live
    from .tables import held_out_table

    with errors_told():
        logs = TensorBoard(run.tensorboard) if tensorboard else None
        data = load_examples(run, training.config.seed)
        shape = data.images.shape[1:]
        choice = choose(shape)
        data = choice.prepared(data)
        if own is not None:
            training = _training(recipe_settings(recipe, shape) | own)
    config = training.config
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
            seeded(choice.network, config.seed), data, None, training.method, training.settings, config, run=run,
            resume=own is None, on_validation=on_validation, on_batch=live.batch,
        )  # fmt: skip
    console.print(_verdict(fitted), soft_wrap=True)

    with errors_told():
        before = choice.untrained(data.images, config.metric_dim, config.seed)
        held_out = HeldOut.of(before, fitted.model, data)
        run.write_results(
            {"stopped": fitted.stopped, "best_validation": fitted.best["validation"], "test": held_out.figures}
        )
        console.print(held_out_table(held_out))
        picture = BytesIO()
        try:
            draw_held_out(held_out).savefig(picture, format="png")
        except ValueError as error:  # too few examples, or what a library finds in them or in the names of classes
            console.print(f"no picture: {error}", soft_wrap=True, highlight=False, markup=False)
        else:
            write_atomically(run.picture, lambda file: file.write(picture.getvalue()))
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
