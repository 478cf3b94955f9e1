"""``ssdml-fast train``: trains on a data set and reports on held-out examples."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from .._settings import divided
from ..data.dataset import DataError
from ..data.load import LOADERS, PHOTOGRAPHS, absolute
from ..methods import METHODS, load_method, settings_of
from ..methods.recipes import settings as recipe_settings
from ..runs.folder import RunFolder, new_folder, write_atomically
from ..train.config import ELSEWHERE, Config
from ..train.records import COLLAPSED, DIVERGED, why
from ..train.stored import StoredTraining, read_run
from .settings import errors_told

if TYPE_CHECKING:  # torch and scikit-learn are imported inside the commands, so that --help answers at once
    from ..train.engine import Fitted

METHOD = "ssdml"  # where none is named
CALLS = ("resume", "tensorboard")  # options of one call of the command, not of the training
MOVES = (*ELSEWHERE, "data")  # what a training that is resumed may be given anew
TRAINED = [kind for kind in LOADERS if kind not in PHOTOGRAPHS]


def train(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make.", show_default="runs/<date and time>", file_okay=False)
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Run folder to continue; takes every setting from it but --device, --workers, --cache-gb, and --data "
            "if they were moved.",
            metavar="RUN",
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML file of these settings, as in `seed = 3`, those of the method under `\\[method]`, its "
            "name as `name`; the command line overrides it.",
            metavar="FILE",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help=f"What to train by: {', '.join(METHODS)} (see `ssdml-fast methods`), or package.module:Class. With "
            "--help, its settings are shown.",
            metavar="NAME",
        ),
    ] = METHOD,
    data: Annotated[
        str, typer.Option(help=f"'digits', which come with scikit-learn, or KIND:PATH; KIND: {', '.join(TRAINED)}.")
    ] = "digits",
    labels_per_class: Annotated[int, typer.Option(help="Labelled training examples of each class.")] = 10,
    recipe: Annotated[
        str,
        typer.Option(
            help="Settings to start from: 'default', which measures best, or 'paper', those of the method's paper; "
            "every setting below overrides it."
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
    own = {name: value for name, value in settings.items() if name in given}
    with _folder(out) if resume is None else nullcontext(resume) as path:
        with errors_told():
            if resume is None:
                training = _training(method, recipe_settings(method, recipe) | own)  # refuses what no data make right
                run = RunFolder(path, {"name": absolute(_trainable(data)), "labels_per_class": labels_per_class})
            else:
                if more := sorted({"config_file": "config"}.get(name, name) for name in given.difference(MOVES)):
                    raise ValueError(f"resume takes every setting from the run; found also {', '.join(more)}")
                run = RunFolder(path)
                training = read_run(run)
                training = replace(training, config=replace(training.config, **own))
        try:
            if resume is None:
                _run(run, training, tensorboard, recipe, own)
            else:
                _run(run, training, tensorboard, data=data if "data" in given else None)
        except KeyboardInterrupt:
            console = Console()
            if run.resumable:
                console.print(f"\nStopped; the training is saved in {run.path}. To continue:", soft_wrap=True)
                again = ["ssdml-fast", "train", "--resume", str(run.path)]
                again += ["--data", data] if resume is not None and "data" in given else []
                console.print(f"  {shlex.join(again)}", soft_wrap=True, highlight=False, markup=False)
            else:
                console.print("\nStopped before there was anything to save.")
            raise typer.Exit(130) from None


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Where to write the run; without `out` a folder of its own, which goes again if nothing is saved in it."""
    if out is not None:
        yield out
        return
    parent = Path("runs")
    is_new = not parent.exists()
    with errors_told():
        path = new_folder(parent)
    try:
        yield path
    finally:
        if not RunFolder(path).resumable:
            shutil.rmtree(path, ignore_errors=True)
            if is_new:
                with suppress(OSError):  # another training's run is in it
                    parent.rmdir()


def _trainable(name: str) -> str:
    """Return the name of the data, unless they are of a kind that no network here takes; they are not read for that."""
    kind = name.partition(":")[0]
    if kind in PHOTOGRAPHS:
        raise DataError(
            f"data must be digits or KIND:PATH with KIND one of {', '.join(TRAINED)}, found {kind}: describe its "
            "photographs by features first, as ssdml_fast.models.rmac does, and give those as features:PATH"
        )
    return name


def _training(method: str, settings: dict[str, Any]) -> StoredTraining:
    kind = settings_of(method)
    own, engines = divided(settings, kind, Config)
    return StoredTraining(method, kind(**own), Config(**engines))


def _run(
    run: RunFolder,
    training: StoredTraining,
    tensorboard: bool,
    recipe: str = "",
    own: dict[str, Any] | None = None,
    data: str | None = None,
) -> None:
    """Train, report, and fill the run folder; settings that are not the user's `own` are the recipe's.

    With None of them, resume with those of `training`, on `data` if they were moved.
    """
    console = Console()
    from ..models.networks import choose
    from ..models.seeded import seeded
    from ..report.maps import draw_held_out
    from ..runs.figures import HeldOut
    from ..runs.run import load_examples
    from ..train.device import described, network_device
    from ..train.tensorboard import TensorBoard
    from ..train.training import fit
    from .live import Live
    from .tables import held_out_table

    with errors_told():
        logs = TensorBoard(run.tensorboard) if tensorboard else None
        examples = load_examples(run, training.config.seed, data)
        shape = examples.images.shape[1:]
        choice = choose(shape)
        examples = choice.prepared(examples)
        if own is not None:
            training = _training(training.method, recipe_settings(training.method, recipe, shape) | own)
        config = training.config
        where = described(network_device(config))
    n_labelled = int((examples.labels >= 0).sum())
    console.print(
        f"{data or run.dataset['name']}: {n_labelled} labelled and {len(examples.labels) - n_labelled} unlabelled "
        f"training examples, {len(examples.val_labels)} validation, {len(examples.test_labels)} test",
        soft_wrap=True,
        markup=False,
    )
    console.print(f"{training.method} on {where}", soft_wrap=True, highlight=False, markup=False)
    with Live(console) as live, closing(logs) if logs else nullcontext(), errors_told():

        def on_validation(record: dict[str, Any]) -> None:
            live.validation(record)
            if logs:
                logs(record)

        fitted = fit(
            seeded(choice.network, config.seed), examples, None, training.method, training.settings, config, run=run,
            resume=own is None, on_validation=on_validation, on_batch=live.batch,
        )  # fmt: skip
    console.print(_verdict(fitted, config.select), soft_wrap=True)

    with errors_told():
        head = load_method(training.method).Head
        before = choice.untrained(examples.images, config.metric_dim, config.seed, head)
        held_out = HeldOut.of(before, fitted.model, examples)
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


def _verdict(fitted: Fitted, select: str) -> Text:
    """Why the training ended, and which model is kept."""
    alarm = "bold red"
    text = Text(why(fitted.stopped, fitted.best, fitted.history[-1]))
    if fitted.stopped in (COLLAPSED, DIVERGED):
        text.stylize(alarm)
    number = fitted.best["validation"]
    if select == "last":
        return text.append(f" Kept: the model of validation {number}, the last.")
    if number == 0:
        return text.append(
            " No validation was better than that of the untrained network, which is what is kept.", alarm
        )
    return text.append(f" Kept: the model of validation {number}, the best.")
