"""How the engine goes through legs: the size of steps, the running mean, validations, and when it stops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from trainings import TINY, engine, train

from ssdml_fast.methods import warmup
from ssdml_fast.train.engine import Engine, even_parts
from ssdml_fast.train.method import Leg


def test_patience_stops_early():
    result = train(TINY | {"warmup": 0, "patience": 1, "learning_rate": 1e-12, "metric_step": 1e-12})
    assert (result.stopped, result.best["validation"], len(result.history)) == ("patience", 0, 2)


def test_the_warm_up_does_not_try_ones_patience(monkeypatch):
    monkeypatch.setattr(warmup, "PART", 5)
    still = {"patience": 2, "learning_rate": 1e-12, "warmup_rate": 1e-12, "metric_step": 1e-12}
    result = train(TINY | still)
    assert [record["round"] for record in result.history[1:]] == [0, 0, 0, 0, 1, 1]
    assert (result.stopped, result.best["validation"]) == ("patience", 0)


def test_the_last_model_needs_no_patience():
    still = {"patience": 1, "learning_rate": 1e-12, "metric_step": 1e-12, "select": "last"}
    result = train(TINY | still)
    assert (result.stopped, len(result.history)) == ("finished", 8)


@pytest.mark.slow
def test_the_papers_mining_collapses_and_says_so():
    settings = {"mining": "neighborhood", "rounds": 20, "neighbors": 10, "metric_dim": 16, "patience": 100}
    result = train(settings | {"average": 0.0})
    assert result.stopped == "collapsed"
    assert result.history[-1]["score"] < result.best["score"] - 0.1
    assert result.best["score"] >= result.history[0]["score"]


@pytest.mark.slow
def test_validations_within_a_pass_change_nothing_else():
    whole = TINY | {"rounds": 1, "warmup": 0, "max_epochs": 2}
    once, often = (train(whole | {"validations": v}) for v in (1, 2))
    assert [record["partition"] for record in often.history[1:]] == [1, 1, 2, 2]
    assert [record["epoch"] for record in often.history] == [0, 1, 1, 2, 2]
    assert often.best["planned"] == 4 and often.stopped == "finished"
    for name in ("score", "val_nmi", "orthogonality_error"):
        assert [record[name] for record in often.history[::2]] == [record[name] for record in once.history]
    per_pass = [record["examples"] for record in once.history[1:]]
    assert [sum(r["examples"] for r in often.history[i : i + 2]) for i in (1, 3)] == per_pass
    each = train(whole | {"validations": 3})  # of two mini-batches
    assert (len(each.history), each.stopped) == (5, "finished")
    assert each.history[-1]["score"] == once.history[-1]["score"]


def test_a_part_of_a_pass_without_triplets_is_not_validated():
    rng = np.random.default_rng(0)  # two examples of a class seldom meet in a mini-batch of four
    x, y = rng.standard_normal((300, 8), np.float32), np.where(np.arange(300) < 40, np.arange(300) % 20, -1)
    settings = {
        "seed": 1, "rounds": 1, "partition_size": 48, "epochs": 1, "metric_dim": 4, "batch_size": 4, "validations": 5,
        "patience": 100,
    }  # fmt: skip
    result = train(settings, nn.Identity(), ((x, y), (x[:100], np.arange(100) % 20)))
    passes = 6  # partitions
    assert result.stopped == "finished" and passes < len(result.history) - 1 < passes * settings["validations"]


def test_each_mini_batch_is_told_of():
    told = []
    result = train(TINY | {"rounds": 1, "max_epochs": 1, "validations": 2}, on_batch=told.append)
    assert {record["planned"] for record in told} == {3}
    for record in result.history[1:]:
        of = [each for each in told if each["validation"] == record["validation"]]
        assert [each["done"] for each in of] == list(range(1, of[0]["batches"] + 1))
        assert record["examples"] == of[-1]["examples"]
        assert record["loss"] == pytest.approx(np.mean([each["loss"] for each in of]), rel=1e-6)


# --- the size of a step -----------------------------------------------------------------------------------------------


def test_the_rate_follows_the_schedule_and_the_epochs_their_limit():
    kept = train(TINY | {"rounds": 1, "warmup": 0, "max_epochs": 2})
    assert (len(kept.history), kept.stopped, kept.best["planned"]) == (3, "finished", 2)
    made = engine(TINY | {"warmup": 0, "learning_rate": 0.5})
    legs = [leg for _, leg in made.plan]
    rates = [made.rate(legs[e], 0) for e in (0, 2, 3)] + [made.rate(legs[5], 1)]
    np.testing.assert_allclose(rates, [0.5, 0.375, 0.25, 0])
    assert made.rate(legs[1], 0, 1, 2) == pytest.approx(0.25 * (1 + np.cos(np.pi * 1.5 / 6)))  # half of a pass
    made = engine(TINY | {"schedule": "constant", "learning_rate": 0.5})
    assert {made.rate(leg, 0) for _, leg in made.plan if leg.round} == {0.5}


def test_the_warm_ups_step_grows_and_then_follows_the_schedule(monkeypatch):
    rates = []
    monkeypatch.setattr(Engine, "step", lambda self, method, batch, rate: rates.append(rate) or torch.tensor(0.0))
    result = train({"rounds": 0, "warmup": 300, "warmup_rate": 0.5, "metric_dim": 16})
    assert (len(result.history), len(rates)) == (3, 300)
    np.testing.assert_allclose(rates[0], 0.5 / 50)
    np.testing.assert_allclose([rates[150], rates[299]], [0.25, 0.25 * (1 + np.cos(np.pi * 299 / 300))])
    assert max(rates) == max(rates[40:50])


def test_the_average_follows_the_weights():
    made = engine(TINY | {"average": 0.5})
    before = {name: tensor.clone() for name, tensor in made.average.network.state_dict().items()}
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(1)
    made.steps = 1000
    made.update_average()
    for name, tensor in made.average.network.state_dict().items():
        torch.testing.assert_close(tensor, before[name] + 0.5)
    assert torch.equal(made.average.metric.L, made.model.metric.L)


def steps(scaler, overflow=False):
    """The engine after two steps of the warm-up, of which the second may overflow."""
    made = engine(TINY | {"warmup": 2})
    made.scaler = scaler
    made.looks = False
    stage, leg = made.plan[0]
    made.aid.rng = made.seeded(leg)
    batches = stage.prepare(leg, made.aid).batches(made.aid.rng)
    made.step(stage, next(batches), 0.01)
    before = [parameter.clone() for parameter in (*made.model.parameters(), *made.method.parameters())]
    if overflow:
        made.scaler.update(torch.finfo(torch.float32).max)
    made.step(stage, next(batches), 0.01)
    return made, before


def test_a_loss_that_is_scaled_moves_all_as_one_that_is_not():
    """As with precision float16, on CUDA; the scale is a power of two."""
    plain, _ = steps(torch.amp.GradScaler("cpu", enabled=False))
    scaled, _ = steps(torch.amp.GradScaler("cpu"))
    assert scaled.scaler.get_scale() == 2**16 != plain.scaler.get_scale()
    for one, other in ((plain.model, scaled.model), (plain.method, scaled.method)):
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-5, atol=1e-7)


def test_a_scaled_loss_that_overflows_moves_nothing_and_is_scaled_less():
    made, before = steps(torch.amp.GradScaler("cpu"), overflow=True)
    assert made.scaler.get_scale() == torch.finfo(torch.float32).max / 2
    for was, parameter in zip(before, (*made.model.parameters(), *made.method.parameters()), strict=True):
        torch.testing.assert_close(parameter, was, rtol=0, atol=1e-6)
    assert made.model.metric.diagnostics()["orthogonality_error"] < 1e-5


class Shared(nn.Module):
    """Uses a layer twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.again = self.first

    def forward(self, images):
        return self.again(self.first(images.flatten(1)).relu())


def test_the_average_follows_shared_weights_once():
    made = engine({"average": 0.5, "metric_dim": 4}, Shared())
    before = made.average.network.first.weight.clone()
    with torch.no_grad():
        made.model.network.first.weight.add_(1)
    made.steps = 1000
    made.update_average()
    torch.testing.assert_close(made.average.network.first.weight, before + 0.5)
    assert made.average.network.first.weight is made.average.network.again.weight


# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "parts", "sizes"), [(5, 2, [2, 3]), (2, 3, [1, 1]), (4, 1, [4]), (9, 3, [3, 3, 3])])
def test_a_pass_is_cut_into_even_parts(n, parts, sizes):
    assert even_parts(n, parts) == sizes


def test_the_same_position_gives_the_same_numbers():
    made, again = engine(TINY), engine(TINY | {"rounds": 1})
    drawn = {}
    for _, leg in made.plan:
        drawn[leg.position] = made.seeded(leg).random(), torch.rand(1).item()
    assert len(set(drawn.values())) == len(made.plan)
    _, leg = again.plan[2]
    assert (again.seeded(leg).random(), torch.rand(1).item()) == drawn[leg.position]
    other = engine(TINY | {"seed": 1})
    assert other.seeded(leg).random() != drawn[leg.position][0]


def test_two_legs_of_one_position_are_refused(monkeypatch):
    monkeypatch.setattr(warmup.Warmup, "legs", lambda self: [Leg("warm-up", (0, 0), round=0)])
    with pytest.raises(ValueError, match="position must be another for each leg, found one twice"):
        engine(TINY)


def test_a_pass_without_any_loss_is_an_error():
    one_of_each = {"confident": 0.001, "confident_last": 0.001}  # no two of a class: no triplet
    with pytest.raises(ValueError, match="nothing can be learnt from partition 1 of round 1: no mini-batch has a loss"):
        train({"rounds": 1, "metric_dim": 16} | one_of_each)
