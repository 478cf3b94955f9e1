"""``ssdml-fast train``: trains on a data set and reports on held-out examples."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from .._settings import Settings, divided, told
from ..data.settings import DataSettings
from ..exceptions import ProcessError
from ..methods import METHODS, load_method, settings_of
from ..methods.recipes import settings as recipe_settings
from ..models.settings import NetworkSettings
from ..runs.files import error_told
from ..runs.folder import InUse, RunFolder, new_folder, write_atomically
from ..train.config import ELSEWHERE, Config
from ..train.interrupt import as_ctrl_c
from ..train.records import COLLAPSED, DIVERGED, why
from ..train.stored import StoredTraining, read_run
from .console import plain_console
from .header import header
from .places import MOVED
from .processes import (
    Ended,
    command_of,
    failure,
    is_main,
    once,
    refuse_shared,
    several,
    status_of,
    threads_told,
    together,
)
from .settings import errors_told
from .waiting import waiting

if TYPE_CHECKING:  # torch and scikit-learn are imported inside the commands, so that --help answers at once
    import torch
    from rich.console import Console

    from .._world import World
    from ..data.dataset import Dataset
    from ..models.networks import Choice
    from ..runs.figures import HeldOut
    from ..runs.inputs import Inputs
    from ..train.engine import Fitted

METHOD = "ssdml"  # where none is named
CALLS = ("resume", "tensorboard", "strict")  # options of one call of the command, not of the training
MOVES = (*ELSEWHERE, *MOVED)  # what a training that is resumed may be given anew


def train(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make.", show_default="runs/<date and time>", file_okay=False)
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Run folder to continue; takes every setting from it but --device, --workers, --cache-gb, and "
            "--data, --unlabelled, --labels and --weights if they were moved.",
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
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse data of which anything is left out, rather than say so.")
    ] = False,
    **settings: Any,
) -> None:
    """Train on a data set, most of it unlabelled, and report on held-out examples.

    ssdml-fast train                           handwritten digits, a minute
    ssdml-fast train --data images:mine        labelled/<class>/ and unlabelled/
    ssdml-fast train --data table:mine.csv     images, with columns path and label
    ssdml-fast train --data features:mine.npz  arrays x and y, -1: unlabelled

    The network goes with the images: the SSDML paper's for 28x28 (MNIST) and
    for colours of 32x32 (CIFAR-10), a small one up to 64x64, a pretrained
    backbone for photographs; none for features, where L alone is trained.
    Each goes with settings of its own rather than the defaults below, which
    config.json in the run folder has.
    """
    sources = {name: context.get_parameter_source(name) for name in context.params if name not in CALLS}
    given = {name for name, source in sources.items() if source and source.name in ("COMMANDLINE", "DEFAULT_MAP")}
    own = {name: value for name, value in settings.items() if name in given}
    console = plain_console()
    if resume is None:
        _begin(console, out, method, recipe, own, strict, tensorboard)
    elif more := sorted({"config_file": "config"}.get(name, name) for name in given.difference(MOVES)):
        raise typer.BadParameter(f"resume takes every setting from the run; found also {', '.join(more)}")
    else:
        _resume(console, resume, own, strict, tensorboard)


def _begin(
    console: Console,
    out: Path | None,
    method: str,
    recipe: str,
    own: dict[str, Any],
    strict: bool,
    tensorboard: bool,
) -> None:
    """Train by the user's `own` settings and those of the recipe, in a new run folder."""
    from ..runs.inputs import load_inputs

    with _interruptible(), errors_told():
        config = _training(method, recipe, own).config  # refuses what no data make right
        data, network = DataSettings(**_named(DataSettings, own)), NetworkSettings(**_named(NetworkSettings, own))
        if out is not None:
            once(RunFolder(out).refuse_used)
        inputs, examples = _load(console, lambda *told: load_inputs(data, network, config.seed, strict, *told), config)
        training = _training(method, recipe, own, inputs.choice, examples)
    with _folder(out) as path:
        run = RunFolder(path, inputs.dataset, inputs.network)
        with _interruptible(run):
            _run(console, run, inputs.choice, examples, training, tensorboard, is_new=True)


def _resume(console: Console, path: Path, own: dict[str, Any], strict: bool, tensorboard: bool) -> None:
    """Go on with the training of a run folder, of which `own` are the settings that may be given anew."""
    from ..runs.inputs import stored_inputs

    run, again = RunFolder(path), [text for name in own if name in MOVED for text in (f"--{name}", own[name])]
    with _interruptible(run, again):
        with errors_told():
            training, run.dataset, run.network = once(lambda: (read_run(run), run.dataset, run.network))
            training = replace(training, config=replace(training.config, **_named(Config, own)))
            config, moved = training.config, {name: own[name] for name in own if name in MOVED}
            inputs, examples = _load(
                console, lambda *told: stored_inputs(run, config.seed, moved, strict, *told), config
            )
        _run(console, run, inputs.choice, examples, training, tensorboard)


@contextmanager
def _interruptible(run: RunFolder | None = None, again: Sequence[str] = ()) -> Iterator[None]:
    """End by Ctrl-C, SIGTERM or SIGHUP with a word on how to go on, by the options `again` among others."""
    try:
        with as_ctrl_c(), together():
            yield
    except KeyboardInterrupt as stop:
        saved = _saved(run, again)
        text = f"\nStopped; the {saved}" if saved else "\nStopped before there was anything to save."
        raise Ended(text, status_of(stop)) from None
    except (ProcessError, typer.BadParameter) as error:
        is_others = isinstance(error.__context__, InUse)  # who goes on with it
        if not several() or is_others or not (saved := _saved(run, again)):
            raise
        raise Ended(f"{failure(error)}\nThe {saved}", getattr(error, "exit_code", 1)) from None


def _saved(run: RunFolder | None, again: Sequence[str]) -> str:
    """How to go on with a training, by the options `again` among others; empty where nothing of it is saved."""
    if run is None or not run.resumable:
        return ""
    command = command_of(["train", "--resume", str(run.path), *again])
    return f"training is saved in {run.path}. To continue:\n  {command}"


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Where to write the run; without `out` a folder of its own, which goes again if nothing is saved in it."""
    if out is not None:
        yield out
        return
    parent, made = Path("runs"), list[Path]()
    is_new = not parent.exists()

    def make() -> Path:
        made.append(new_folder(parent))
        return made[0]

    try:
        with errors_told():
            path = once(make)
        yield path
    finally:
        if made and not RunFolder(made[0]).resumable:
            shutil.rmtree(made[0], ignore_errors=True)
            if is_new:
                with suppress(OSError):  # another training's run is in it
                    parent.rmdir()


def _named(kind: type[Settings], settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that a class declares."""
    return {each.name: settings[each.name] for each in told(kind) if each.name in settings}


def _training(
    method: str, recipe: str, own: dict[str, Any], choice: Choice | None = None, examples: Dataset | None = None
) -> StoredTraining:
    """Settings of a training: those of the recipe for the examples, if they are known, and the user's own."""
    of = () if choice is None or examples is None else (choice.shape(examples.images), choice.backbone)
    settings = recipe_settings(method, recipe, *of)
    if examples is not None and examples.val_labels is None:
        settings["select"] = "last"
    kind = settings_of(method)
    of_method, of_engine = divided(settings | _named(kind, own) | _named(Config, own), kind, Config)
    return StoredTraining(method, kind(**of_method), Config(**of_engine))


def _load(
    console: Console, load: Callable[[Callable[[float], None], World], Inputs], config: Config
) -> tuple[Inputs, Dataset]:
    """Load the data, say what was understood of them, and prepare them for the network."""
    from .._world import World
    from ..train.device import network_device

    world = World.here()
    refuse_shared(config.device)
    device = network_device(config)
    with waiting(console, "decoding images") as progress:
        inputs = load(progress, world)
    console.print(inputs.data.data, soft_wrap=True)
    for name, text in header(inputs.examples):
        console.print(f"  {name:<11} {text}", soft_wrap=True)
    console.print(f"  {'network':<11} {inputs.choice}", soft_wrap=True)
    with waiting(console, "describing images") as progress:
        reading = {"workers": config.workers, "device": device, "world": world}
        return inputs, inputs.choice.prepared(inputs.examples, progress, **reading)


def _run(
    console: Console,
    run: RunFolder,
    choice: Choice,
    examples: Dataset,
    training: StoredTraining,
    tensorboard: bool,
    is_new: bool = False,
) -> None:
    """Train, report, and fill the run folder. Of several processes the first alone reports: the others are done."""
    with errors_told():
        fitted = _fitted(console, run, choice, examples, training, tensorboard, is_new)
    if not is_main():
        return
    console.print(_verdict(fitted, training.config.select), soft_wrap=True)
    with errors_told():
        _compare(console, run, choice, examples, training, fitted)
    console.print(f"run folder: {run.path}", soft_wrap=True)


def _fitted(
    console: Console,
    run: RunFolder,
    choice: Choice,
    examples: Dataset,
    training: StoredTraining,
    tensorboard: bool,
    is_new: bool,
) -> Fitted:
    """Train, and show how it goes."""
    from .._world import World
    from ..train.device import network_device
    from ..train.tensorboard import TensorBoard
    from ..train.training import fit
    from .live import Live

    config = training.config
    world, device = World.here(), network_device(config)
    logs = TensorBoard(run.tensorboard) if tensorboard and world.is_main else None
    console.print(f"{training.method} on {_where(world, device)}", soft_wrap=True)
    with waiting(console, "describing images") as progress:
        reading = {"workers": config.workers, "device": device, "world": world}
        network = choice.made(examples.images, config.seed, progress, **reading)
    with Live(console) as live, closing(logs) if logs else nullcontext():

        def on_validation(record: dict[str, Any]) -> None:
            live.validation(record)
            if logs:
                logs(record)

        return fit(
            network, examples, None, training.method, training.settings, config, prepare=choice.taken, run=run,
            resume=not is_new, on_validation=on_validation, on_batch=live.batch,
        )  # fmt: skip


def _where(world: World, device: torch.device) -> str:
    """What a user is told of the processes and their devices."""
    import torch

    from ..train.device import described

    devices = ", ".join(dict.fromkeys(world.every(described(device))))
    if world.size == 1:
        return devices
    threads = threads_told(torch.get_num_threads())
    return f"{devices}, {world.size} processes" + (f", {threads}" if threads else "")


def _compare(
    console: Console, run: RunFolder, choice: Choice, examples: Dataset, training: StoredTraining, fitted: Fitted
) -> None:
    """Measure what was trained on held-out examples, beside what it began as."""
    from ..runs.figures import HeldOut
    from .tables import held_out_table

    config, head = training.config, load_method(training.method).Head
    before = choice.untrained(examples.images, config.metric_dim, config.seed, head)
    held_out = HeldOut.of(before, fitted.model, examples)
    results = {"stopped": fitted.stopped, "best_validation": fitted.best["validation"], "test": held_out.figures}
    run.write_results(results | {"notes": held_out.notes})
    console.print(held_out_table(held_out))
    if held_out.figures:
        _draw(console, run, held_out)


def _draw(console: Console, run: RunFolder, held_out: HeldOut) -> None:
    """Draw a map of held-out examples, or say why there is none: the figures stand."""
    from ..report.maps import draw_held_out

    picture = BytesIO()
    try:
        draw_held_out(held_out).savefig(picture, format="png")
    except ValueError as error:  # too few examples, or what a library finds in them or in the names of classes
        console.print(f"no picture: {error}", soft_wrap=True)
    except Exception as error:  # whatever a library lacks for it
        console.print(f"no picture: {error_told(error)}", soft_wrap=True)
    else:
        write_atomically(run.picture, lambda file: file.write(picture.getvalue()))


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
