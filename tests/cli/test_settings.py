"""Settings on the command line: of whatever method is named, as flags and in files; lists of methods; folders."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from ssdml_fast._settings import told
from ssdml_fast.cli import train
from ssdml_fast.cli.app import app
from ssdml_fast.cli.flags import value_of
from ssdml_fast.data.settings import DataSettings
from ssdml_fast.methods import METHODS, about, load_method, settings_of
from ssdml_fast.models.settings import NetworkSettings
from ssdml_fast.train.config import Config
from ssdml_fast.train.stored import StoredTraining

TINY = ["--rounds", "1", "--epochs", "1"]
OWN = '''
from dataclasses import dataclass

import torch
from ssdml_fast.train import Batch, Leg, Method, Settings, Work, setting


@dataclass(frozen=True)
class MarginSettings(Settings):
    margin: float = setting(0.5, "Distance that is far [enough].", within="(0, 2]")
    passes: int = setting(1, "Passes over the labelled examples.", least=1)
    squared: bool = setting(True, "Square distances.")
    rounding: str = setting("none", "How to round.", choices=("none", "up"))


class Margin(Method):
    """Pulls labelled examples of a class together, and others apart.

    Source: Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping",
    CVPR 2006.
    """

    Settings = MarginSettings

    def legs(self):
        return [Leg("pass", (i,), round=i + 1) for i in range(self.settings.passes)]

    def prepare(self, leg, aid):
        rows = torch.from_numpy(self.data.labelled)
        return Work(lambda rng: iter([Batch(rows)]), 1)

    def loss(self, batch, aid):
        y, classes = aid.head(aid.embed(batch.rows)), aid.send(torch.from_numpy(self.data.labels)[batch.rows])
        distance = torch.cdist(y, y)
        distance = torch.where(classes[:, None] == classes, distance, (self.settings.margin - distance).clamp(min=0))
        return (distance.square() if self.settings.squared else distance).mean()


@dataclass(frozen=True)
class TakenSettings(Settings):
    out: int = setting(0, "A name that is taken.")


class Taken(Margin):
    Settings = TakenSettings


@dataclass(frozen=True)
class SeedSettings(Settings):
    seed: int = setting(0, "A name of the engine's.")


class Seed(Margin):
    Settings = SeedSettings


@dataclass(frozen=True)
class BareSettings(Settings):
    margin: float = 0.5


class Bare(Margin):
    Settings = BareSettings


class NoSettings(Margin):
    Settings = dict
'''


def invoke(*arguments, columns=200):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": str(columns)})


def text_of(result):
    return " ".join(result.output.split())


def stored(path):
    return json.loads((path / "config.json").read_text())


@pytest.fixture(autouse=True)
def elsewhere(quick_maps, tmp_path, monkeypatch):
    """Each test in a folder of its own, which holds a method."""
    (tmp_path / "own_method.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_method", raising=False)


def refused(*arguments):
    """The one line that refuses arguments; nothing is left behind."""
    result = invoke(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return text_of(result)


# --- flags ------------------------------------------------------------------------------------------------------------


def panels(output):
    """The options of each group of ``--help``."""
    groups = re.split(r"╭─ (.+?) ─+╮", output)[1:]
    return {
        title: set(re.findall(r"^│ (--[\w-]+)", text, re.MULTILINE))
        for title, text in zip(groups[::2], groups[1::2], strict=True)
    }


def flags(kind):
    return {f"--{each.name.replace('_', '-')}" for each in told(kind)}


@pytest.mark.parametrize("method", METHODS)
def test_help_has_the_settings_of_the_method_and_of_every_method(method):
    result = invoke("train", "--method", method, "--help")
    found = panels(result.output)
    assert found[f"Settings of {method}"] == flags(settings_of(method))
    assert found["Settings of every method"] == flags(Config)
    assert found["The data"] == flags(DataSettings) and found["The network"] == flags(NetworkSettings)
    assert found["Options"] >= {"--config", "--recipe", "--resume", "--out", "--method", "--strict"}
    for each in [*told(settings_of(method)), *told(Config), *told(DataSettings), *told(NetworkSettings)]:
        assert " ".join(each.help.split()[:3]) in text_of(result)
    assert "[method]" in text_of(result)


def test_help_without_a_method_is_that_of_ssdml():
    assert invoke("train", "--help").output == invoke("train", "--method", "ssdml", "--help").output


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "--method=ssdml", "--help"]])
def test_help_imports_no_torch(arguments):
    code = f"import sys; from ssdml_fast.cli.app import app; app({arguments}, standalone_mode=False); " + (
        "assert not {'torch', 'sklearn', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_without_an_argument_ssdml_trains_by_its_defaults(tmp_path, monkeypatch):
    begun = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "_run", lambda *given, is_new: begun.append(given[4]))
    result = invoke("train")
    assert result.exit_code == 0, result.output
    assert begun == [StoredTraining("ssdml", settings_of("ssdml")(), Config())]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [("", None), ("--a", None), ("--a 1", "1"), ("--a=1", "1"), ("--a 1 --a 2", "2"), ("--b 1 -- --a 2", None)],
)
def test_what_is_looked_for_before_the_options_are_read(arguments, value):
    assert value_of("--a", arguments.split()) == value


def test_a_method_of_ones_own_has_its_flags_and_trains(tmp_path):
    found = panels(invoke("train", "--help", "--method", "own_method:Margin").output)
    assert found["Settings of own_method:Margin"] == {"--margin", "--passes", "--squared", "--rounding"}
    assert "far [enough]" in invoke("train", "--method", "own_method:Margin", "--help").output
    arguments = ["--method=own_method:Margin", "--margin", 1, "--no-squared", "--passes", 2, "--device", "cpu"]
    result = invoke("train", *arguments, "--out", "run")
    assert result.exit_code == 0, result.output
    content = stored(tmp_path / "run")
    assert content["method"] == "own_method:Margin"
    assert content["settings"] == {"margin": 1.0, "passes": 2, "squared": False, "rounding": "none"}
    assert content["training"] == dataclasses.asdict(Config(device="cpu"))
    assert "own_method:Margin on cpu" in result.output
    assert re.search(r"validation  2 of 2  round 2 +loss", result.output)
    assert invoke("evaluate", "run").exit_code == 0
    assert "round 2" not in invoke("train", "--resume", "run", "--device", "cpu").output  # it was finished


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "sdml"], "method must be one of ssdml, .* found 'sdml'; did you mean 'ssdml'?"),
        (["--method", "nowhere:Class"], "method nowhere:Class cannot be loaded: ModuleNotFoundError: No module named"),
        (["--method", "own_method:None_"], "own_method:None_ cannot be loaded: AttributeError"),
        (["--method", ":"], "method : cannot be loaded"),
        (["--method", "broken:Class"], "method broken:Class cannot be loaded: SyntaxError"),
        (["--method", "own_method:dataclass"], "method must be a subclass of ssdml_fast.train.Method"),
        (["--method", "own_method:Taken"], "own_method:Taken must have settings of other names, found out"),
        (["--method", "own_method:Seed"], "SeedSettings must have no setting of Config's, found seed"),
        (["--method", "own_method:Bare"], "BareSettings.margin must be an int, float, str or bool that is declared by"),
        (["--method", "own_method:NoSettings"], "NoSettings.Settings must be a dataclass made from Settings"),
        (["--method", "own_method:Margin", "--rounds", 1], "--rounds must be a setting of own_method:Margin, .* ssdml"),
        (["--method=own_method:Margin", "--max-epochs=3"], "--max-epochs must be a setting of own_method:Margin"),
        (["--method", "own_method:Margin", "--margin", 3], r"margin must be in \(0, 2\], found 3.0"),
        (["--method", "own_method:Margin", "--recipe", "paper"], "recipe must be 'default' for the method own_method"),
        (["--margin", 1], "No such option:? '?--margin"),
        (["--device", "gpu"], "device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', found 'gpu'"),
        (["--precision", "float16", "--device", "cpu"], "precision must be 'float32' or 'bfloat16' on cpu"),
        (["--workers", "-1"], "workers must be at least 0"),
        (["--select", "best"], "select must be one of 'validation', 'last'"),
    ],
)
def test_a_bad_method_or_setting_is_one_clear_error(tmp_path, arguments, message):
    (tmp_path / "broken.py").write_text("def")
    before = sorted(tmp_path.iterdir())
    assert re.search(message, refused("train", *arguments).replace("│ ", ""))
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before


# --- files ------------------------------------------------------------------------------------------------------------


def as_toml(settings):
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())


@pytest.mark.parametrize("method", [*METHODS, "own_method:Margin"])
def test_the_settings_of_a_run_written_as_a_file_train_the_same(tmp_path, method):
    short = TINY if method == "ssdml" else ["--passes", 1, "--rounding", "up", "--no-squared"]
    result = invoke("train", "--method", method, *short, "--learning-rate", 2e-5, "--seed", 3, "--out", "run")
    assert result.exit_code == 0, result.output
    content = stored(tmp_path / "run")
    file = as_toml(content["training"]) + "\n[method]\n" + as_toml({"name": content["method"]} | content["settings"])
    (tmp_path / "my.toml").write_text(file)
    result = invoke("train", "--config", "my.toml", "--out", "again")
    assert result.exit_code == 0, result.output
    assert stored(tmp_path / "again") == content
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "run/model.safetensors").read_bytes()


def test_files_without_a_table_are_read_too_and_flags_override_them(tmp_path):
    (tmp_path / "flat.toml").write_text(
        "rounds = 1\nepochs = 3\ngamma = 0.8\nlearning_rate = 1\nlabels_per_class = 5\n"
    )
    (tmp_path / "table.toml").write_text(
        'learning_rate = 1\nlabels_per_class = 5\n[method]\nname = "ssdml"\nrounds = 1\nepochs = 3\ngamma = 0.8\n'
    )
    contents = []
    for name in ("flat", "table"):
        arguments = ["--epochs", 1, "--learning-rate", 1e-3, "--out", name]
        result = invoke("train", f"--config={name}.toml", *arguments)
        assert result.exit_code == 0, result.output
        contents.append(stored(tmp_path / name))
    assert contents[0] == contents[1]
    settings, training = contents[0]["settings"], contents[0]["training"]
    assert (settings["rounds"], settings["epochs"], settings["gamma"]) == (1, 1, 0.8)
    assert training["learning_rate"] == 1e-3 and contents[0]["dataset"]["labels_per_class"] == 5


def test_a_flag_names_another_method_than_the_file(tmp_path):
    (tmp_path / "my.toml").write_text('[method]\nname = "ssdml"\n')
    result = invoke("train", "--config", "my.toml", "--method", "own_method:Margin", "--out", "run")
    assert result.exit_code == 0 and stored(tmp_path / "run")["method"] == "own_method:Margin"
    (tmp_path / "my.toml").write_text('[method]\nname = "ssdml"\nrounds = 1\n')
    message = refused("train", "--config", "my.toml", "--method", "own_method:Margin")
    assert "my.toml has rounds under [method], a setting of ssdml, not of own_method:Margin" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds = ", "my.toml cannot be read"),
        ("rounds = " + "[" * 20000, "my.toml cannot be read"),
        ("round = 1", "has an unknown setting 'round'; did you mean 'rounds'?"),
        ("colour = 1", "has an unknown setting 'colour'; known: alpha"),
        ("[training]\nrounds = 1", "has an unknown setting 'training'"),
        ("resume = 'x'", "has an unknown setting 'resume'"),
        ("config_file = 'x'", "has an unknown setting 'config_file'"),
        ("rounds = true", "must give an integer for rounds, found True"),
        ("rounds = 1.5", "must give an integer for rounds, found 1.5"),
        ("rounds = '1'", "must give an integer for rounds, found '1'"),
        ("gamma = '0.5'", "must give a number for gamma, found '0.5'"),
        ("gamma = [0.5]", "must give a number for gamma, found [0.5]"),
        ("augment = 1", "must give a text for augment, found 1"),
        ("compile = 1", "must give true or false for compile, found 1"),
        ("labels_per_class = 'x'", "labels_per_class must be 'all' or an integer of at least 1, found 'x'"),
        ("labels_per_class = 1.5", "must give a text for labels_per_class, found 1.5"),
        ("data = 1", "must give a text for data, found 1"),
        ("gamma = 2", "gamma must be between 0 and 1"),
        ("data = 'nothing:x'", "found 'nothing:"),
        ("method = 'ssdml'", "must give the method as a table, [method] with name = \"...\", found 'ssdml'"),
        ("[method]\nname = 1", "must give a text for name under [method], found 1"),
        ("[method]\nname = 'sdml'", "found 'sdml'; did you mean 'ssdml'?"),
        ("[method]\nround = 1", "has an unknown setting 'round' under [method]; did you mean 'rounds'?"),
        ("[method]\nseed = 1", "has seed under [method]; it belongs above, at the top"),
        ("[method]\ndata = 'digits'", "has data under [method]; it belongs above, at the top"),
        ("[method]\nrounds = 1.5", "must give an integer for rounds, found 1.5"),
        ("rounds = 1\n[method]\nrounds = 1", "has rounds twice, under [method] and at the top"),
        (
            "rounds = 1\n[method]\nname = 'own_method:Margin'",
            "has rounds, a setting of ssdml, not of own_method:Margin",
        ),
    ],
)
def test_a_bad_config_file_is_one_clear_error(tmp_path, text, message):
    (tmp_path / "my.toml").write_text(text)
    assert message in refused("train", "--config", "my.toml", "--out", "run").replace("│ ", "")
    assert not (tmp_path / "run").exists()


# --- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [20, 200])
def test_methods_are_listed_with_their_sources_and_nothing_is_cut(columns):
    result = invoke("methods", columns=columns)
    assert result.exit_code == 0
    for name in METHODS:
        line, source = about(load_method(name))
        assert re.search(rf"^{name} +{re.escape(line)}$", result.output, re.MULTILINE)
        assert source and re.search(rf"^ +Source: {re.escape(source)}$", result.output, re.MULTILINE)


@pytest.mark.parametrize("name", [*METHODS, "own_method:Margin"])
def test_the_settings_of_a_method_are_listed(name):
    result = invoke("methods", name, columns=20)
    assert result.exit_code == 0, result.output
    for each in told(load_method(name).Settings):
        wanted = rf"^{each.name} +{each.default} +{re.escape(each.limits)} +{re.escape(each.help)}$"
        assert re.search(wanted, result.output, re.MULTILINE), each.name
    if name == "own_method:Margin":
        assert 'Source: Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR' in (
            result.output
        )
    assert "did you mean 'ssdml'" in refused("methods", "ssdm")


# --- folders and data -------------------------------------------------------------------------------------------------


def test_runs_without_a_name_have_a_folder_each(tmp_path):
    for _ in range(2):
        assert invoke("train", *TINY).exit_code == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.parametrize("arguments", [["--neighbors", 5000], ["--data", "mnist:/nowhere"], ["--metric-dim", 999]])
def test_what_is_refused_leaves_no_folder(tmp_path, arguments):
    refused("train", *arguments)
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs/other").mkdir(parents=True)
    refused("train", *arguments)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


def interrupted(*arguments):
    raise KeyboardInterrupt


def test_what_is_stopped_before_its_first_save_leaves_no_folder_of_the_commands_own(tmp_path, monkeypatch):
    monkeypatch.setattr("ssdml_fast.train.engine.Engine.to_the_end", interrupted)
    result = invoke("train", *TINY)
    assert result.exit_code == 130 and "Stopped before there was anything to save." in result.output
    assert not (tmp_path / "runs").exists()
    assert invoke("train", "--out", "run", *TINY).exit_code == 130
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert invoke("train", "--out", "run", *TINY).exit_code == 0  # it can be used again


def test_the_last_model_is_kept_where_that_is_asked_for():
    result = invoke("train", "--select", "last", "--out", "run", *TINY)
    assert result.exit_code == 0 and "Kept: the model of validation 2, the last." in result.output


def write_features(path, seed=0):
    rng, y = np.random.default_rng(seed), np.arange(120) % 3
    np.savez(path, x=4 * np.eye(6)[y] + rng.normal(size=(120, 6)), y=y)


def test_a_run_whose_data_have_moved_is_resumed_and_evaluated_where_they_lie(tmp_path, monkeypatch):
    write_features(tmp_path / "old.npz")
    result = invoke("train", "--data", "features:old.npz", "--out", "run", *TINY)
    assert result.exit_code == 0, result.output
    (tmp_path / "old.npz").rename(tmp_path / "new.npz")
    assert "old.npz" in refused("train", "--resume", "run")
    refused("evaluate", "run")
    again = invoke("train", "--resume", "run", "--data", "features:new.npz", "--device=cpu", "--workers", 0)
    assert again.exit_code == 0, again.output
    evaluated = invoke("evaluate", "run", "--data", "features:new.npz")
    tables = [re.findall(r"│ .*", each.output) for each in (result, again, evaluated)]
    assert tables[0] == tables[1] == tables[2] != []
    monkeypatch.setattr("ssdml_fast.train.engine.Engine.to_the_end", interrupted)
    stopped = invoke("train", "--resume", "run", "--data", "features:new.npz")
    assert "\n  ssdml-fast train --resume run --data features:new.npz\n" in stopped.output
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    write_features(tmp_path / "other.npz", seed=1)
    message = refused("train", "--resume", "run", "--data", "features:other.npz")
    assert "it was trained on other data: the training examples differ" in message
    assert "data must be given with a run folder alone" in refused("evaluate", "new.npz", "--data", "features:new.npz")


def test_resuming_takes_no_other_setting(tmp_path):
    assert invoke("train", "--out", "run", *TINY).exit_code == 0
    (tmp_path / "my.toml").write_text("seed = 1\n")
    for arguments, found in [
        (["--seed", 1], "seed"),
        (["--rounds", 2, "--device", "cpu"], "rounds"),
        (["--method", "ssdml"], "method"),
        (["--config", "my.toml"], "config, seed"),
        (["--recipe", "paper", "--labels-per-class", 5], "labels_per_class, recipe"),
    ]:
        message = refused("train", "--resume", "run", *arguments)
        assert re.search(rf"resume takes every setting from the run; found also {found} │", message), message
    assert "there is no run folder" in refused("train", "--resume", "none")
