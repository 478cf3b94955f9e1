"""What is drawn at random follows from the place in the training."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from trainings import CutOff, cut_off, train

from ssdml_fast.runs.folder import RunFolder
from ssdml_fast.train import Batch, Leg, Method, Work, engine
from ssdml_fast.train.seeds import generator_at


class Draws(Method):
    """Notes what is drawn where, by leg, pass, mini-batch and generator."""

    drawn: ClassVar = {}

    def legs(self):
        return [Leg("one", (0,), passes=3), Leg("one", (0, 0), passes=3)]

    def prepare(self, leg, aid):
        self.leg, self.place = leg.position, (leg.position, 0, "leg")
        self.note(aid, "host")

        def batches(rng):
            assert rng is aid.rng
            while True:
                yield Batch(torch.arange(3), rng.random())

        return Work(batches, 4, {"passes": 0})

    def note(self, aid, *kinds):
        for kind in (*kinds, "torch"):
            value = aid.rng.random() if kind == "host" else torch.rand(()).item()
            assert self.drawn.setdefault((self.place, kind), value) == value

    def begin_pass(self, work, aid):
        work.record["passes"] += 1
        self.place = self.leg, work.record["passes"], "pass"
        self.note(aid, "host")

    def loss(self, batch, aid):
        self.place = self.leg, round(24 * aid.through), "step"
        self.note(aid)
        assert self.drawn.setdefault((self.place, "batch"), batch.extra) == batch.extra
        return aid.head(aid.embed(batch.rows)).sum()


def trained(**options):
    return train({"metric_dim": 4, "select": "last"}, method=Draws, **options)


def test_each_place_draws_its_own_and_the_same_when_it_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(Draws, "drawn", {})
    monkeypatch.setattr(engine, "SAVED_EVERY", 0)
    records = [record.get("passes") for record in trained().history]
    places = dict(Draws.drawn)
    assert len(places) == 2 * (2 + 3 * 2 + 12 * 2)
    assert len(set(places.values())) == len(places) - 2  # legs of positions (0,) and (0, 0) are prepared alike
    run = RunFolder(tmp_path / "run")
    for i in range(12):
        with pytest.raises(CutOff):
            trained(run=run, on_batch=cut_off(2 - i % 2), resume=i > 0)
    assert [record.get("passes") for record in trained(run=run, resume=True).history] == records
    assert Draws.drawn == places


def test_no_two_places_share_a_generator():
    places = [(), (0, 0), (0, 1), (1, 0), (1, 1)]
    drawn = [generator_at(0, Leg("one", (2, 5)), *place).random() for place in places]
    drawn += [generator_at(0, Leg("one", position), *place).random() for position in [(0,), (0, 0)] for place in places]
    drawn += [generator_at(1, Leg("one", (0,)), *place).random() for place in places]
    assert len(set(drawn)) == len(drawn) - 1  # but for legs of positions (0,) and (0, 0)
