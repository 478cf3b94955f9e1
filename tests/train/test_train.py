"""The whole training on small settings: what must hold of it, whatever the kernels' speed; and resuming it."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssdml_fast.data.digits import load_digits
from ssdml_fast.evaluate import score_embedding
from ssdml_fast.models.metric import untrained
from ssdml_fast.runs.folder import RunError, RunFolder
from ssdml_fast.train import Config, fit, loop
from ssdml_fast.train.config import read_config

# ---- the whole training

TINY = Config(
    rounds=2, partition_size=120, epochs=1, metric_dim=16, warmup=20, augment="affine", mixup=0.2, softmax_weight=0.5
)


@pytest.fixture(scope="module")
def tiny():
    return tiny_digits()


def tiny_digits():
    """400 digits, 10 labels per class, as arguments of fit."""
    data = load_digits(0)
    keep = np.concatenate([np.flatnonzero(data.labels >= 0), np.flatnonzero(data.labels < 0)[:300]])
    return data.images[keep], data.labels[keep], data.val_images, data.val_labels


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 32))

    def forward(self, images):
        return F.normalize(self.layers(images))


def small_net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SmallNet()


def without_times(history):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


@pytest.fixture(scope="module")
def fitted(tiny):
    return fit(small_net(), *tiny, TINY)


def test_training_improves_and_returns_its_best(tiny, fitted):
    assert fitted.stopped == "finished"
    assert len(fitted.history) == 2 + TINY.rounds * 3 == 1 + fitted.best["planned"]
    assert [record.get("round") for record in fitted.history] == [None, 0, 1, 1, 1, 2, 2, 2]
    assert [record["validation"] for record in fitted.history] == list(range(8))
    assert [record["epoch"] for record in fitted.history] == [0, 0, 1, 2, 3, 4, 5, 6]  # passes over partitions
    assert fitted.best["val_nmi"] > fitted.history[0]["val_nmi"] + 0.05
    assert fitted.best["score"] == max(record["score"] for record in fitted.history)
    figures = score_embedding(fitted.model.embed(tiny[2]), tiny[3], ks=(1,))
    assert figures == {"nmi": fitted.best["val_nmi"], "recall@1": fitted.best["val_recall@1"]}


def test_L_stays_orthogonal_and_moves(tiny, fitted):
    assert all(record["orthogonality_error"] <= 1e-5 for record in fitted.history)
    start = untrained(small_net(), tiny[0], TINY.metric_dim, TINY.seed).metric.L
    assert (fitted.model.metric.L - start).abs().max() > 1e-2


def test_training_repeats_exactly_and_leaves_global_generators_alone(tiny, fitted):
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = fit(small_net(), *tiny, TINY)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert without_times(again.history) == without_times(fitted.history)
    for name, tensor in fitted.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    other = fit(small_net(), *tiny, dataclasses.replace(TINY, seed=1, rounds=1))
    assert other.history[1]["loss"] != fitted.history[1]["loss"]


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_a_resumed_training_ends_as_an_uninterrupted_one(tiny, fitted, tmp_path, stop_at):
    def interrupt(record):
        if record["validation"] == stop_at:
            raise KeyboardInterrupt

    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fit(small_net(), *tiny, TINY, run=run, on_validation=interrupt)
    assert len(run.read_checkpoint()["history"]) == stop_at  # the validation that was cut off is not in it
    seen = []
    resumed = fit(small_net(), *tiny, read_config(run), run=run, resume=True, on_validation=seen.append)
    assert [record["validation"] for record in seen] == list(range(stop_at, 8))
    assert without_times(resumed.history) == without_times(fitted.history)
    for name, tensor in fitted.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])
        assert torch.equal(tensor, run.read_model()[name])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == resumed.history


KILLED = """
import os, signal, sys
from test_train import TINY, RunFolder, fit, small_net, tiny_digits

def kill(record):
    if record["done"] == 2 and record["validation"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)

fit(small_net(), *tiny_digits(), TINY, run=RunFolder(sys.argv[1]), on_batch=kill)
"""


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same(tiny, fitted, tmp_path):
    run = RunFolder(tmp_path / "run")
    child = subprocess.run([sys.executable, "-c", KILLED, run.path], cwd=Path(__file__).parent, check=False)
    assert child.returncode == -signal.SIGKILL
    resumed = fit(small_net(), *tiny, read_config(run), run=run, resume=True)
    assert without_times(resumed.history) == without_times(fitted.history)
    for name, tensor in fitted.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


class SmallConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 32))

    def forward(self, images):
        return F.normalize(self.layers(images))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"compile": True}])
def test_other_arithmetic_trains_as_well_and_resumes_to_the_same(tiny, tmp_path, monkeypatch, options):
    compiled, compiler = [], torch.compile

    def quick(network):
        compiled.append(network)
        return compiler(network, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", quick)

    def network():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return SmallConvNet()

    def interrupt(record):
        if record["validation"] == 2:
            raise KeyboardInterrupt

    plain = fit(network(), *tiny, dataclasses.replace(TINY, rounds=1, augment="none"))
    config = dataclasses.replace(TINY, rounds=1, augment="none", **options)
    whole = fit(network(), *tiny, config)
    assert whole.best["score"] > max(whole.history[0]["score"] + 0.03, plain.best["score"] - 0.03)
    change = abs(whole.history[1]["loss"] / plain.history[1]["loss"] - 1)  # rounding, and no more
    assert len(compiled) == 1 and change < 1e-3 if config.compile else 0 < change < 0.02
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fit(network(), *tiny, config, run=run, on_validation=interrupt)
    resumed = fit(network(), *tiny, read_config(run), run=run, resume=True)
    assert without_times(resumed.history) == without_times(whole.history)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


@pytest.mark.slow
def test_the_papers_mining_collapses_and_says_so(tiny):
    config = Config(mining="neighborhood", rounds=20, neighbors=10, metric_dim=16, patience=100, average=0)
    result = fit(small_net(), *tiny, config)
    assert result.stopped == "collapsed"
    assert result.history[-1]["score"] < result.best["score"] - 0.1
    assert result.best["score"] >= result.history[0]["score"]


def test_patience_stops_early(tiny):
    result = fit(
        small_net(), *tiny, dataclasses.replace(TINY, warmup=0, patience=1, learning_rate=1e-12, metric_step=1e-12)
    )
    assert (result.stopped, result.best["validation"], len(result.history)) == ("patience", 0, 2)


def test_the_warm_up_does_not_try_ones_patience(tiny, monkeypatch):
    monkeypatch.setattr(loop, "WARMUP_PART", 5)
    still = dataclasses.replace(TINY, patience=2, learning_rate=1e-12, warmup_rate=1e-12, metric_step=1e-12)
    result = fit(small_net(), *tiny, still)
    assert [record["round"] for record in result.history[1:]] == [0, 0, 0, 0, 1, 1]
    assert (result.stopped, result.best["validation"]) == ("patience", 0)


def test_what_moves_L_decides_whether_it_stays_orthogonal(tiny):
    for update in ("conjugate", "unconstrained"):
        config = dataclasses.replace(TINY, rounds=1, metric_update=update)
        result = fit(small_net(), *tiny, config)
        errors = [record["orthogonality_error"] for record in result.history]
        assert result.best["score"] > result.history[0]["score"]
        assert max(errors) <= 1e-5 if update == "conjugate" else errors[-1] > 1e-3


def test_L_of_a_pass_is_solved_on_all_its_triplets(tiny, monkeypatch):
    solved = []
    solve = loop._Training.solve_metric
    monkeypatch.setattr(
        loop._Training, "solve_metric", lambda training, z, t: solved.append((len(z), len(t))) or solve(training, z, t)
    )
    config = Config(mining="neighborhood", metric_update="partition", rounds=1, metric_dim=16, max_epochs=2, average=0)
    result = fit(small_net(), *tiny, dataclasses.replace(config, epochs=2, neighbors=10, learning_rate=1e-9))
    assert solved == [(400, 2000)] * 2
    start = untrained(small_net(), tiny[0], 16, 0).metric.L
    assert result.history[-1]["orthogonality_error"] <= 1e-5 and (result.model.metric.L - start).abs().max() > 1e-2


@pytest.mark.slow
def test_validations_within_a_pass_change_nothing_else(tiny):
    whole = dataclasses.replace(TINY, rounds=1, warmup=0, max_epochs=2)
    once, often = (fit(small_net(), *tiny, dataclasses.replace(whole, validations=v)) for v in (1, 2))
    assert [record["partition"] for record in often.history[1:]] == [1, 1, 2, 2]
    assert [record["epoch"] for record in often.history] == [0, 1, 1, 2, 2]
    assert often.best["planned"] == 4 and often.stopped == "finished"
    for name in ("score", "val_nmi", "orthogonality_error"):
        assert [record[name] for record in often.history[::2]] == [record[name] for record in once.history]
    per_pass = [record["examples"] for record in once.history[1:]]
    assert [sum(r["examples"] for r in often.history[i : i + 2]) for i in (1, 3)] == per_pass
    each = fit(small_net(), *tiny, dataclasses.replace(whole, validations=3))  # of two mini-batches
    assert (len(each.history), each.stopped) == (5, "finished")
    assert each.history[-1]["score"] == once.history[-1]["score"]


def test_a_part_of_a_pass_without_triplets_is_not_validated():
    rng = np.random.default_rng(0)  # two examples of a class seldom meet in a mini-batch of four
    x, y = rng.standard_normal((300, 8), np.float32), np.where(np.arange(300) < 40, np.arange(300) % 20, -1)
    config = Config(
        seed=1, rounds=1, partition_size=48, epochs=1, metric_dim=4, batch_size=4, validations=5, patience=100
    )
    result = fit(nn.Identity(), x, y, x[:100], np.arange(100) % 20, config)
    passes = 6  # partitions
    assert result.stopped == "finished" and passes < len(result.history) - 1 < passes * config.validations


class ThreeAxes(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 8, (1, 8, 8))

    def forward(self, images):
        return self.layer(images[:, None]).flatten(1)


def test_networks_of_other_axes_train(tiny):
    config = Config(rounds=1, partition_size=300, epochs=1, metric_dim=4, max_epochs=1)
    assert len(fit(ThreeAxes(), *tiny, config).history) == 2


def test_without_rounds_the_warm_up_is_all(tiny, fitted):
    result = fit(small_net(), *tiny, dataclasses.replace(TINY, rounds=0))
    assert (result.stopped, len(result.history)) == ("finished", 2)
    assert result.history[1]["val_nmi"] == fitted.history[1]["val_nmi"]
    result = fit(small_net(), *tiny, dataclasses.replace(TINY, rounds=0, warmup=0))
    assert (result.stopped, result.best["validation"]) == ("finished", 0)


def test_the_rate_follows_the_schedule_and_the_epochs_their_limit(tiny):
    kept = fit(small_net(), *tiny, dataclasses.replace(TINY, rounds=1, warmup=0, max_epochs=2))
    assert (len(kept.history), kept.stopped, kept.best["planned"]) == (3, "finished", 2)
    training = loop._Training(small_net(), *tiny, dataclasses.replace(TINY, warmup=0, learning_rate=0.5))
    np.testing.assert_allclose([training.rate(e) for e in (0, 2, 3, 6)], [0.5, 0.375, 0.25, 0])
    training = loop._Training(small_net(), *tiny, dataclasses.replace(TINY, schedule="constant", learning_rate=0.5))
    assert training.rate(0) == training.rate(6) == 0.5


def test_the_warm_ups_step_grows_and_then_follows_the_schedule(tiny, monkeypatch):
    rates = []
    monkeypatch.setattr(loop._Training, "warmup_step", lambda training, rows, rate: rates.append(rate) or 0.0)
    training = loop._Training(small_net(), *tiny, dataclasses.replace(TINY, warmup=300, warmup_rate=0.5))
    for part in range(training.warmups):
        training.done = part
        training.warm_up(None, None)
    assert (training.warmups, len(rates)) == (2, 300)
    np.testing.assert_allclose(rates[0], 0.5 / 50)
    np.testing.assert_allclose([rates[150], rates[299]], [0.25, 0.25 * (1 + np.cos(np.pi * 299 / 300))])
    assert max(rates) == max(rates[40:50])


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_softmax_learns_beside_the_triplets_by_its_weight(tiny, weight):
    training = loop._Training(small_net(), *tiny, dataclasses.replace(TINY, warmup=0, softmax_weight=weight))
    before = training.softmax.directions.clone()
    training.one_partition(None, None)
    assert (training.softmax.directions != before).any() == (weight > 0)
    record = training.history[-1]
    chosen = record["triplets"] // TINY.triplets_per_example
    labelled = 100 * -(-chosen // TINY.batch_size)  # the 100 in each mini-batch
    assert record["examples"] == chosen + (labelled if weight else 0)


def test_the_softmax_learns_from_blends(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "mix_up", lambda images, classes, most: (2 * images, classes / 2))
    training = loop._Training(small_net(), *tiny, dataclasses.replace(TINY, augment="none", mixup=0.25))
    monkeypatch.setattr(training.softmax, "forward", lambda y, classes: seen.append(classes) or y.sum())
    monkeypatch.setattr(training, "embedded", lambda images: seen.append(images) or torch.zeros(len(images), 32))
    rows = torch.from_numpy(np.flatnonzero(tiny[1] >= 0))
    training.softmax_loss(rows)
    assert torch.equal(seen[0], 2 * training.images[rows])
    assert torch.equal(seen[1], F.one_hot(torch.from_numpy(tiny[1])[rows], 10) / 2)


def test_the_average_follows_the_weights(tiny):
    training = loop._Training(small_net(), *tiny, dataclasses.replace(TINY, average=0.5))
    before = {name: tensor.clone() for name, tensor in training.average.network.state_dict().items()}
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.add_(1)
    training.steps = 1000
    training.update_average()
    for name, tensor in training.average.network.state_dict().items():
        torch.testing.assert_close(tensor, before[name] + 0.5)
    assert torch.equal(training.average.metric.L, training.model.metric.L)


class OverflowingNet(SmallNet):
    def forward(self, images):
        return F.normalize(self.layers(images).exp())


def test_an_infinite_network_is_reported_and_never_returned(tiny, tmp_path):
    run = RunFolder(tmp_path / "run")
    result = fit(OverflowingNet(), *tiny, dataclasses.replace(TINY, learning_rate=100), run=run)
    assert result.stopped == "diverged"
    assert np.isfinite(result.model.embed(tiny[2])).all()
    again = fit(OverflowingNet(), *tiny, read_config(run), run=run, resume=True)
    assert again.stopped == "diverged" and again.history == result.history


class TrainsToNaN(SmallNet):
    def forward(self, images):
        return super().forward(images) * (torch.nan if self.training else 1)


@pytest.mark.parametrize("warmup", [0, 20])
def test_an_embedding_that_is_not_finite_stops_any_step(tiny, warmup):
    result = fit(TrainsToNaN(), *tiny, dataclasses.replace(TINY, warmup=warmup))
    assert (result.stopped, len(result.history)) == ("diverged", 1)
    assert np.isfinite(result.model.embed(tiny[2])).all()


class NaNOf(SmallNet):
    """Embeds one image by NaN."""

    def __init__(self, image):
        super().__init__()
        self.image = torch.from_numpy(image)

    def forward(self, images):
        others = (images != self.image).flatten(1).any(1, keepdim=True)
        return super().forward(images).where(others, torch.nan)


def test_a_network_of_nan_is_named_and_leaves_nothing_to_resume(tiny, tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match=r"^network must embed val_images by finite numbers"):
        fit(NaNOf(tiny[2][7]), *tiny, TINY, run=run)
    assert not run.resumable


def test_an_embedding_that_is_not_finite_is_given_no_graph(tiny):
    unlabelled = tiny[0][np.flatnonzero(tiny[1] < 0)[0]]
    result = fit(NaNOf(unlabelled), *tiny, dataclasses.replace(TINY, augment="none", warmup=0))
    assert result.stopped == "diverged"
    assert np.isfinite(result.model.embed(tiny[2])).all()


@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (0, lambda images: images.astype(np.float64), "images must be a NumPy array of type float32 in native"),
        (0, lambda images: images.astype(images.dtype.newbyteorder()), "in native byte order, found [<>]f4"),
        (0, lambda images: torch.from_numpy(images), "images must be a NumPy array"),
        (1, lambda labels: labels[:-1], "labels must have shape"),
        (1, lambda labels: np.where(labels > 0, -1, labels), "labels must hold at least two classes"),
        (3, lambda labels: labels[:-1], "val_labels must have shape"),
        (3, lambda labels: np.where(labels > 8, -1, labels), r"val_labels must all be known \(at least 0\), found -1"),
        (0, np.ma.masked_array, "^images must have no mask, found a NumPy masked array"),
        (1, np.ma.masked_array, "^labels must have no mask"),
        (2, np.ma.masked_array, "^val_images must have no mask"),
        (3, np.ma.masked_array, "^val_labels must have no mask"),
        (0, lambda images: images.reshape(len(images), -1), "augment must be 'none' for examples that are no images"),
    ],
)  # fmt: skip
def test_bad_data_is_named(tiny, position, change, message):
    arguments = list(tiny)
    arguments[position] = change(arguments[position])
    with pytest.raises((TypeError, ValueError), match=message):
        fit(small_net(), *arguments, TINY)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_validation_images_are_named_before_anything_is_written(tiny, tmp_path, n):
    with pytest.raises(ValueError, match=f"^val_images must hold at least two examples, .* found {n}"):
        fit(small_net(), *tiny[:2], tiny[2][:n], tiny[3][:n], TINY, run=RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_settings_that_do_not_fit_the_data_are_named_before_anything_is_written(tiny, tmp_path):
    run = RunFolder(tmp_path / "run")
    for setting, value in {"neighbors": 200, "metric_dim": 33}.items():
        with pytest.raises(ValueError, match=f"{setting} must be"):
            fit(small_net(), *tiny, dataclasses.replace(TINY, **{setting: value}), run=run)
    assert not (tmp_path / "run").exists()


# ---- run folders


def test_a_checkpoint_of_other_settings_is_refused(tiny, tmp_path):
    run = RunFolder(tmp_path / "run")
    fit(small_net(), *tiny, dataclasses.replace(TINY, rounds=1), run=run)
    with pytest.raises(RunError, match="other settings"):
        fit(small_net(), *tiny, TINY, run=run, resume=True)
    with pytest.raises(RunError, match="must be new or empty"):
        fit(small_net(), *tiny, TINY, run=run)


def test_a_checkpoint_of_a_version_before_0_1_0_is_refused(tiny, tmp_path):
    run, once = RunFolder(tmp_path / "run"), dataclasses.replace(TINY, rounds=1)
    fit(small_net(), *tiny, once, run=run)
    checkpoint = run.read_checkpoint()
    for record in checkpoint["history"]:
        record["epoch"] = record.pop("validation")
    run.write_progress(checkpoint)
    with pytest.raises(RunError, match=r"of a version of ssdml-fast before 0\.1\.0, .*: train again"):
        fit(small_net(), *tiny, once, run=run, resume=True)
