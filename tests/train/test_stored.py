"""What a run folder says of its training is read back, of the former format too; and why a training ended is said."""

from __future__ import annotations

import dataclasses
import json

import pytest
from trainings import TINY, interrupt, train

from ssdml_fast._settings import divided
from ssdml_fast.methods.settings import SSDMLSettings
from ssdml_fast.runs.folder import RunError, RunFolder
from ssdml_fast.train import Config
from ssdml_fast.train.records import COLLAPSED, DIVERGED, FINISHED, PATIENCE, why
from ssdml_fast.train.stored import read_run

OWN, ENGINES = divided(TINY | {"gamma": 0.8, "seed": 3}, SSDMLSettings, Config)


def written(path, **content):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"dataset": {}} | content))
    return RunFolder(path)


def test_a_training_is_read_as_it_was_written(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(TINY | {"gamma": 0.8, "seed": 3}, run=run, on_validation=interrupt(0))
    found = read_run(run)
    assert (found.method, found.settings) == ("ssdml", SSDMLSettings(**OWN))
    assert found.config == Config(**ENGINES, device="cpu")


def test_the_former_format_holds_all_settings_in_one(tmp_path):
    former = {name: value for name, value in dataclasses.asdict(Config()).items() if name in ("patience", "optimizer")}
    run = written(tmp_path / "run", format=1, training=OWN | ENGINES | former)
    found = read_run(run)
    assert (found.method, found.settings, found.config) == ("ssdml", SSDMLSettings(**OWN), Config(**ENGINES))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"settings": {"colour": 1}},
            r"are damaged or not of a training: unknown settings: colour",
        ),
        ({"settings": {"gamma": 2}}, r"are damaged or not of a training: gamma must be"),
        ({"settings": {"gamma": "much"}}, r"are damaged or not of a training: gamma must be"),
        ({"training": {"batch_size": 0}}, r"are damaged or not of a training: batch_size must be at least 1"),
        ({"method": "no_such_module:Class"}, r"are damaged or not of a training: method no_such_module:Class cannot"),
        ({"method": "smdl"}, r"are damaged or not of a training: method must be one of ssdml"),
    ],
)
def test_what_is_no_training_is_refused(tmp_path, content, message):
    whole = {"format": 2, "method": "ssdml", "head": "OrthogonalMetric", "settings": {}, "training": {}}
    assert read_run(written(tmp_path / "whole", **whole)).config == Config()
    with pytest.raises(RunError, match=message):
        read_run(written(tmp_path / "run", **(whole | content)))


def test_a_former_run_of_another_method_is_refused(tmp_path):
    run = written(tmp_path / "run", format=1, training=OWN | ENGINES)
    assert read_run(run, "ssdml").settings == SSDMLSettings(**OWN)
    with pytest.raises(RunError, match=r"is a training by the method ssdml, found ssdml_fast\.methods\.warmup:Warmup"):
        read_run(run, "ssdml_fast.methods.warmup:Warmup")


def test_every_end_has_its_sentence():
    best, last = {"validation": 3, "score": 0.75}, {"validation": 11, "score": 0.5}
    said = {stopped: why(stopped, best, last) for stopped in (FINISHED, PATIENCE, COLLAPSED, DIVERGED)}
    assert len(set(said.values())) == 4 and all(sentence.endswith(".") for sentence in said.values())
    assert "11" in said[PATIENCE] and "11" in said[DIVERGED]
    assert "from 0.750 at validation 3 to 0.500 at validation 11" in said[COLLAPSED]
