"""A training goes on once at a time, and with its own data alone, on whatever machine they were prepared."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from ssdml_fast.data.dataset import Source
from ssdml_fast.data.examples import as_examples
from ssdml_fast.models.networks import Normalize
from ssdml_fast.runs.fingerprint import PARTS, difference, fingerprint
from ssdml_fast.runs.folder import RunError, RunFolder
from ssdml_fast.train import Config, fit
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
