"""The example of a method of one's own is short, and goes by the command line as its page says."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssdml_fast.cli.app import app
from ssdml_fast.cli.config_file import ConfigFile
from ssdml_fast.cli.flags import AT_THE_TOP
from ssdml_fast.methods import settings_of

PAGE = (Path(__file__).resolve().parents[2] / "docs/guide/own_method.md").read_text(encoding="utf-8")
SHORT = ["--legs", "2", "--steps", "3"]


def block(kind, start):
    """The block of the page, of one kind, that begins so."""
    return next(
        code for code in re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) if start in code
    )


EXAMPLE = block("python", "class Contrastive(Method)")


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """Call the command in a folder that holds the example."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as the command's own folder is
    (tmp_path / "contrastive.py").write_text(EXAMPLE, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "contrastive", raising=False)
    importlib.invalidate_caches()

    def invoke(line, *more):
        result = CliRunner().invoke(app, [*shlex.split(line)[1:], *more], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.output

    yield invoke
    del sys.modules["contrastive"]


def test_the_example_is_under_sixty_lines():
    lines = [line for line in EXAMPLE.splitlines() if line.strip()]
    assert 30 < len(lines) < 60 and max(map(len, lines)) <= 120


COMMANDS = re.findall(r"^\$ (ssdml-fast .*)$", PAGE, re.MULTILINE)


def test_its_settings_are_listed(invoke):
    told = invoke(COMMANDS[0])
    assert "Hadsell, Chopra, LeCun" in told and re.search(r"^margin +1\.0 +in \(0, 2\] +Distance", told, re.MULTILINE)


def test_the_file_of_the_page(invoke):
    Path("mine.toml").write_text(block("toml", "[method]"), encoding="utf-8")
    file = ConfigFile(Path("mine.toml"))
    read = file.settings(file.method, settings_of(file.method), AT_THE_TOP)
    assert (file.method, read) == ("contrastive:Contrastive", {"seed": "1", "metric_dim": "32", "margin": "0.8"})


@pytest.mark.slow
def test_the_commands_of_the_page(invoke):
    for line in COMMANDS[1:]:
        told = invoke(line, *(SHORT if "--method" in line else []))
        assert ("Kept: the model of validation" in told) == (" train " in line)
    config = json.loads(Path("runs/contrastive/config.json").read_text(encoding="utf-8"))
    found = config["method"], config["settings"]["margin"], config["training"]["seed"]
    assert found == ("contrastive:Contrastive", 0.8, 1)
    assert "margin" in Path("runs/contrastive/report.html").read_text(encoding="utf-8")
