"""The command line: trains, reports the same figures again, resumes, and tells errors in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

from ssdml_fast import __version__
from ssdml_fast._settings import divided
from ssdml_fast.cli.app import app
from ssdml_fast.evaluate import FIGURES, report_embedding
from ssdml_fast.methods import recipes
from ssdml_fast.methods.settings import SSDMLSettings
from ssdml_fast.models.metric import MetricModel
from ssdml_fast.train.config import Config
from ssdml_fast.train.engine import Engine

TINY = ["--rounds", "1", "--epochs", "1"]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def stored(path):
    """Settings of the method and of the training in a run folder."""
    content = json.loads((path / "config.json").read_text())
    return content["method"], content["settings"], content["training"]


def ssdml(**given):
    """What :func:`stored` finds of SSDML with these settings."""
    own, engines = divided(given, SSDMLSettings, Config)
    return "ssdml", dataclasses.asdict(SSDMLSettings(**own)), dataclasses.asdict(Config(**engines))


def rows(output):
    """The table's rows: name and seven figures each."""
    return re.findall(r"│ (.+?) +│" + r" +(-?[\d.]+) │" * 7, output)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    result = invoke("train", "--out", path, *TINY)
    assert result.exit_code == 0, result.output
    return path, result.output


def test_train_fills_the_run_folder(run):
    path, output = run
    assert sorted(file.name for file in path.iterdir()) == [
        "checkpoint.pt", "config.json", "embedding.png", "metrics.jsonl", "model.safetensors", "propagated.safetensors",
        "results.json",
    ]  # fmt: skip
    assert (path / "embedding.png").read_bytes().startswith(b"\x89PNG")
    history = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [record["validation"] for record in history] == [0, 1, 2]
    assert re.findall(r"^validation +(\d) of 2 ", output, re.MULTILINE) == ["0", "1", "2"]
    assert stored(path) == ssdml(rounds=1, epochs=1)
    assert re.search(r"^ssdml on (cpu|cuda|mps)", output, re.MULTILINE)
    assert "All rounds are done. Kept: the model of validation" in output


def test_training_beats_pixels_and_the_untrained_network(run):
    path, output = run
    raw, before, after = rows(output)
    assert float(after[1]) > max(float(raw[1]), float(before[1])) + 5
    test = json.loads((path / "results.json").read_text())["test"]
    figures = [[f"{100 * value:.2f}" for value in row.values()] for row in test.values()]
    assert figures == [list(row[1:]) for row in (raw, before, after)]


def test_evaluate_reports_the_same_figures(run):
    path, output = run
    result = invoke("evaluate", path)
    assert result.exit_code == 0, result.output
    assert rows(result.output) == rows(output) and len(rows(output)) == 3
    narrow = CliRunner().invoke(app, ["evaluate", str(path)], env={"COLUMNS": "80"})
    assert rows(narrow.output) == rows(output)  # nothing is cut off in a terminal of the usual width


def test_ctrl_c_says_how_to_resume_and_resuming_ends_the_same(run, quick_maps, tmp_path, monkeypatch):
    validate = Engine.validate

    def interrupted(engine, record):
        if record["validation"] == 2:
            raise KeyboardInterrupt
        validate(engine, record)

    path = tmp_path / "stopped run"
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "validate", interrupted)
        result = invoke("train", "--out", path, *TINY)
    assert result.exit_code == 130
    assert f"ssdml-fast train --resume '{path}'" in result.output
    result = invoke("train", "--resume", path)
    assert result.exit_code == 0, result.output
    assert rows(result.output) == rows(run[1])
    assert (path / "model.safetensors").read_bytes() == (run[0] / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "number", [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
)
def test_a_signal_within_a_step_is_as_ctrl_c_after_it(run, quick_maps, tmp_path, monkeypatch, number):
    step, steps = Engine.step, []

    def signalled(*arguments):
        steps.append(arguments)
        if len(steps) == 3:
            signal.raise_signal(number)
        return step(*arguments)

    path, usual = tmp_path / "run", signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)  # a job in a shell's background ignores some
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "step", signalled)
            result = invoke("train", "--out", path, *TINY)
        assert result.exit_code == 128 + number and signal.getsignal(number) == usual
    finally:
        signal.signal(number, before)
    assert f"ssdml-fast train --resume {path}" in result.output
    assert len(steps) == 3 and torch.load(path / "within.pt", weights_only=True)["place"]["batch"] == 3
    result = invoke("train", "--resume", path)
    assert result.exit_code == 0, result.output
    assert rows(result.output) == rows(run[1])
    assert (path / "model.safetensors").read_bytes() == (run[0] / "model.safetensors").read_bytes()


KILLED = """
import os, signal, sys
from ssdml_fast.cli.app import app
last, replace = int(sys.argv.pop(1)), os.replace

def replace_or_die(source, target):
    global last
    last -= 1
    if last == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replace_or_die
app()
"""


@pytest.mark.slow
@pytest.mark.parametrize("file", [5, 6])  # the second checkpoint before it is put in place, and what follows it
def test_a_killed_training_loses_only_what_came_after_its_last_checkpoint(run, quick_maps, tmp_path, file):
    path = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, str(file), "train", "--out", str(path), *TINY]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert len((path / "metrics.jsonl").read_text().splitlines()) == 1  # of the first checkpoint
    result = invoke("train", "--resume", path)
    assert result.exit_code == 0, result.output
    assert rows(result.output) == rows(run[1])
    made = re.findall(r"^validation +(\d) of 2 ", result.output, re.MULTILINE)
    assert made == ["1", "2"][file - 5 :]  # after it
    assert (path / "model.safetensors").read_bytes() == (run[0] / "model.safetensors").read_bytes()


OFTEN = """
import os, sys, threading
from ssdml_fast.cli.app import app
from ssdml_fast.train import engine

number, seconds = int(sys.argv.pop(1)), float(sys.argv.pop(1))
to_the_end, engine.SAVED_EVERY = engine.Engine.to_the_end, 0.1

def signalled(*arguments):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()
    to_the_end(*arguments)

engine.Engine.to_the_end = signalled
app()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_stopped_at_random_moments_it_ends_the_same(run, quick_maps, tmp_path, name):
    path, rng, number = tmp_path / "run", np.random.default_rng(sum(name.encode())), getattr(signal, name)
    arguments, stops = ["--out", str(path), *TINY], 0
    for _ in range(3):
        child = subprocess.run(
            [sys.executable, "-c", OFTEN, str(int(number)), str(rng.uniform(0, 2)), "train", *arguments],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"}, preexec_fn=usual_signals,
        )  # fmt: skip
        is_saved = (path / "checkpoint.pt").exists()
        if is_saved:
            arguments = ["--resume", str(path)]
        if child.returncode == 0:  # it was done before
            continue
        stops += 1
        assert child.returncode == (-number if name == "SIGKILL" else 128 + number)
        assert name == "SIGKILL" or ("To continue" in child.stdout) == is_saved
    assert stops
    result = invoke("train", *arguments)
    assert result.exit_code == 0, result.output
    assert rows(result.output) == rows(run[1])
    assert (path / "model.safetensors").read_bytes() == (run[0] / "model.safetensors").read_bytes()
    assert validations(path) == validations(run[0])


def usual_signals():
    """In a child: what a shell's background jobs, or nohup, ignore is not ignored."""
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def validations(path):
    """The records of a run but for the times."""
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gamma", "1.5"], "gamma must be between 0 and 1"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--mining", "best"], "mining must be one of 'class', 'neighborhood'"),
        (["--neighbors", "5000"], "neighbors must be less than the examples of a partition"),
        (["--metric-dim", "999"], "metric_dim must be in [1, 128]"),
        (["--labels-per-class", "0"], "labels_per_class must be at least 1, found 0"),
        (["--rounds", "many"], "--rounds"),
    ],
)
def test_a_bad_setting_is_one_clear_error(tmp_path, arguments, message):
    result = invoke("train", "--out", tmp_path / "run", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()) and "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


DIGITS = {"name": "digits", "labels_per_class": 10}


def settings(dataset, **training):
    return json.dumps({"format": 1, "dataset": dataset, "training": training}).encode()


def damaged(name, content=b"{"):
    def damage(path):
        (path / name).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("command", "damage", "message"),
    [
        (["evaluate"], damaged("config.json"), "config.json is damaged"),
        (["train", "--resume"], damaged("config.json", settings({}, gamma=2)), "gamma must be"),
        (["evaluate"], damaged("config.json", settings(DIGITS, seed=0, metric_dim=0)), "metric_dim must be in"),
        (["evaluate"], damaged("config.json", settings(DIGITS, seed=-1, metric_dim=8)), "seed must be at least 0"),
        (["evaluate"], damaged("config.json", settings({"name": "x"}, seed=0)), "unknown data set"),
        (["evaluate"], damaged("config.json", settings(DIGITS | {"name": 5}, seed=0)), "unknown data set"),
        (["evaluate"], damaged("config.json", settings(DIGITS | {"name": "images:~no-one/x"}, seed=0)), "no home"),
        (["evaluate"], damaged("config.json", b'{"format": 9}'), "format 9"),
        (["evaluate"], damaged("model.safetensors"), "model.safetensors is damaged"),
        (["evaluate"], lambda path: (path / "model.safetensors").unlink(), "has no model.safetensors"),
        (["train", "--resume"], lambda path: (path / "checkpoint.pt").unlink(), "has no checkpoint.pt"),
        (["train", "--resume"], damaged("checkpoint.pt"), "checkpoint.pt is damaged"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_one_clear_error(run, tmp_path, command, damage, message):
    path = tmp_path / "run"
    shutil.copytree(run[0], path)
    damage(path)
    result = invoke(*command, path)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()) and "Traceback" not in result.output


def test_other_misuse_is_one_clear_error(run, tmp_path):
    for arguments, message in [
        (["evaluate", tmp_path / "none"], "there is no run folder"),
        (["train", "--resume", tmp_path / "none"], "there is no run folder"),
        (["train", "--out", run[0]], "must be new or empty"),
        (["train", "--out", run[0] / "config.json"], "is a file"),
        (["train", "--out", run[0] / "config.json" / "run", *TINY], "cannot be made: Not a directory"),
        (["train", "--config", tmp_path / "none.toml"], "none.toml cannot be read"),
        (["evaluate", tmp_path], "has no config.json"),
        (["train", "--resume", run[0], "--seed", "1"], "resume takes every setting from the run; found also seed"),
    ]:
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split()) and "Traceback" not in result.output


@pytest.mark.slow
def test_a_full_disk_is_one_clear_error_and_what_was_saved_stays(quick_maps, tmp_path, monkeypatch):
    save, saved = torch.save, []

    def full(content, path):
        if saved:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")  # torch's
        saved.append(save(content, path))

    monkeypatch.setattr(torch, "save", full)
    result = invoke("train", "--out", tmp_path / "run", *TINY)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "checkpoint.pt cannot be written" in " ".join(result.output.split())
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    monkeypatch.undo()
    assert invoke("train", "--resume", tmp_path / "run").exit_code == 0


@pytest.fixture
def images(tmp_path):
    """Images of 28x28 in MNIST's files: a bright square whose place is the class."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 160), ("t10k", 40)):
        labels = np.arange(n, dtype=np.uint8) % 4
        pixels = rng.integers(60, size=(n, 28, 28), dtype=np.uint8)
        for image, c in zip(pixels, labels, strict=True):
            image[4 + 12 * (c // 2) :][:8, 4 + 12 * (c % 2) :][:, :8] += 150
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return tmp_path


@pytest.mark.slow
def test_files_are_trained_on_with_the_papers_network_and_a_config_file(images, quick_maps, tmp_path, monkeypatch):
    (tmp_path / "my.toml").write_text(
        f'data = "mnist:{images}"\nlabels_per_class = 5\nrounds = 1\nepochs = 2\ngamma = 0.8\nwarmup = 3\n'
    )
    path = tmp_path / "run"
    result = invoke("train", "--config", tmp_path / "my.toml", "--epochs", 1, "--out", path)
    assert result.exit_code == 0, result.output
    assert "training 20 labelled and 116 unlabelled validation 24 test 40 network paper" in " ".join(
        result.output.split()
    )
    written = json.loads((path / "config.json").read_text())
    assert written["dataset"] == {"name": f"mnist:{images}", "labels_per_class": 5}
    own = recipes.settings("ssdml", "default", (1, 28, 28)) | {"rounds": 1, "epochs": 1, "gamma": 0.8, "warmup": 3}
    assert stored(path) == ssdml(**own)
    assert load_file(path / "model.safetensors")["network.layers.4.weight"].shape == (500, 50, 4, 4)
    monkeypatch.chdir(tmp_path)
    again = invoke("evaluate", path)
    assert rows(again.output) == rows(result.output) and len(rows(again.output)) == 3
    result = invoke("train", "--data", f"mnist:{images}/none")
    assert result.exit_code == 2 and "found no such folder" in " ".join(result.output.split())


@pytest.mark.slow
def test_the_papers_recipe_and_what_overrides_it(images, quick_maps, tmp_path):
    (tmp_path / "my.toml").write_text('recipe = "paper"\nmax_epochs = 1\nneighbors = 4\n')
    path = tmp_path / "run"
    arguments = ["--data", f"mnist:{images}", "--config", tmp_path / "my.toml", "--gamma", 0.9, "--out", path]
    result = invoke("train", *arguments)
    assert result.exit_code == 0, result.output
    own = recipes.settings("ssdml", "paper", (1, 28, 28)) | {"max_epochs": 1, "neighbors": 4, "gamma": 0.9}
    assert stored(path) == ssdml(**own)
    result = invoke("train", "--recipe", "best")
    assert result.exit_code == 2 and "recipe must be one of 'default', 'paper'" in " ".join(result.output.split())


def test_settings_are_judged_together_with_their_recipe(images, quick_maps, tmp_path):
    """`metric_update` 'partition' goes with the recipe's mining or is refused, before any data are read."""
    (tmp_path / "my.toml").write_text('recipe = "paper"\nmetric_update = "partition"\n')
    path = tmp_path / "run"
    result = invoke(
        "train", "--data", f"mnist:{images}", "--config", tmp_path / "my.toml", "--max-epochs", 1, "--out", path
    )
    assert result.exit_code == 0, result.output
    flags = ["--recipe", "paper", "--metric-update", "partition", "--max-epochs", 1, "--out", tmp_path / "again"]
    assert invoke("train", "--data", f"mnist:{images}", *flags).exit_code == 0
    assert stored(path) == stored(tmp_path / "again")
    for arguments in (["--metric-update", "partition"], ["--recipe", "paper", "--mining", "class"]):
        result = invoke(
            "train", "--data", "mnist:/nowhere", "--out", tmp_path / "none", *arguments
        )  # data are not read
        assert result.exit_code == 2
        assert "metric_update must be other than 'partition' with mining 'class'" in " ".join(result.output.split())
        assert not (tmp_path / "none").exists()


def test_features_are_trained_on_without_a_network_and_evaluated(quick_maps, tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = np.eye(3)[y] @ rng.normal(size=(3, 10)) + 0.3 * rng.normal(size=(120, 10))
    np.savez(tmp_path / "f.npz", x=x, y=y)
    result = invoke("train", "--data", f"features:{tmp_path}/f.npz", "--out", tmp_path / "run", *TINY)
    assert result.exit_code == 0, result.output
    assert list(load_file(tmp_path / "run/model.safetensors")) == ["metric.L"]
    result = invoke("evaluate", tmp_path / "f.npz")
    (row,) = rows(result.output)
    expected = report_embedding(x.astype(np.float32), y)
    assert row == ("f.npz", *(f"{100 * value:.2f}" for value in expected.values()))
    np.savez(tmp_path / "nan.npz", x=np.where(x == x[3, 3], np.nan, x), y=y)
    result = invoke("evaluate", tmp_path / "nan.npz")
    assert result.exit_code == 2 and "must be finite, found nan in row 3, column 3" in " ".join(
        result.output.replace("│", " ").split()
    )
    np.savez(tmp_path / "few.npz", x=x[:5], y=y[:5])
    result = invoke("evaluate", tmp_path / "few.npz")
    assert result.exit_code == 0 and re.search(r"│ few.npz +(│ +-?[\d.]+ ){4}│ +– (│ +-?[\d.]+ ){2}│", result.output)
    np.savez(tmp_path / "few.npz", x=x[:1], y=y[:1])
    result = invoke("evaluate", tmp_path / "few.npz")
    assert result.exit_code == 2 and "at least 2 embeddings" in " ".join(result.output.split())
    np.savez(tmp_path / "some.npz", x=x, y=np.where(y == 2, -1, y), more=y)
    lines = ["label,a,b", *(f"{'' if c == 2 else c},{a},{b}" for c, (a, b) in zip(y, x[:, :2], strict=True))]
    (tmp_path / "some.csv").write_text("\n".join(lines))
    for name, features in (("some.npz", x[y < 2]), ("some.csv", x[y < 2, :2])):
        result = invoke("evaluate", tmp_path / name)
        assert result.exit_code == 0 and "left out: 40 of 120 embeddings (no label)" in result.output
        assert ("left out: more (no array x or y of a part)" in result.output) == (name == "some.npz")
        expected = report_embedding(features.astype(np.float32), y[y < 2])
        assert rows(result.output) == [(name, *(f"{100 * value:.2f}" for value in expected.values()))]
    result = invoke("evaluate", tmp_path / "none.npz")
    assert result.exit_code == 2 and "found f.npz" in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("test", "undefined", "has_picture"),
    [
        (np.zeros(20, int), ["nmi", "silhouette"], True),
        (np.arange(8) % 2, ["recall@8"], True),
        (np.array([0, 1, 2]), ["recall@4", "recall@8", "map@r", "silhouette"], False),
        (np.array([2]), list(FIGURES), False),
    ],
)
def test_few_test_examples_or_classes_lose_no_training(quick_maps, tmp_path, test, undefined, has_picture):
    rng, y = np.random.default_rng(0), np.arange(120) % 3
    x, x_test = (4 * np.eye(6)[labels] + rng.normal(size=(len(labels), 6)) for labels in (y, test))
    np.savez(tmp_path / "f.npz", x_train=x, y_train=y, x_test=x_test, y_test=test)
    path = tmp_path / "run"
    result = invoke("train", "--data", f"features:{tmp_path}/f.npz", "--metric-dim", 1, "--out", path, *TINY)
    assert result.exit_code == 0, result.output
    figures = json.loads((path / "results.json").read_text())["test"]
    for row in figures.values():
        assert [name for name, value in row.items() if value is None] == undefined
    assert (path / "embedding.png").exists() == has_picture
    assert ("no picture: a map needs at least 4 test examples" in result.output) == (not has_picture)
    again = invoke("evaluate", path)
    tables = [re.findall(r"│ .*", output) for output in (result.output, again.output)]
    assert again.exit_code == 0 and tables[0] == tables[1] and tables[0][-1].count("–") == len(undefined)
    assert invoke("report", path).exit_code == 0
    assert (path / "report.html").read_text().count("<td>–</td>") == 4 * len(undefined)


def test_a_model_that_overflows_on_a_test_example_loses_no_training(quick_maps, tmp_path, monkeypatch):
    monkeypatch.setattr(MetricModel, "embed", lambda model, images, embed=MetricModel.embed: (
        np.where(np.arange(len(images))[:, None] == 300, np.inf, embed(model, images))
    ))  # fmt: skip
    result = invoke("train", "--out", tmp_path / "run", *TINY)
    assert result.exit_code == 0 and "no picture: a map needs finite embeddings" in result.output
    raw, *others = json.loads((tmp_path / "run/results.json").read_text())["test"].values()
    assert all(raw.values()) and others == [dict.fromkeys(FIGURES)] * 2


def test_what_fails_after_a_training_loses_no_other_figure(quick_maps, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise MemoryError("Unable to allocate 7 GiB")

    monkeypatch.setattr("ssdml_fast.evaluate.silhouette", fails)
    monkeypatch.setattr("ssdml_fast.report.maps.draw_maps", fails)
    result = invoke("train", "--out", tmp_path / "run", *TINY)
    text = " ".join(result.output.split())
    assert result.exit_code == 0 and "no picture: MemoryError: Unable to allocate 7 GiB" in text
    results = json.loads((tmp_path / "run/results.json").read_text())
    for name, row in results["test"].items():
        assert [figure for figure, value in row.items() if value is None] == ["silhouette"]
        note = f"The silhouette of the {name} cannot be computed: MemoryError: Unable to allocate 7 GiB."
        assert note in results["notes"] and note in text


def test_version():
    assert invoke("--version").output.strip() == __version__
