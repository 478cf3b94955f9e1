"""The command line: ``ssdml-fast train``, ``ssdml-fast evaluate`` and ``ssdml-fast report``."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import shlex
import tomllib
import typing
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .. import __version__
from ..data.load import LOADERS, absolute, read
from .config import Config
from .recipes import settings
from .run import RunError, RunFolder

if TYPE_CHECKING:  # torch and scikit-learn are imported inside the commands, so that --help answers at once
    from .loop import Fitted

CALLS = ("resume", "tensorboard")  # options of one call of the command, not of the training

app = typer.Typer(
    help="Semi-supervised deep metric learning.", no_args_is_help=True, add_completion=False, rich_markup_mode="rich"
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


def _train(
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
            callback=lambda context, path: _read_settings(context, path),
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
    with _errors_told():
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
    from .held_out import HeldOut, load_data
    from .live import Live
    from .loop import fit
    from .tensorboard import TensorBoard

    with _errors_told():
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
    with Live(console) as live, closing(logs) if logs else nullcontext(), _errors_told():

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
    with _errors_told():
        if what.suffix == ".npz" or any(what.glob("*.npy")):
            _evaluate_features(what)
            return
        folder = RunFolder(what)
        config = folder.read_config()
        from .held_out import HeldOut, load_data, load_model

        data = load_data(folder, config)
        model = load_model(folder, config, data)
    Console().print(HeldOut.of(model, config, data).table())


def _evaluate_features(path: Path) -> None:
    from ..evaluate import RECALL_KS, report_embedding
    from .held_out import figures_table

    source = read(f"features:{path}")
    x, y = (source.images, source.labels) if source.test_images is None else (source.test_images, source.test_labels)
    if len(x) <= max(RECALL_KS):
        raise ValueError(f"{path} must hold at least {max(RECALL_KS) + 1} embeddings to evaluate, found {len(x)}")
    Console().print(figures_table(f"{len(x)} embeddings, %", {path.name: report_embedding(x, y)}))


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
) -> None:
    """Write one HTML file about a run: convergence, maps, retrieval, propagated labels, sensitivity to alpha, times."""
    with _errors_told():
        for path in runs:
            RunFolder(path).read_config()  # an error here comes before the seconds that imports take
        from ..report.page import write_report

        out = out or RunFolder(runs[0]).report
        write_report(runs, out)
    Console().print(f"report: {out}", soft_wrap=True, highlight=False)


def _read_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Make the settings of a TOML file the defaults of the command."""
    if path is None:
        return None
    with _errors_told():
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"config {path} cannot be read: {error}") from None
        options = {p.name: p for p in context.command.params}
        known = options.keys() - {*CALLS, "config_file", "help"}
        for name, value in settings.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                told = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
                raise ValueError(f"config {path} has an unknown setting {name!r}; {told}")
            is_flag = getattr(options[name], "is_flag", False)
            if not isinstance(value, bool if is_flag else (str, int, float)) or isinstance(value, bool) != is_flag:
                kind = "true or false" if is_flag else "a number or a text"
                raise ValueError(f"config {path} must give {kind} for {name}, found {value!r}")
    context.default_map = {name: str(value) for name, value in settings.items()}  # text, so that 1.5 is no integer
    return path


@contextmanager
def _errors_told() -> Iterator[None]:
    """Turn errors about what the user gave into one clear line and exit status 2."""
    try:
        yield
    except (ImportError, RunError, TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None


def _with_settings(function: Any) -> Any:
    """Replace the `**settings` of a command by one option for each field of Config."""
    types = typing.get_type_hints(Config)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[types[field.name], typer.Option(help=field.metadata["help"])],
        )
        for field in dataclasses.fields(Config)
    ]
    signature = inspect.signature(function, eval_str=True)
    fixed = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=[*fixed, *options])
    function.__annotations__ = {p.name: p.annotation for p in [*fixed, *options]}
    return function


app.command("train")(_with_settings(_train))
app.command("evaluate")(evaluate)
app.command("report")(report)
