"""A step on a device waits for nothing: by the operators that it uses, where there may be no device.

CUDA's kernels are those of the stand-in; all else runs on the CPU, whose operators are the device's by name, but for
two: the optimiser, which is fused on CUDA, and torch's one_hot, which looks at its values on the CPU alone. What a leg
or a pass begins with may wait: it embeds, builds a graph and mines.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from stand_in import installed
from torch.nn import functional as F
from trainings import TINY, engine
from waits import waits

from ssdml_fast.methods import METHODS

NEIGHBORHOODS = {"mining": "neighborhood", "neighbors": 10}
VARIANTS = [
    ("ssdml", TINY),
    ("ssdml", TINY | {"hard_negatives": 0, "softmax_weight": 0.0, "average": 0.0, "augment": "none"}),
    ("ssdml", TINY | {"metric_update": "unconstrained", "precision": "bfloat16"}),
    ("ssdml", TINY | {"metric_update": "conjugate"}),
    ("ssdml", TINY | NEIGHBORHOODS | {"optimizer": "sgd"}),
    ("ssdml", TINY | NEIGHBORHOODS | {"metric_update": "partition"}),
]


def test_every_method_is_here():
    assert {method for method, _ in VARIANTS} == set(METHODS)


@pytest.fixture(autouse=True)
def one_hot_as_on_a_device(monkeypatch):
    monkeypatch.setattr(F, "one_hot", lambda classes, n: (classes[:, None] == torch.arange(n)).long())


def second_steps(settings, method, kernels, looks=False, scaled=False):
    """What waits in a step of each stage, after one in which the optimisers made their states."""
    made = engine(settings, method=method)
    made.looks = looks
    groups = [{**group, "fused": True, "foreach": None} for group in made.optimizer.param_groups]
    made.optimizer = type(made.optimizer)(groups, fused=True)
    if scaled:
        made.scaler = torch.amp.GradScaler("cpu")
    found = {}
    for stage, leg in {id(stage): (stage, leg) for stage, leg in reversed(made.plan)}.values():
        made.aid.rng = made.seeded(leg)
        work = stage.prepare(leg, made.aid)
        stage.begin_pass(work, made.aid)
        batches = made.feed.ahead(work.batches(np.random.default_rng(0)))
        first, second = on_the_host(next(batches)), on_the_host(next(batches))
        with installed(kernels):
            made.step(stage, first, 0.1)
            with waits() as seen:
                loss = made.step(stage, second, 0.1)
        assert loss.isfinite()
        found[leg.kind] = seen
    return found


def on_the_host(batch):
    """A mini-batch whose classes are no tensor, as the host may read its own."""
    classes = getattr(batch.extra, "classes", None)
    return (
        batch
        if classes is None
        else dataclasses.replace(batch, extra=dataclasses.replace(batch.extra, classes=classes.numpy()))
    )


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize(("method", "settings"), VARIANTS)
def test_a_step_waits_for_nothing(method, settings, scaled, stand_in):
    found = second_steps(settings, method, stand_in, scaled=scaled)
    assert len(found) == 2 and all(seen == [] for seen in found.values()), found


def test_looking_at_what_is_computed_is_seen_to_wait(stand_in):
    found = second_steps(TINY, "ssdml", stand_in, looks=True)
    assert found["warm-up"] and found["partition"]
