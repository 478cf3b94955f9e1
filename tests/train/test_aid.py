"""What the engine lends a method: features, mini-batches to learn from, chance, and where the training is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from trainings import TINY, digits, engine

from ssdml_fast._world import World
from ssdml_fast.train.method import Batch, Diverged, Leg, Method, Work


def images_of(rows):
    return torch.from_numpy(digits()[0][0].copy())[rows]


def test_features_are_of_the_running_mean_unless_those_of_now_are_asked_for():
    made = engine(TINY)
    with torch.no_grad():
        for parameter in made.model.network.parameters():
            parameter.add_(0.1)
    made.model.network.train()
    rows = torch.arange(300)  # more than are embedded at once
    for average, model in ((True, made.average), (False, made.model)):
        found = made.aid.features(rows, average=average)
        assert not found.requires_grad and made.examples == 0
        with torch.no_grad():
            torch.testing.assert_close(found, model.network.eval()(images_of(rows)))
    assert torch.equal(made.aid.features(np.arange(300)), made.aid.features(rows))
    assert "embed" in made.times.take()


def test_a_process_that_has_no_part_of_the_rows_embeds_nothing(monkeypatch):
    made, embedded = engine(TINY), []
    made.average.network.register_forward_pre_hook(lambda *given: embedded.append(given))
    monkeypatch.setattr(World, "gather", lambda world, part, n, unit: part)
    for rank, n in ((0, 0), (1, 60)):  # which are embedded at once
        made.world = World(rank, 2)
        assert made.aid.features(torch.arange(60)).shape == (n, 32) and len(embedded) == rank


def test_features_that_are_not_finite_end_a_training():
    made = engine(TINY)
    with torch.no_grad():
        next(made.average.network.parameters()).fill_(torch.inf)
    with pytest.raises(Diverged):
        made.aid.features(torch.arange(3))


def test_what_is_embedded_to_learn_from_is_augmented_counted_and_has_a_gradient():
    rows = torch.arange(30)
    plain, changed = engine(TINY | {"augment": "none"}), engine(TINY | {"augment": "affine"})
    images = images_of(rows)
    assert torch.equal(plain.aid.images(rows), images) and torch.equal(plain.aid.augment(images), images)
    assert changed.aid.augment(images).shape == images.shape
    assert not torch.equal(changed.aid.augment(images), images)
    z = plain.aid.embed(rows)
    assert z.requires_grad and z.dtype == torch.float32 and plain.model.network.training
    plain.aid.forward(images[:7])
    assert plain.examples == 37


def test_the_running_mean_teaches_without_being_taught():
    made = engine(TINY)
    with torch.no_grad():
        for parameter in made.model.network.parameters():
            parameter.add_(0.1)
    images = images_of(torch.arange(30))
    learnt, taught = made.aid.forward(images), made.aid.forward(images, average=True)
    assert learnt.requires_grad and not taught.requires_grad and made.examples == 30
    assert made.model.network.training
    with torch.no_grad():
        assert torch.equal(taught, made.average.network.eval()(images))
    assert not torch.allclose(taught, learnt)


def test_examples_are_lent_as_they_are_held_too():
    made, rows = engine(TINY), torch.arange(30)
    assert torch.equal(made.aid.raw(rows), images_of(rows))
    made.feed.prepare = torch.nn.Threshold(0.5, 7.0)
    assert torch.equal(made.aid.raw(rows), images_of(rows))
    assert torch.equal(made.aid.prepare(images_of(rows)), made.feed.prepare(images_of(rows)))
    assert torch.equal(made.aid.images(rows), made.aid.prepare(made.aid.raw(rows)))


def test_it_knows_what_the_engine_knows():
    made = engine(TINY)
    aid = made.aid
    assert (aid.config, aid.data, aid.head, aid.world) == (made.config, made.data, made.model.metric, World(0, 1))
    assert aid.device == torch.device("cpu")
    x = torch.rand(3)
    assert torch.equal(aid.send(x), x)


class Asking(Method):
    """Has nothing to learn, and notes what it is lent."""

    def legs(self):
        return [Leg("one", (0,), passes=2), Leg("other", (1,), weight=3.0), Leg("one", (2,), passes=2)]

    def prepare(self, leg, aid):
        self.seen = [*getattr(self, "seen", []), (leg.kind, aid.rng.random(), torch.rand(1).item())]
        self.through = {**getattr(self, "through", {}), leg.position: []}
        self.leg = leg
        return Work(lambda rng: iter([Batch(torch.arange(3))] * 4), 4)

    def begin_pass(self, work, aid):
        work.record["began"] = aid.through

    def loss(self, batch, aid):
        self.through[self.leg.position].append(aid.through)
        return torch.zeros((), requires_grad=True)


def asked():
    made = engine({"metric_dim": 4}, method=Asking)
    made.validate({"validation": 0})
    made.to_the_end(None, None, None)
    return made


def test_it_knows_how_far_the_legs_of_a_kind_are():
    through = asked().method.through
    np.testing.assert_allclose(through[0,], np.arange(8) / 16)
    np.testing.assert_allclose(through[1,], np.arange(4) / 4)
    np.testing.assert_allclose(through[2,], (8 + np.arange(8)) / 16)


def test_chance_depends_on_the_seed_and_the_position():
    first, again = asked().method.seen, asked().method.seen
    assert first == again and len(set(first)) == 3


def test_what_begins_a_pass_joins_its_record():
    assert [record["began"] for record in asked().history[1:]] == [0, 0.25, 0, 0.5, 0.75]
