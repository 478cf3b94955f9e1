"""Processes that train together reach what one process reaches, and fail together."""

from __future__ import annotations

import json

import pytest
import torch
from processes import run_together
from trainings import TINY, Normed, Pixels, SmallNet, figures, watched

from ssdml_fast.models.seeded import seeded
from ssdml_fast.runs.folder import RunFolder

NETWORKS = {"normed": Normed, "small": SmallNet, "pixels": Pixels}
SHORT = TINY | {"rounds": 1, "warmup": 10}

TRAIN = """
import json
from trainings import *

settings, network, folder = json.loads(sys.argv[4]), eval(sys.argv[5]), sys.argv[6]
losses, states, fitted = watched(settings, seeded(network, rank))
reached = fitted.model.state_dict()
torch.save((losses, states, fitted.history, reached), f"{folder}/reached {rank}")
"""


def reached(size, folder, settings, network):
    """What each of so many processes reaches."""
    for status, _, errors in run_together(TRAIN, size, folder, json.dumps(settings), network.__name__, folder):
        assert status == 0 and not errors, errors
    return [torch.load(folder / f"reached {rank}") for rank in range(size)]


def assert_follows(found, alone, tolerance=1e-5):
    """The first steps are those of one process."""
    (losses, states, _, _), (expected, those, _) = found, alone
    assert len(losses) == len(expected) > 12
    torch.testing.assert_close(losses, expected, rtol=tolerance, atol=tolerance)
    for state, other in zip(states, those, strict=True):
        torch.testing.assert_close(state, other, rtol=tolerance, atol=tolerance)


def assert_equal(one, other):
    """Two processes, or trainings, reached the same, bit for bit."""
    torch.testing.assert_close((one[0], one[1], one[3]), (other[0], other[1], other[3]), rtol=0, atol=0)
    assert figures(one[2]) == figures(other[2])


def test_two_processes_follow_one(tmp_path):
    """With augmentation, mixed images, batch normalisation, and a softmax beside the triplets."""
    alone = watched(SHORT, seeded(Normed, 0))
    first, second = reached(2, tmp_path, SHORT, Normed)
    assert_follows(first, alone)
    assert_equal(first, second)
    assert first[2] == second[2]  # the times too


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "settings", "network"),
    [
        (3, {"batch_size": 7}, Normed),
        (3, {"batch_size": 2, "mining": "neighborhood", "partition_size": 20}, Normed),  # fewer triplets than processes
        (2, {"augment": "strong", "optimizer": "sgd", "average": 0.0}, Normed),
        (2, {"metric_update": "conjugate"}, Normed),
        (2, {"metric_update": "partition", "mining": "neighborhood"}, Normed),
        (2, {"metric_update": "unconstrained"}, Normed),
        (2, {}, Pixels),
    ],
)
def test_several_processes_follow_one(tmp_path, size, settings, network):
    settings = SHORT | settings
    alone = watched(settings, seeded(network, 0))
    found = reached(size, tmp_path, settings, network)
    assert_follows(found[0], alone)
    for other in found[1:]:
        assert_equal(found[0], other)


SIGNALLED = """
import json, signal
from trainings import *
from ssdml_fast.train.interrupt import Stopped, as_ctrl_c

settings, folder, resume = json.loads(sys.argv[4]), sys.argv[5], sys.argv[6] == "resume"
step, steps = Engine.step, 0

def signalled(*given):
    global steps
    steps += 1
    if (rank, steps, resume) == (0, 4, False):
        signal.raise_signal(signal.SIGTERM)
    loss = step(*given)
    if (rank, steps, resume) == (1, 3, False):
        signal.raise_signal(signal.SIGTERM)
    return loss

Engine.step = signalled
with as_ctrl_c():
    try:
        fitted = train(settings, seeded(Normed, 0), run=folder, resume=resume)
        print(json.dumps(figures(fitted.history)))
    except Stopped:
        print("stopped", steps)
"""


@pytest.mark.slow
def test_a_signal_stops_all_where_it_stops_the_first_and_what_is_done_is_saved(tmp_path):
    """Though the other got it a step before, which then fails in one for want of the first."""
    given = SIGNALLED, 2, tmp_path, json.dumps(SHORT)
    stopped = run_together(*given, tmp_path / "run", "begin")
    assert [output for _, output, _ in stopped] == ["stopped 4\n", "stopped 5\n"], stopped
    run = RunFolder(tmp_path / "run")
    assert run.read_within(run.read_checkpoint()["id"])["place"]["batch"] == 4
    resumed = run_together(*given, tmp_path / "run", "resume")
    _, _, history, _ = reached(2, tmp_path, SHORT, Normed)[0]
    for _, output, errors in resumed:
        assert json.loads(output) == figures(history), errors
