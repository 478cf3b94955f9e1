"""What holds of every method: it trains, repeats, resumes to the same numbers, and sees no more than it is given."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import TINY, CutOff, SmallNet, assert_same, cut_off, digits, engine, figures, interrupt, train

from ssdml_fast._settings import divided
from ssdml_fast.data.digits import load_digits
from ssdml_fast.methods import METHODS, load_method, name_of, settings_of
from ssdml_fast.models.seeded import seeded
from ssdml_fast.runs.folder import RunError, RunFolder
from ssdml_fast.train import Config, fit
from ssdml_fast.train import engine as engines

SMALL = {"ssdml": TINY | {"rounds": 1}}  # settings of the method and of the engine, for a second or less

pytestmark = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def whole():
    """An uninterrupted training by each method, made when first asked for."""
    made = {}

    def of(method):
        if method not in made:
            made[method] = train(SMALL[method], method=method)
        return made[method]

    return of


def test_it_trains_and_repeats(method, whole):
    result = whole(method)
    assert result.stopped == "finished"
    assert len(result.history) == result.history[0]["planned"] + 1
    numbers = [value for record in figures(result.history) for value in record.values()]
    assert np.isfinite(numbers).all()
    assert np.isfinite(result.model.embed(digits()[1][0].copy())).all()
    start = engine(SMALL[method], method=method).model.state_dict()
    assert any(not torch.equal(tensor, start[name]) for name, tensor in result.model.state_dict().items())
    assert_same(train(SMALL[method], method=method), result)


def test_it_resumes_to_the_same_from_every_validation(method, whole, tmp_path):
    planned = whole(method).history[0]["planned"]
    for stop_at in range(planned + 1):
        run = RunFolder(tmp_path / f"{stop_at}")
        with pytest.raises(KeyboardInterrupt):
            train(SMALL[method], method=method, run=run, on_validation=interrupt(stop_at))
        if stop_at == 0:  # before anything was saved
            with pytest.raises(RunError, match="has no checkpoint"):
                fit(seeded(SmallNet, 0), *digits(), run=run, resume=True)
            continue
        assert_same(fit(seeded(SmallNet, 0), *digits(), run=run, resume=True), whole(method))


def test_it_resumes_to_the_same_from_within_a_leg(method, whole, tmp_path):
    """Twice, and from each time what the other left."""
    run = RunFolder(tmp_path / "run")
    last = whole(method).history[-1]["validation"]
    with pytest.raises(KeyboardInterrupt):
        train(SMALL[method], method=method, run=run, on_batch=interrupt(1, done=1))
    with pytest.raises(KeyboardInterrupt):
        fit(seeded(SmallNet, 0), *digits(), run=run, resume=True, on_batch=interrupt(last, done=1))
    assert_same(fit(seeded(SmallNet, 0), *digits(), run=run, resume=True), whole(method))


def test_cut_off_between_any_two_mini_batches_it_goes_on_there_to_the_same(method, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "SAVED_EVERY", 0)
    run, at_once, told = RunFolder(tmp_path / "run"), [], []
    train(SMALL[method], method=method, on_batch=cut_off(told=at_once))
    stop = cut_off(1, 2, 1, len(at_once) // 2, 1, told=told)
    with pytest.raises(CutOff):
        train(SMALL[method], method=method, run=run, on_batch=stop)
    for _ in range(4):
        with pytest.raises(CutOff):
            fit(seeded(SmallNet, 0), *digits(), run=run, resume=True, on_batch=stop)
    assert_same(fit(seeded(SmallNet, 0), *digits(), run=run, resume=True, on_batch=stop), whole(method))
    assert told == at_once and not run.within.exists()


@pytest.mark.parametrize(
    ("part", "of", "name"),
    [
        (0, "images", "the training examples differ"),
        (0, "labels", "their labels differ"),
        (1, "images", "the validation examples differ"),
        (1, "labels", "the labels of the validation examples differ"),
    ],
)
def test_other_data_under_resume_are_refused_by_name(method, part, of, name, whole, tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(SMALL[method], method=method, run=run, on_validation=interrupt(1))
    files = {path.name: path.read_bytes() for path in run.path.iterdir()}
    data = [[array.copy() for array in part] for part in digits()]
    images, labels = data[part]
    if of == "labels":
        labels[[0, -1]] = 1, 2
    else:
        images[7, 0, 0, 0] += 0.5
    with pytest.raises(RunError, match=rf"other data: {name}$"):
        fit(seeded(SmallNet, 0), *data, run=run, resume=True)
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == files
    assert_same(fit(seeded(SmallNet, 0), *digits(), run=run, resume=True), whole(method))


def test_its_state_is_in_the_checkpoint_and_follows_its_name(method, tmp_path):
    run = RunFolder(tmp_path / "run")
    train(SMALL[method], method=method, run=run)
    kind = load_method(method)
    untouched = engine(SMALL[method], method=method).method.state_dict()
    assert run.read_checkpoint()["method"].keys() == untouched.keys()
    stored = json.loads((run.path / "config.json").read_text())
    assert stored["method"] == name_of(kind) == method and stored["head"] == kind.Head.__name__
    own, engines = divided(SMALL[method], kind.Settings, Config)
    assert stored["settings"] == dataclasses.asdict(kind.Settings(**own))
    assert stored["training"] == dataclasses.asdict(Config(**engines, device="cpu"))


def test_it_sees_no_label_that_is_hidden(method):
    data = load_digits(0)
    own, engines = divided(SMALL[method] | {"select": "last"}, settings_of(method), Config)
    shuffled = dataclasses.replace(
        data, truth=np.roll(data.truth, 1), val_labels=np.roll(data.val_labels, 1), test_labels=data.test_labels[::-1]
    )
    one, other = (
        fit(seeded(SmallNet, 0), each, method=method, settings=own, config=Config(**engines, device="cpu"))
        for each in (data, shuffled)
    )
    assert [record.get("loss") for record in one.history] == [record.get("loss") for record in other.history]
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name])


# --- settings ---------------------------------------------------------------------------------------------------------


def test_its_settings_are_described_and_apart_from_the_engines(method):
    kind = settings_of(method)
    assert kind is load_method(method).Settings
    fields = {field.name: field for field in dataclasses.fields(kind)}
    assert not fields.keys() & {field.name for field in dataclasses.fields(Config)}
    assert all(field.metadata["help"].endswith(".") for field in fields.values())


def test_its_settings_survive_a_toml_file(method):
    kind = settings_of(method)
    own, _ = divided(SMALL[method], kind, Config)
    for settings in (kind(), kind(**own)):
        lines = [f"{name} = {json.dumps(value)}" for name, value in dataclasses.asdict(settings).items()]
        read = tomllib.loads("\n".join(["[method]", *lines]))["method"]
        assert kind(**read) == settings


def test_settings_that_it_does_not_have_are_named_before_any_work(method, tmp_path):
    run = RunFolder(tmp_path / "run")
    kind = load_method(method)
    for settings, message in [
        ({"colour": 1, "shape": 2}, rf"^settings must be those of {kind.Settings.__name__}, found also colour, shape"),
        ({"seed": 1}, r"found also seed"),
        (Config(), rf"^settings must be a dict or {kind.Settings.__name__}, found Config"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            fit(SmallNet(), *digits(), method=method, settings=settings, run=run)
    assert not run.path.exists()


# --- killed -----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from test_every_method import *

method, path, batches, engines.SAVED_EVERY = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])

def kill(record):
    global batches
    batches -= 1
    if batches == 0:
        os.kill(os.getpid(), signal.SIGKILL)

run = RunFolder(path)
if run.resumable:
    fit(seeded(SmallNet, 0), *digits(), run=run, resume=True, on_batch=kill)
else:
    train(SMALL[method], method=method, run=run, on_batch=kill)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_resumes_to_the_same(method, tmp_path):
    told = []
    result = train(SMALL[method], method=method, on_batch=told.append)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    rng = np.random.default_rng(sum(method.encode()))
    for moment, saved_every in enumerate([0, 50]):
        run = RunFolder(tmp_path / f"{moment}")
        for _ in range(2):
            batches = rng.integers(1, len(told) // 2)  # of each child, so that none comes to the end
            command = [sys.executable, "-c", KILLED, method, str(run.path), str(batches), str(saved_every)]
            child = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False)
            assert child.returncode == -signal.SIGKILL
        assert_same(fit(seeded(SmallNet, 0), *digits(), run=run, resume=True), result)
