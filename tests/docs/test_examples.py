"""The examples of the README and of every page of docs/ run as a reader would try them: in order, one session a page.

A block of ``python`` is executed; one of ``pycon`` is a session whose answers are compared. A comment above a block, as
``<!-- needs: lightning -->``, names modules, or ``cuda`` for a device, without which it is skipped.
"""

import doctest
import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest
import torch

import ssdml_fast as sf
from ssdml_fast.evaluate import clustering_nmi

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(
    r"(?:^<!-- needs: (?P<needs>.*?) -->\n+)?^```(?P<kind>python|pycon)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
ANSWERS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(path):
    """What each block of a page needs, its kind, its code, and the line that it starts at."""
    text = path.read_text(encoding="utf-8")
    return [
        (found["needs"] or "", found["kind"], found["code"], text.count("\n", 0, found.start("code")))
        for found in FENCE.finditer(text)
    ]


PAGES = {
    str(path.relative_to(ROOT)): blocks(path)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if blocks(path)
}


def lacks(needs):
    """Say which of the things that a block needs are missing."""
    have = {"cuda": torch.cuda.is_available()}
    names = needs.replace(",", " ").split()
    return [name for name in names if not have.get(name, name in sys.modules or importlib.util.find_spec(name))]


def run(page):
    """Run the blocks of a page that can run; returns the names that they leave, and what the others lack."""
    names: dict = {"__name__": "__main__"}
    skipped = []
    torch.manual_seed(0)
    for needs, kind, code, line in PAGES[page]:
        if missing := lacks(needs):
            skipped.append(f"line {line}: needs {', '.join(missing)}")
        elif kind == "python":
            exec(compile("\n" * line + code, page, "exec"), names)  # the line numbers are the page's
        else:
            session = doctest.DocTestParser().get_doctest(code, names, page, page, line)
            runner = doctest.DocTestRunner(optionflags=ANSWERS)
            told: list[str] = []
            failed = runner.run(session, out=told.append, clear_globs=False).failed
            assert not failed, "".join(told)
            names = session.globs
    return names, skipped


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Pages may write files."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page(page):
    names, skipped = run(page)
    if page == "README.md":
        assert not skipped
        check_what_the_loop_learned(names)
    if skipped:
        pytest.skip("; ".join(skipped))


def check_what_the_loop_learned(names):
    metric, images, truth = (names[name] for name in ("metric", "images", "truth"))
    with torch.no_grad():
        embedding = names["embedding"].detach()
    assert clustering_nmi(embedding, truth, n_init=2) > clustering_nmi(images, truth, n_init=2) + 0.05
    assert metric.orthogonality_error() < 1e-5


def test_a_block_that_fails_is_noticed():
    PAGES["wrong"] = [("", "pycon", ">>> 1 + 1\n3\n", 0)]
    try:
        with pytest.raises(AssertionError, match=r"Expected:\s+3"):
            run("wrong")
        PAGES["wrong"] = [("", "python", "1 / 0\n", 0)]
        with pytest.raises(ZeroDivisionError):
            run("wrong")
    finally:
        del PAGES["wrong"]


# --- Lightning, or as much of it as its page needs --------------------------------------------------------------------


class LightningModule(torch.nn.Module):
    """As much of Lightning's as the example's automatic optimisation needs."""

    def fit(self, batches):
        configured = self.configure_optimizers()
        optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]
        for i, batch in enumerate(batches):
            loss = self.training_step(batch, i)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            yield loss.item()


def lightning_batches():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, 20, generator=generator)
    triplets = sf.mine_class_triplets(torch.eye(3)[torch.arange(60) % 3], 400, seed=1)
    return [(images + torch.arange(60)[:, None] % 3, batch) for batch in triplets.split(10)]


def lightning_module():
    names: dict = {}
    exec(next(code for _, _, code, _ in PAGES["docs/integrations/lightning.md"] if "LightningModule" in code), names)
    torch.manual_seed(0)
    return names["SSDML"](torch.nn.Linear(20, 8), d=8, l=4)


def test_the_lightning_module_in_a_loop_of_its_style(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", types.SimpleNamespace(LightningModule=LightningModule))
    model = lightning_module()
    found = list(model.fit(lightning_batches()))
    assert sum(found[-10:]) < sum(found[:10]) and model.metric.orthogonality_error() < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="needs lightning")
def test_the_lightning_module_in_lightning(tmp_path):
    import lightning

    model = lightning_module()
    before = model.metric.L.detach().clone()
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, logger=False)
    trainer.fit(model, torch.utils.data.DataLoader(lightning_batches(), batch_size=None))
    assert not torch.equal(model.metric.L, before) and model.metric.orthogonality_error() < 1e-5
