"""The README's examples run, one after the other, as a reader would try them."""

import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest
import torch

import ssdml_fast as sf
from ssdml_fast.evaluate import clustering_nmi

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = [
    (name or "kernels", code)
    for name, code in re.findall(r"(?:<!-- example: (.*?) -->\n\n)?```python\n(.*?)```", README.read_text(), re.DOTALL)
]


def run(*kinds):
    """Run the examples of these kinds, in their order, and return the names that they leave."""
    names: dict = {}
    for kind, code in EXAMPLES:
        if kind in kinds:
            exec(code, names)
    return names


def test_the_kernels_examples():
    assert {kind for kind, _ in EXAMPLES} == {"kernels", "loop", "pytorch-metric-learning", "lightning"}
    names = run("kernels")
    assert names["graph"].indices.shape == (9100, 10)
    assert names["affinity"].error_bound <= 1e-6
    assert names["propagated"].error_bound <= 1e-6
    assert len(names["some"]) == 500
    assert len(names["hard"]) == 10_000
    assert names["loss"].isfinite()
    assert names["model"].score(names["X"], names["y"]) > 0.9
    assert (names["L"].T @ names["L"] - torch.eye(64)).abs().max() < 1e-5


def test_the_loop_learns_and_goes_on_in_pytorch_metric_learnings_trainer():
    torch.manual_seed(0)
    names = run("loop")
    net, metric, images, truth = (names[name] for name in ("net", "metric", "images", "truth"))

    def nmi():
        with torch.no_grad():
            return clustering_nmi(metric(names["normalize"](net(images))), truth, n_init=2)

    assert nmi() > clustering_nmi(images, truth, n_init=2) + 0.05
    assert metric.orthogonality_error() < 1e-5
    for kind, code in EXAMPLES:
        if kind == "pytorch-metric-learning":
            before = metric.L.detach().clone()
            exec(code, names)
    assert not torch.equal(metric.L, before)
    assert nmi() > clustering_nmi(images, truth, n_init=2) and metric.orthogonality_error() < 1e-5


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


def test_the_lightning_module_in_a_loop_of_its_style(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", types.SimpleNamespace(LightningModule=LightningModule))
    torch.manual_seed(0)
    names = {"sf": sf, "torch": torch, "normalize": torch.nn.functional.normalize}
    exec(next(code for kind, code in EXAMPLES if kind == "lightning"), names)
    model = names["SSDML"](torch.nn.Linear(20, 8), d=8, l=4)
    found = list(model.fit(lightning_batches()))
    assert sum(found[-10:]) < sum(found[:10]) and model.metric.orthogonality_error() < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="needs lightning")
def test_the_lightning_module_in_lightning(tmp_path):
    import lightning

    names = {"sf": sf, "torch": torch, "normalize": torch.nn.functional.normalize}
    exec(next(code for kind, code in EXAMPLES if kind == "lightning"), names)
    model = names["SSDML"](torch.nn.Linear(20, 8), d=8, l=4)
    before = model.metric.L.detach().clone()
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, logger=False)
    trainer.fit(model, torch.utils.data.DataLoader(lightning_batches(), batch_size=None))
    assert not torch.equal(model.metric.L, before) and model.metric.orthogonality_error() < 1e-5
