"""A training goes on where it was stopped, once at a time, and with its own data alone."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from trainings import TINY, CutOff, assert_same, cut_off, interrupt, train

from ssdml_fast.data.dataset import Source
from ssdml_fast.data.examples import as_examples
from ssdml_fast.models.networks import Normalize
from ssdml_fast.models.seeded import seeded
from ssdml_fast.runs import files
from ssdml_fast.runs.fingerprint import PARTS, difference, fingerprint
from ssdml_fast.runs.folder import RunError, RunFolder
from ssdml_fast.train import Config, engine, fit
from ssdml_fast.train.engine import Engine

SETTINGS = {"rounds": 1, "epochs": 1, "neighbors": 3}


@pytest.fixture
def data():
    """Bytes of three classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = (100 * np.eye(3, 6)[labels] + rng.uniform(1, 50, (90, 6))).astype(np.uint8)
    return Source(("a", "b", "c"), images, labels).split(labels_per_class=4)


def prepared(data, factor=1.0):
    """As a network takes them; by another factor, as another machine rounds."""
    return data.map(lambda part: part.astype(np.float32) * np.float32(factor))


def test_each_part_has_its_own():
    x, y = np.zeros((3, 2), np.float32), np.array([0, 1, -1])
    whole = fingerprint(as_examples(x, "x"), y, as_examples(x + 1, "x"), y)
    assert list(whole) == ["train", "labels", "val", "val_labels"] == list(PARTS)
    assert difference(whole, dict(whole)) is None
    others = {
        "train": fingerprint(as_examples(x + 2, "x"), y, as_examples(x + 1, "x"), y),
        "labels": fingerprint(as_examples(x, "x"), y + 2**40, as_examples(x + 1, "x"), y),
        "val": fingerprint(as_examples(x, "x"), y, as_examples(x + 2, "x"), y),
        "val_labels": fingerprint(as_examples(x, "x"), y, as_examples(x + 1, "x"), y[::-1]),
    }
    for part, other in others.items():
        assert difference(whole, other) == PARTS[part]
        assert [name for name in whole if whole[name] != other[name]] == [part]
    assert difference(whole, fingerprint(as_examples(x, "x"), y)) == PARTS["val"]


def test_a_data_set_knows_what_it_was_decoded_as(data):
    assert data.decoded is None
    assert prepared(data).decoded is data and prepared(prepared(data)).decoded is data


@pytest.fixture
def interrupted(data, tmp_path, monkeypatch):
    """A training cut off after its first checkpoint."""

    def stop(self, *arguments):
        raise KeyboardInterrupt

    run = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Engine, "one_leg", stop)
        fit(Normalize(), prepared(data), settings=SETTINGS, config=Config(metric_dim=3), device="cpu", run=run)
    return run


def test_a_training_goes_on_where_the_data_were_prepared_by_other_rounding(data, interrupted):
    factor = np.nextafter(np.float32(1), np.float32(2))
    assert (prepared(data, factor).images != prepared(data).images).any()
    assert fit(Normalize(), prepared(data, factor), run=interrupted, resume=True).stopped == "finished"


@pytest.mark.parametrize("part", ["images", "labels", "val_images", "val_labels"])
def test_a_training_does_not_go_on_with_other_data(data, interrupted, part):
    array = getattr(data, part).copy()
    array[:2] = array[1::-1]
    if part == "labels":
        array = np.where(array < 0, array, (array + 1) % 3)
    assert (array != getattr(data, part)).any()
    what = dict(zip(("images", "labels", "val_images", "val_labels"), PARTS.values(), strict=True))[part]
    with pytest.raises(RunError, match=f"it was trained on other data: {what} differ"):
        fit(Normalize(), prepared(dataclasses.replace(data, **{part: array})), run=interrupted, resume=True)


@pytest.mark.skipif(not sys.platform.startswith(("linux", "darwin")), reason="folders have no locks here")
def test_a_training_that_goes_on_is_not_resumed_besides(data, interrupted):
    files = {path.name: path.read_bytes() for path in interrupted.path.iterdir()}
    with RunFolder(interrupted.path).lock(), pytest.raises(RunError, match="is in use by another training"):
        fit(Normalize(), prepared(data), run=interrupted, resume=True)
    assert {path.name: path.read_bytes() for path in interrupted.path.iterdir()} == files
    assert fit(Normalize(), prepared(data), run=interrupted, resume=True).stopped == "finished"


@pytest.mark.parametrize("refused", ["nothing saved", "not begun"])
def test_a_folder_of_a_training_that_came_to_nothing_is_used_again(data, tmp_path, monkeypatch, refused):
    def stop(self, *arguments):
        raise KeyboardInterrupt

    run, options = RunFolder(tmp_path / "run"), {"settings": SETTINGS, "config": Config(metric_dim=3), "device": "cpu"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if refused == "nothing saved":
            patch.setattr(RunFolder, "write_progress", stop)
        else:
            patch.setattr(RunFolder, "create", stop)
        fit(Normalize(), prepared(data), run=run, **options)
    assert run.path.exists() == (refused == "nothing saved")  # a folder that stays empty goes again
    assert fit(Normalize(), prepared(data), run=run, **options).stopped == "finished"
    with pytest.raises(RunError, match="must be new or empty"):
        fit(Normalize(), prepared(data), run=run, **options)


# --- within a leg -----------------------------------------------------------------------------------------------------

BRIEF = TINY | {"rounds": 1, "warmup": 4}
OF_NEIGHBORHOODS = {"mining": "neighborhood", "batch_size": 400, "epochs": 2}  # triplets


class Drawing(nn.Module):
    """Keeps statistics of what it learns from, and draws at random."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 32)
        )

    def forward(self, images):
        return F.normalize(self.layers(images))


def trained(settings, run=None, on_batch=None, resume=False):
    return train(settings, seeded(Drawing, 0), run=run, on_batch=on_batch, resume=resume)


def waits_and_scales(monkeypatch):
    """As on a device, with precision float16: a loss is no number before it is read."""
    scaler = functools.partial(torch.amp.GradScaler, growth_interval=2)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda kind, enabled: scaler(kind))
    begin = Engine.__init__

    def patched(self, *arguments):
        begin(self, *arguments)
        self.looks = False

    monkeypatch.setattr(Engine, "__init__", patched)


@pytest.mark.parametrize(
    ("settings", "patched"),
    [
        ({"optimizer": "sgd", "average": 0.9, "augment": "strong", "epochs": 2, "validations": 2}, None),
        ({"metric_update": "partition", "validations": 2} | OF_NEIGHBORHOODS, None),
        ({"metric_update": "conjugate", "average": 0.0} | OF_NEIGHBORHOODS, None),
        ({"workers": 1}, None),
        ({"select": "last", "validations": 3, "batch_size": 40}, waits_and_scales),
    ],
    ids=["momentum", "partition", "conjugate", "workers", "scaled"],
)
def test_cut_off_anywhere_it_goes_on_there_to_the_same(settings, patched, tmp_path, monkeypatch):
    if patched:
        patched(monkeypatch)
    monkeypatch.setattr(engine, "SAVED_EVERY", 0)
    at_once, told, run = [], [], RunFolder(tmp_path / "run")
    whole = trained(BRIEF | settings, on_batch=cut_off(told=at_once))
    rng = np.random.default_rng(len(at_once))
    stop = cut_off(*rng.integers(1, max(2, len(at_once) // 3), 5), told=told)
    for resume in (False, True, True):
        with pytest.raises(CutOff):
            trained(BRIEF | settings, run, stop, resume)
    resumed = None
    while resumed is None:
        with contextlib.suppress(CutOff):
            resumed = trained(BRIEF | settings, run, stop, resume=True)
    assert told == at_once
    assert_same(resumed, whole)


def test_what_a_validation_is_taken_in_goes_on_before_or_after_it(tmp_path, monkeypatch):
    """Stopped as it is computed, or told of."""
    settings = BRIEF | {"validations": 2, "epochs": 2}
    whole, run, stop = trained(settings), RunFolder(tmp_path / "run"), True

    def interrupted(*arguments, **options):
        nonlocal stop
        stop = not stop
        if stop:
            raise KeyboardInterrupt
        return scored(*arguments, **options)

    scored = engine.score_embedding
    monkeypatch.setattr(engine, "score_embedding", interrupted)
    resume, stops = False, 0
    while True:
        try:
            resumed = train(settings, seeded(Drawing, 0), run=run, resume=resume, on_validation=interrupt(3))
            break
        except KeyboardInterrupt:
            resume, stops = True, stops + 1
    assert stops == len(whole.history) - 1 + 1
    assert_same(resumed, whole)


def test_a_halfway_step_is_not_saved(tmp_path, monkeypatch):
    """What its loss has moved before it was stopped is forgotten."""
    whole, run, step, steps = trained(BRIEF), RunFolder(tmp_path / "run"), Engine.step, []

    def halfway(self, *arguments):
        loss = step(self, *arguments)
        steps.append(loss)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return loss

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Engine, "step", halfway)
        trained(BRIEF, run)
    assert not run.within.exists()
    assert_same(trained(BRIEF, run, resume=True), whole)


@pytest.fixture
def stopped(tmp_path):
    """A training stopped within its second leg, and its whole."""
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(BRIEF, seeded(Drawing, 0), run=run, on_batch=interrupt(2, done=2))
    assert run.within.exists() and run.read_checkpoint()["done"] == 1
    return run


def test_another_legs_is_ignored_and_goes(stopped):
    state = torch.load(stopped.within, weights_only=True)
    torch.save(state | {"checkpoint": "another", "steps": -1}, stopped.within)
    told = []
    resumed = trained(BRIEF, stopped, on_batch=cut_off(told=told), resume=True)
    assert told[0] == (2, 1) and not stopped.within.exists()
    assert_same(resumed, trained(BRIEF))


def test_a_crash_between_two_files_is_harmless(stopped, monkeypatch):
    """After each file that is written, from here to the next leg and its end."""
    replace, left = files.replace_atomically, 0

    def crash(path, write):
        nonlocal left
        if left == 0:
            raise CutOff
        left -= 1
        replace(path, write)

    monkeypatch.setattr(engine, "SAVED_EVERY", 0)
    whole, resumed, crashes = trained(BRIEF), None, 0
    monkeypatch.setattr(files, "replace_atomically", crash)
    while resumed is None:
        left = crashes % 5 + 1
        try:
            resumed = trained(BRIEF, stopped, resume=True)
        except CutOff:
            crashes += 1
    assert crashes > 5
    assert_same(resumed, whole)
    assert stopped.read_history() == resumed.history


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path, state: path.write_bytes(path.read_bytes()[:-100]), "is damaged"),
        (lambda path, state: torch.save([1], path), "is damaged: it must hold a table"),
        (lambda path, state: torch.save(state | {"best_model": 3}, path), "is damaged: its best_model"),
        (lambda path, state: torch.save(state | {"examples": -1}, path), "does not fit: examples"),
        (lambda path, state: torch.save(state | {"seconds": {"train": None}}, path), "does not fit: .*seconds"),
        (lambda path, state: torch.save(state | {"place": {"leg": 2}}, path), "does not fit: .*leg"),
        (lambda path, state: torch.save(state | {"place": {"leg": 1, "record": 3}}, path), "does not fit: .*record"),
        (lambda path, state: torch.save(state | {"place": {"colour": 1}}, path), "does not fit: .*colour"),
        (lambda path, state: torch.save(state | {"model": {}}, path), "does not fit: .*Missing key"),
    ],
)
def test_a_damaged_one_is_one_clear_error_and_can_be_removed(stopped, change, message):
    change(stopped.within, torch.load(stopped.within, weights_only=True))
    with pytest.raises(RunError, match=rf"(?s)within\.pt {message}.*; remove the file to go on from"):
        trained(BRIEF, stopped, resume=True)
    stopped.within.unlink()
    assert_same(trained(BRIEF, stopped, resume=True), trained(BRIEF))


def test_a_folder_of_a_version_that_saved_between_legs_alone_goes_on(stopped):
    stopped.within.unlink()
    checkpoint = stopped.read_checkpoint()
    del checkpoint["id"]
    torch.save(checkpoint, stopped.path / "checkpoint.pt")
    told = []
    assert_same(trained(BRIEF, stopped, on_batch=cut_off(told=told), resume=True), trained(BRIEF))
    assert told[0] == (2, 1)


def test_what_a_killed_process_left_half_written_goes(stopped):
    left = stopped.path / f".within.pt.{'0' * 16}"
    left.touch()
    trained(BRIEF, stopped, resume=True)
    assert not left.exists()
