"""The site builds without a warning, and the README's links lead to what is in the tree."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
SITE, SOURCE = URLS["Documentation"], URLS["Source"]
RAW = SOURCE.replace("https://github.com", "https://raw.githubusercontent.com") + "/main/"
WITHOUT_DOCS = [name for name in ("sphinx", "myst_parser", "numpydoc") if importlib.util.find_spec(name) is None]


def links(text):
    """Where Markdown links and pictures lead; code is left out."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"<(https?://[^>\s]+)>", text)


README_LINKS = links((ROOT / "README.md").read_text(encoding="utf-8"))


def in_the_tree(link):
    """The file that a link to the project's site or source stands for; None for one that leads elsewhere."""
    path = link.split("#")[0]
    if path.startswith(SITE):
        page = path.removeprefix(SITE).removesuffix(".html") or "index"
        return ROOT / "docs" / f"{page}.md"
    for start in (f"{SOURCE}/blob/main/", f"{SOURCE}/tree/main/", RAW):
        if path.startswith(start):
            return ROOT / path.removeprefix(start)
    return ROOT if path.startswith(SOURCE) else None


@pytest.mark.parametrize("link", README_LINKS)
def test_links_of_the_readme_hold_on_the_package_index(link):
    assert link.startswith("https://"), "the package index has no files beside the README"
    found = in_the_tree(link)
    assert found is None or found.exists()


def test_the_readme_links_to_the_site_and_its_pictures():
    found = [in_the_tree(link) for link in README_LINKS]
    assert any(path and path.suffix == ".png" for path in found)
    assert sum(bool(path and path.suffix == ".md") for path in found) >= 5


def test_the_readme_is_for_newcomers():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_papers_of_the_project_link_to_files_that_exist():
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        for link in links((ROOT / name).read_text(encoding="utf-8")):
            found = in_the_tree(link) if link.startswith("https://") else ROOT / link.split("#")[0]
            assert found is None or found.exists(), f"{name}: {link}"


@pytest.mark.slow
@pytest.mark.skipif(bool(WITHOUT_DOCS), reason=f"needs the extra docs: {', '.join(WITHOUT_DOCS)}")
def test_the_site_builds_without_a_warning(tmp_path):
    built = subprocess.run([ROOT / ".ci" / "docs", tmp_path], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for page in ("index.html", "api/generated/ssdml_fast.knn_graph.html"):
        assert (tmp_path / page).is_file()
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loads = re.findall(r'<(?:script|link|img)\b[^>]*(?:src|href)="(https?://[^"]*)', text)
        assert not loads, f"{page.name} loads something from elsewhere"
