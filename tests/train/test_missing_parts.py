"""Data of which parts are missing: no validation examples, no labels, or such as no model can be chosen by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Items
from trainings import TINY, SmallNet, assert_same, digits, engine, train
from two_views import TwoViews

from ssdml_fast.data.digits import load_digits
from ssdml_fast.runs.folder import RunFolder
from ssdml_fast.train import fit

ONCE = {"rounds": 1, "max_epochs": 1, "metric_dim": 16}
VIEWS = {"metric_dim": 16, "augment": "affine", "select": "last"}


# --- no validation examples -------------------------------------------------------------------------------------------


def test_a_data_set_without_validation_examples_trains_to_its_last_model(tmp_path):
    data = replace(load_digits(0), val_images=None, val_labels=None)
    run = RunFolder(tmp_path / "run")
    last = train(ONCE | {"select": "last"}, data=(data,), run=run)
    assert last.best is last.history[-1] and not {"score", "val_nmi", "val_recall@1"} & set().union(*last.history)
    assert_same(train(ONCE | {"select": "last"}, data=((data.images, data.labels),)), last)
    assert run.read_history() == last.history and run.read_fingerprint().keys() == {"train", "labels"}
    with pytest.raises(ValueError, match=r"^val must be given to choose a model by; with select='last' there need be"):
        train(ONCE, data=(data,))


def test_a_part_may_be_a_map_style_data_set():
    data = load_digits(0)
    lazy = replace(data, images=Items(list(data.images)), val_images=Items(list(data.val_images)))
    assert_same(train(ONCE, data=(lazy,)), train(ONCE, data=(data,)))


def test_what_was_decoded_is_told_from_others_without_a_validation_part(tmp_path):
    data = load_digits(0)
    decoded = replace(data, images=Items(list(data.images)), val_images=None, val_labels=None, decoded=None)
    mapped = replace(decoded, images=2 * data.images, decoded=decoded)
    runs = RunFolder(tmp_path / "mapped"), RunFolder(tmp_path / "decoded")
    for run, each in zip(runs, (mapped, decoded), strict=True):
        train(ONCE | {"select": "last"}, data=(each,), run=run)
    assert runs[0].read_fingerprint() == runs[1].read_fingerprint()


class LastStepIsNaN(SmallNet):
    """Its weights become NaN at its n-th step, without a loss that says so."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def forward(self, images):
        z = super().forward(images)
        self.left -= self.training
        if self.left == 0 and self.training:
            z.register_hook(lambda gradient: gradient * torch.nan)
        return z


def test_without_validation_examples_a_model_of_nan_is_not_kept():
    settings = TINY | {"rounds": 0, "warmup": 20, "select": "last", "average": 0.0}
    result = train(settings, LastStepIsNaN(20), data=digits()[:1])
    assert (result.stopped, len(result.history)) == ("diverged", 1)
    assert np.isfinite(result.model.embed(digits()[1][0].copy())).all()


class NaN(SmallNet):
    def forward(self, images):
        return super().forward(images) * torch.nan


def test_without_validation_examples_a_network_of_nan_is_named_too(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match=r"^network must embed train by finite numbers"):
        train(TINY | {"select": "last"}, NaN(), data=digits()[:1], run=run)
    assert not (tmp_path / "run").exists()


# --- validation examples that tell no model from another --------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "found"),
    [
        (lambda labels: np.unique(labels, return_index=True)[1], "a class of its own for each of its 10 examples"),
        (lambda labels: np.flatnonzero(labels == 3), "one class"),
    ],
)
def test_no_model_is_chosen_where_all_have_one_score(tmp_path, keep, found):
    images, labels = digits()[1]
    val = images[keep(labels)], labels[keep(labels)]
    message = rf"^val must hold at least two classes, and two examples of some class, .* found {found}"
    with pytest.raises(ValueError, match=message):
        train(ONCE, data=(digits()[0], val), run=RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    last = train(ONCE | {"select": "last"}, data=(digits()[0], val))  # asks nothing of them
    assert len({record["score"] for record in last.history}) == 1


# --- no labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["array", "none", "data set", "parts"])
def test_a_method_that_needs_no_labels_trains_without_any(form, tmp_path):
    images, labels = digits()[0]
    data = {
        "array": (images, np.full(len(images), -1)),
        "none": (images, None),
        "data set": Items(list(images)),
        "parts": replace(load_digits(0), images=images, labels=np.full(len(images), -1), val_images=None),
    }[form]
    run = RunFolder(tmp_path / "run")
    result = train(VIEWS, data=(data,), method=TwoViews, run=run)
    assert result.stopped == "finished" and result.best is result.history[2]
    assert result.history[2]["loss"] < result.history[1]["loss"]
    assert_same(fit(SmallNet(), data, method=TwoViews, device="cpu", run=run, resume=True), result)
    assert_same(train(VIEWS, data=((images, labels),), method=TwoViews), result)  # which it does not look at


def test_a_method_that_needs_no_labels_may_be_chosen_by_some():
    images, labels = digits()[0]
    result = train(VIEWS | {"select": "validation"}, data=((images, None), digits()[1]), method=TwoViews)
    assert result.best["score"] == max(record["score"] for record in result.history)
    with pytest.raises(ValueError, match=r"^val must be given"):
        train(VIEWS | {"select": "validation"}, data=((images, labels),), method=TwoViews)


def test_a_method_that_learns_from_labels_says_so_before_any_work(tmp_path):
    images, labels = digits()[0]
    run = RunFolder(tmp_path / "run")
    message = r"^train labels must be known of some examples, as the method ssdml learns from them, found none"
    with pytest.raises(ValueError, match=message):
        train(TINY, data=((images, np.full_like(labels, -1)), digits()[1]), run=run)
    one = np.where(labels == 3, labels, -1)
    with pytest.raises(ValueError, match=r"^train labels must hold at least two classes besides -1, found class 3 al"):
        train(TINY, data=((images, one), digits()[1]), run=run)
    for without in ((images, None), Items(list(images))):
        with pytest.raises(TypeError, match=r"^train "):
            train(TINY, data=(without, digits()[1]), run=run)
    assert not (tmp_path / "run").exists()


def test_methods_that_need_no_labels_are_told_of(monkeypatch):
    monkeypatch.setattr("ssdml_fast.train.training.METHODS", {"ssdml": None, "two_views:TwoViews": None})
    with pytest.raises(ValueError, match=r"found none of at least 0; methods that need none: two_views:TwoViews$"):
        train(TINY, data=((digits()[0][0], np.full(400, -1)), digits()[1]))


def test_the_plan_of_a_method_without_labels_is_known_beforehand():
    (images, labels), val = digits()
    made = engine(VIEWS, data=((images, np.full_like(labels, -1)), val), method=TwoViews)
    assert len(made.data.classes) == len(made.data.labelled) == 0 and made.planned == 2
