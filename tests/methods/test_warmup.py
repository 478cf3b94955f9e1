"""The warm-up: its mini-batches, and its softmax alone and beside the triplets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from trainings import TINY, digits, engine, train

from ssdml_fast.methods import warmup
from ssdml_fast.methods.warmup import labelled_batches


def test_mini_batches_go_through_all_labelled_examples_in_turn():
    labelled = np.array([1, 2, 4, 5, 6])
    batches = list(labelled_batches(labelled, 2, 5, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [2] * 5
    for first in (0, 2):
        assert len(torch.cat(batches[first : first + 2]).unique()) == 4
    assert set(torch.cat(batches).tolist()) <= set(labelled)
    (batch,) = labelled_batches(labelled, 100, 1, np.random.default_rng(0))
    assert sorted(batch.tolist()) == [1, 2, 4, 5, 6]


def test_without_rounds_the_warm_up_is_all():
    result, longer = train(TINY | {"rounds": 0}), train(TINY | {"rounds": 1, "max_epochs": 1})
    assert (result.stopped, len(result.history)) == ("finished", 2)
    assert result.history[1]["val_nmi"] == longer.history[1]["val_nmi"]
    result = train(TINY | {"rounds": 0, "warmup": 0})
    assert (result.stopped, result.best["validation"]) == ("finished", 0)


def test_the_warm_up_moves_network_softmax_and_L():
    made = engine(TINY)
    before = [parameter.clone() for parameter in (*made.model.parameters(), *made.method.parameters())]
    made.one_leg(*made.plan[0], None, None)
    after = [*made.model.parameters(), *made.method.parameters()]
    assert made.plan[0][1].round == 0 and all((b != a).any() for b, a in zip(before, after, strict=True))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_softmax_learns_beside_the_triplets_by_its_weight(weight):
    made = engine(TINY | {"warmup": 0, "softmax_weight": weight})
    before = made.method.warmup.softmax.directions.clone()
    made.one_leg(*made.plan[0], None, None)
    assert (made.method.warmup.softmax.directions != before).any() == (weight > 0)
    record, method = made.history[-1], made.method.settings
    chosen = record["triplets"] // method.triplets_per_example
    labelled = 100 * -(-chosen // made.config.batch_size)  # the 100 in each mini-batch
    assert record["examples"] == chosen + (labelled if weight else 0)


def test_the_softmax_learns_from_blends(monkeypatch):
    seen = []
    monkeypatch.setattr(warmup, "mix_up", lambda images, classes, most: (2 * images, classes / 2))
    made = engine(TINY | {"augment": "none", "mixup": 0.25})
    monkeypatch.setattr(made.method.warmup.softmax, "forward", lambda y, classes: seen.append(classes) or y.sum())
    monkeypatch.setattr(made, "learnt", lambda images, n: seen.append(images) or torch.zeros(n, 32))
    images, labels = digits()[0]
    rows = torch.from_numpy(np.flatnonzero(labels >= 0))
    made.method.warmup.softmax_loss(rows, made.aid, made.model.metric)
    assert torch.equal(seen[0], 2 * torch.from_numpy(images.copy())[rows])
    assert torch.equal(seen[1], F.one_hot(torch.from_numpy(labels.copy())[rows].long(), 10) / 2)
