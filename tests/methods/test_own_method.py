"""A method of one's own is trained, saved and resumed as those that come with the package; and errors name it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import contrastive
import numpy as np
import pytest
import torch
from contrastive import Contrastive, ContrastiveSettings, WithoutHead
from torch import nn
from trainings import SmallNet, assert_same, digits, engine, interrupt, train

from ssdml_fast.methods import load_method, name_of
from ssdml_fast.models.seeded import seeded
from ssdml_fast.nn import OrthogonalMetric
from ssdml_fast.runs.folder import RunError, RunFolder
from ssdml_fast.train import Batch, Config, Leg, Method, Settings, Work, fit, setting

SMALL = {"metric_dim": 16, "batch_size": 33, "learning_rate": 3e-3}  # the 100th labelled example joins the third batch

NARROW = Config(metric_dim=16, device="cpu")


@pytest.mark.parametrize("kind", [Contrastive, WithoutHead])
def test_it_trains_what_is_its_own_too(kind, tmp_path):
    run = RunFolder(tmp_path / "run")
    result = train(SMALL, method=kind, run=run)
    assert result.stopped == "finished" and len(result.history) == 5
    assert result.best["score"] > result.history[0]["score"]
    assert [record.get("kind") for record in result.history] == [None] + 4 * ["pairs"]
    own = run.read_checkpoint()["method"]
    assert own.keys() == {"margin", "seen"} and own["seen"] == 4 * 100 and own["margin"] != 0.5
    head = result.model.metric
    assert type(head) is kind.Head and result.model.dim == (16 if kind is Contrastive else 32)
    start = engine(SMALL, method=kind).model
    moved = (head.state_dict()[name] - L for name, L in start.metric.state_dict().items())
    assert [(change.abs().max() > 1e-4).item() for change in moved] == [True] * (kind is Contrastive)
    errors = [record.get("orthogonality_error") for record in result.history]
    assert errors == [None] * 5 if kind is WithoutHead else max(errors) < 1e-5


def test_the_columns_of_a_metric_bind_no_one_without():
    wide = SMALL | {"metric_dim": 64, "parts": 1}  # of a network of 32
    assert_same(train(wide, method=WithoutHead), train(wide | {"metric_dim": 16}, method=WithoutHead))
    with pytest.raises(ValueError, match=r"^metric_dim must be in \[1, 32\] \(the network's output size\), found 64$"):
        train(wide, method=Contrastive)


@pytest.mark.parametrize("kind", [Contrastive, WithoutHead])
@pytest.mark.parametrize("done", [None, 2])
def test_it_resumes_to_the_same(kind, done, tmp_path):
    run, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    result = train(SMALL, method=kind, run=whole)
    stop = {"on_batch" if done else "on_validation": interrupt(3, done)}
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, method=kind, run=run, **stop)
    assert_same(fit(seeded(SmallNet, 0), *digits(), run=run, resume=True), result)
    once, again = (each.read_checkpoint()["method"] for each in (whole, run))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_it_may_be_given_by_the_name_of_its_module(tmp_path, monkeypatch):
    source = Path(contrastive.__file__).read_text()
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "of_mine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    run = RunFolder(tmp_path / "run")
    named = {"method": "of_mine:Contrastive", "settings": {"margin": 0.25}, "config": NARROW}
    with pytest.raises(KeyboardInterrupt):
        fit(seeded(SmallNet, 0), *digits(), run=run, on_validation=interrupt(2), **named)
    stored = run.read_stored()
    assert (stored.method, stored.settings) == ("of_mine:Contrastive", {"parts": 2, "margin": 0.25})
    resumed = fit(seeded(SmallNet, 0), *digits(), run=run, resume=True)
    assert_same(resumed, fit(seeded(SmallNet, 0), *digits(), **named))
    with pytest.raises(RunError, match=r"other settings: margin"):
        fit(seeded(SmallNet, 0), *digits(), run=run, resume=True, settings={"margin": 0.5})
    assert name_of(load_method("of_mine:Contrastive")) == "of_mine:Contrastive"
    assert name_of(Contrastive) == "contrastive:Contrastive"


def test_a_run_of_another_method_is_refused(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, method=Contrastive, run=run, on_validation=interrupt(2))
    for other in ("ssdml", Counting):
        with pytest.raises(RunError, match=r"is a training by the method contrastive:Contrastive, found "):
            fit(seeded(SmallNet, 0), *digits(), run=run, resume=True, method=other)

    class Local(Contrastive):
        """Is found by no name."""

    local = RunFolder(tmp_path / "local")
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, method=Local, run=local, on_validation=interrupt(2))
    with pytest.raises(RunError, match=r"<locals>\.Local cannot be "):
        fit(seeded(SmallNet, 0), *digits(), run=local, resume=True)
    resumed = fit(seeded(SmallNet, 0), *digits(), run=local, resume=True, method=Local)
    assert_same(resumed, train(SMALL, method=Local))


def test_a_script_knows_its_method_by_another_name(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    monkeypatch.setattr(Contrastive, "__module__", "__main__")
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, method=Contrastive, run=run, on_validation=interrupt(2))
    monkeypatch.undo()
    assert run.read_stored().method == "__main__:Contrastive"
    assert_same(
        fit(seeded(SmallNet, 0), *digits(), run=run, resume=True, method=Contrastive), train(SMALL, method=Contrastive)
    )


class Counting(Contrastive):
    """Has a loss for every other mini-batch, and forgets its margin at the beginning of each leg."""

    def prepare(self, leg, aid):
        state = self.margin_state = aid._engine.optimizer.state
        self.remembered = [*getattr(self, "remembered", []), self.margin in state]
        aid.forget([self.margin])
        assert self.margin not in state and (leg.position == (0,) or len(state) > 0)
        return super().prepare(leg, aid)

    def loss(self, batch, aid):
        self.calls = getattr(self, "calls", 0) + 1
        return None if self.calls % 2 else super().loss(batch, aid)


def test_what_has_no_loss_moves_nothing_and_is_told_of_to_no_one():
    told = []
    made = engine(SMALL, method=Counting)
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    work = made.method.prepare(made.plan[0][1], made.aid)
    first, second = list(work.batches(np.random.default_rng(0)))[:2]
    assert made.step(made.method, first, 0.1) is None and made.steps == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.model.state_dict().items())
    assert made.step(made.method, second, 0.1) > 0 and made.steps == 1
    assert not any(torch.equal(tensor, before[name]) for name, tensor in made.model.state_dict().items())
    result = train(SMALL | {"parts": 1}, method=Counting, on_batch=told.append)
    assert [record["done"] for record in told] == [2, 1, 3]  # of three mini-batches a pass
    assert result.history[1]["loss"] == pytest.approx(told[0]["loss"])


def test_it_forgets_what_the_optimiser_remembers():
    made = engine(SMALL, method=Counting)
    made.validate({"validation": 0})
    for stage, leg in made.plan:
        made.one_leg(stage, leg, None, None)
    assert made.method.remembered == [False, True]


class Moving(Contrastive):
    """Moves the head first, by a gradient of its own."""

    def loss(self, batch, aid):
        if not hasattr(self, "straight"):
            before = aid.head.L.detach().clone()
            aid.move_head([torch.ones_like(before)])
            self.straight = (aid.head.L - before).abs().max().item(), aid.head.diagnostics()["orthogonality_error"]
            assert all(parameter.grad is None for parameter in aid.head.parameters())
        return super().loss(batch, aid)


def test_it_may_move_the_head_which_stays_on_its_manifold():
    made = engine(SMALL, method=Moving)
    made.validate({"validation": 0})
    made.one_leg(*made.plan[0], None, None)
    moved, error = made.method.straight
    assert moved > 1e-3 and error < 1e-5

    class Headless(Moving):
        Head = torch.nn.Identity

        def loss(self, batch, aid):
            aid.move_head([])

    with pytest.raises(TypeError, match=r"^head must have parameters to be moved, found Identity"):
        train(SMALL, method=Headless)


# --- what is refused --------------------------------------------------------------------------------------------------


class NoMethod(nn.Module):
    pass


@dataclass(frozen=True)
class Taken(Settings):
    seed: int = setting(0, "One of the engine's.")


class TakesASettingOfTheEngine(Contrastive):
    Settings = Taken


class SettingsOfAnotherKind(Contrastive):
    Settings = dict


class NeedsMore(Contrastive):
    def __init__(self, settings, model, data, seed):
        raise ValueError("labels must be of ten classes at least")


class HoldsTheModel(Contrastive):
    def __init__(self, settings, model, data, seed):
        super().__init__(settings, model, data, seed)
        self.model = model  # which makes it a part


class TwiceInOnePlace(Contrastive):
    def legs(self):
        return [Leg("pairs", (0,)), Leg("pairs", (0,))]


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        ("smdl", ValueError, r"^method must be one of ssdml, or of the form package\.module:Class, found 'smdl'"),
        ("no_such_module:Class", ValueError, r"^method no_such_module:Class cannot be .*no_such_module"),
        ("contrastive:None", ValueError, r"^method contrastive:None cannot be .*None"),
        ("contrastive:batch_sizes", TypeError, r"^method must be a subclass of ssdml_fast\.train\.Method, found <func"),
        (NoMethod, TypeError, r"^method must be a subclass of ssdml_fast\.train\.Method, found .*NoMethod"),
        (3, TypeError, r"^method must be a subclass of ssdml_fast\.train\.Method, found 3"),
        ({"rounds": 1}, TypeError, r"^method must be a subclass of ssdml_fast\.train\.Method, found \{'rounds'"),
        (TakesASettingOfTheEngine, TypeError, r"^Taken must have no setting of Config's, found seed"),
        (SettingsOfAnotherKind, TypeError, r"^SettingsOfAnotherKind\.Settings must be a dataclass made from Settings"),
        (NeedsMore, ValueError, r"^labels must be of ten classes at least"),
        (
            HoldsTheModel,
            ValueError,
            r"^HoldsTheModel must hold no parameter of the model, .* found model\.net",
        ),
        (TwiceInOnePlace, ValueError, r"^position must be another for each leg"),
    ],
)
def test_what_is_no_method_is_named_before_anything_is_written(method, error, message, tmp_path):
    run = RunFolder(tmp_path / "run")
    network = seeded(SmallNet, 0)
    with pytest.raises(error, match=message):
        fit(network, *digits(), method=method, config=NARROW, run=run)
    assert not run.path.exists()
    fresh = seeded(SmallNet, 0).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in network.state_dict().items())


def test_wrong_settings_are_named():
    for settings, message in [
        ({"margin": 3}, r"^margin must be in \(0, 2\], found 3\.0"),
        ({"colour": 1}, r"^settings must be those of ContrastiveSettings, found also colour"),
        (Taken(), r"^settings must be a dict or ContrastiveSettings, found Taken"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            fit(SmallNet(), *digits(), method=Contrastive, settings=settings)
    with pytest.raises(ValueError, match=r"^config must be those of Config, found also margin"):
        fit(SmallNet(), *digits(), method=Contrastive, config={"margin": 1})
    as_instance, as_dict = (
        fit(seeded(SmallNet, 0), *digits(), method=Contrastive, settings=settings, config=NARROW)
        for settings in (ContrastiveSettings(parts=1), {"parts": 1})
    )
    assert_same(as_instance, as_dict)


@pytest.mark.parametrize(
    ("answer", "found"), [(lambda loss: loss.item(), "float"), (lambda loss: loss[None], r"one of shape \(1,\)")]
)
def test_a_loss_that_is_none_is_named(answer, found):
    class Wrong(Contrastive):
        def loss(self, batch, aid):
            return answer(super().loss(batch, aid))

    with pytest.raises(TypeError, match=rf"^loss of Wrong must be a scalar tensor or None, found {found}$"):
        train(SMALL, method=Wrong)


def one_batch(self, leg, aid):
    return Work(lambda rng: iter([Batch(torch.arange(9))]), 1)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"legs": lambda self: None}, TypeError, r"^legs of Wrong must return a list of Leg, found None"),
        ({"legs": lambda self: ["a"]}, TypeError, r"^legs of Wrong must return a list of Leg, found \['a'\]"),
        ({"legs": lambda self: [Leg("a", (0, -1))]}, ValueError, r"^position must be of integers from 0, .*\(0, -1\)"),
        ({"legs": lambda self: [Leg("a", (0,), weight=0.0)]}, ValueError, r"^weight must be in \(0, inf\), found 0\.0"),
        ({"prepare": lambda self, leg, aid: None}, TypeError, r"^prepare of Wrong must return a Work, found NoneType"),
    ],
)
def test_a_plan_that_is_none_is_named(parts, error, message):
    with pytest.raises(error, match=message):
        train(SMALL, method=type("Wrong", (Contrastive,), parts))


def test_numbers_of_any_library_join_the_record(tmp_path):
    def prepare(self, leg, aid):
        numbers = {"of_numpy": np.float32(1.5), "of_torch": torch.tensor(3), "text": "as it is"}
        return dataclasses.replace(
            one_batch(self, leg, aid), record=numbers, propagated=(np.arange(9), np.zeros(9, int))
        )

    run = RunFolder(tmp_path / "run")
    early = [Leg("first", (0,), round=0), Leg("then", (1,), round=1)]  # labels of round 0 are kept nowhere
    kind = type("Telling", (Contrastive,), {"prepare": prepare, "legs": lambda self: early})
    result = train(SMALL, method=kind, run=run)
    assert run.read_history() == result.history and len(run.read_propagated()) == 1
    told = result.history[-1]
    assert (told["of_numpy"], told["of_torch"], told["text"]) == (1.5, 3, "as it is")


class Bare(Method):
    Head = OrthogonalMetric


def test_a_method_must_say_what_it_is():
    with pytest.raises(NotImplementedError):
        engine({"metric_dim": 16}, method=Bare)
