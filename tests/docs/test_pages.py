"""Pages keep their form, and name what there is: public names, settings, commands, files."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import typer

import ssdml_fast as sf
from ssdml_fast.cli.app import app
from ssdml_fast.methods import METHODS, about, load_method

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
API = {
    "kernels": "ssdml_fast",
    "nn": "ssdml_fast.nn",
    "optim": "ssdml_fast.optim",
    "distributed": "ssdml_fast.distributed",
    "reference": "ssdml_fast.reference",
    "train": "ssdml_fast.train",
    "data": "ssdml_fast.data",
    "models": "ssdml_fast.models",
    "evaluate": "ssdml_fast.evaluate",
    "integrations": "ssdml_fast.integrations.pytorch_metric_learning",
}
GUIDE = [
    page for page in sorted((DOCS / "guide").rglob("*.md")) if page.stem not in ("index", "arrays", "command_line")
]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", API)
def test_every_public_name_has_a_page_of_reference(page):
    module = pytest.importorskip(API[page]) if page == "integrations" else importlib.import_module(API[page])
    listed = re.findall(r"^   (\w+)$", (DOCS / f"api/{page}.md").read_text(encoding="utf-8"), re.MULTILINE)
    modules = {name for name in module.__all__ if f"{API[page]}.{name}" in API.values()}
    assert sorted(listed) == sorted(set(module.__all__) - modules - {"__version__"})


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.stem)
def test_a_page_of_the_guide_has_every_section(page):
    text = page.read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert "**What it is.**" in text and "**When to use it.**" in text
    assert {"Complexity and memory", "What did not pay", "References"} <= set(sections)
    assert {"Example", "Examples"} & set(sections)
    if page.stem not in ("data", "estimator", "photographs", "trainer"):  # whose mathematics is that of other pages
        assert "Mathematics" in sections


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_with_its_settings(name):
    text = (DOCS / f"guide/methods/{name}.md").read_text(encoding="utf-8")
    assert f"```{{eval-rst}}\n.. settings:: {name}\n```" in text and f"--method {name}" in text
    authors, title = re.fullmatch(r"(.*?), \"(.*?),?\".*", about(load_method(name))[1]).groups()
    assert f'{authors}, "{title}"' in " ".join(text.split())
    overview = (DOCS / "guide/methods/index.md").read_text(encoding="utf-8")
    assert f"| [`{name}`]({name}.md) |" in overview and re.search(rf"^{name}$", overview, re.MULTILINE)


@pytest.mark.parametrize(
    ("page", "kind"), [("trainer", ""), ("data", " DataSettings"), ("backbones", " NetworkSettings")]
)
def test_settings_beside_those_of_a_method_have_a_table(page, kind):
    text = (DOCS / f"guide/{page}.md").read_text(encoding="utf-8")
    assert f"```{{eval-rst}}\n.. settings::{kind}\n```" in text


def test_the_version_is_the_same_everywhere():
    changes = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert changes[1] == citation[1] == sf.__version__


def test_every_extra_is_listed():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    rows = re.findall(r"^\| (`.*?`) \|", (DOCS / "installation.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(re.findall(r"`([\w-]+)`", " ".join(rows))) == sorted(extras)


def commands():
    """Commands of ``ssdml-fast`` on the pages: page, command, options; test_own_method.py runs those of its page."""
    for page in [page for page in PAGES if page.stem != "own_method"]:
        for line in re.findall(r"^\s*(?:\$ )?(ssdml-fast .*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            words = line.split("#")[0].split()
            yield str(page.relative_to(ROOT)), words[1], [word for word in words if word.startswith("--")]


def test_commands_and_options_on_the_pages_exist():
    known = typer.main.get_command(app).commands
    found = list(commands())
    assert {command for _, command, _ in found} == set(known)
    for page, command, options in found:
        names = {option for parameter in known[command].params for option in parameter.opts} | {"--help"}
        assert set(options) <= names, page


NAMED = [
    (page, name)
    for page in [ROOT / "CONTRIBUTING.md", *sorted((DOCS / "development").glob("*.md")), DOCS / "what_runs_where.md"]
    for name in re.findall(r"`([\w./<>]+/[\w./<>]*)`", page.read_text(encoding="utf-8"))
    if not name.startswith("build/") and (ROOT / ".ci").is_dir() >= name.startswith(".ci/")  # not in the sdist
]


@pytest.mark.parametrize(("page", "name"), NAMED, ids=lambda value: getattr(value, "stem", value))
def test_files_named_on_the_pages_exist(page, name):
    assert (ROOT / name.replace("<op>", "stiefel")).exists()
