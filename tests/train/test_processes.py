"""Processes that train together reach what one process reaches, and fail together."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from parallel import Idle
from processes import run_together
from trainings import TINY, Normed, Pixels, SmallNet, digits, few_digits, figures, watched

from ssdml_fast.methods import METHODS
from ssdml_fast.models.digits import DigitsNet
from ssdml_fast.models.seeded import seeded
from ssdml_fast.runs.folder import RunFolder
from ssdml_fast.train import fit

SHORT = TINY | {"rounds": 1, "warmup": 10, "partition_size": 300, "batch_size": 20}

TRAIN = """
import json
from datasets import Labelled
from parallel import *
from ssdml_fast.models.digits import DigitsNet
from trainings import *

settings, network, method, folder = json.loads(sys.argv[4]), eval(sys.argv[5]), sys.argv[6], sys.argv[7]
data = few_digits() if sys.argv[8] == "few" else digits()
if sys.argv[8] == "decoded":
    data = [Labelled(images.copy(), labels) for images, labels in data]
losses, states, fitted = watched(settings, seeded(network, rank), sys.argv[8] == "whole", method=method, data=data)
ended = (fitted.history, fitted.model.state_dict()) if fitted else ([], {})
torch.save((losses, states, *ended), f"{folder}/reached {rank}")
"""


def trained(size, folder, settings, network, method="ssdml", how="first"):
    """What each of so many processes reaches: its `"first"` steps, those with `"few"` labels or on what is `"decoded"`,
    or the `"whole"`."""
    arguments = json.dumps(settings), network.__name__, method, folder, how
    for status, _, errors in run_together(TRAIN, size, folder, *arguments):
        assert status == 0 and not errors, errors
    return [torch.load(folder / f"reached {rank}") for rank in range(size)]


def assert_follows(found, alone, tolerance=1e-5, n_steps=20):
    """The first steps are those of one process."""
    (losses, states, _, _), (expected, those, _) = found, alone
    assert len(losses) == len(expected) == n_steps
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
    first, second = trained(2, tmp_path, SHORT, Normed, how="whole")
    assert_follows(first, alone)
    assert_equal(first, second)
    assert first[2] == second[2]  # the times too


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "settings", "network"),
    [
        (3, {"batch_size": 7}, Normed),
        (3, {"batch_size": 2, "mining": "neighborhood"}, DigitsNet),  # fewer rows than processes
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
    found = trained(size, tmp_path, settings, network)
    assert_follows(found[0], alone)
    for other in found[1:]:
        assert_equal(found[0], other)


@pytest.mark.slow
def test_what_is_decoded_in_parts_is_trained_on_as_arrays_are(tmp_path):
    """Also where whole mini-batches are asked for, as by the warm-up, which mixes them."""
    settings = SHORT | {"workers": 1}
    alone = watched(SHORT, seeded(Normed, 0))
    first, second = trained(2, tmp_path, settings, Normed, how="decoded")
    assert_follows(first, alone)
    assert_equal(first, second)


@pytest.mark.slow
def test_there_may_be_more_processes_than_examples_of_a_class(tmp_path):
    settings = SHORT | {"mining": "neighborhood"}
    alone = watched(settings, seeded(Normed, 0), data=few_digits())
    found = trained(3, tmp_path, settings, Normed, how="few")
    assert_follows(found[0], alone)
    for other in found[1:]:
        assert_equal(found[0], other)


@pytest.mark.slow
def test_half_precision_follows_loosely(tmp_path):
    settings = SHORT | {"precision": "bfloat16"}
    alone = watched(settings, seeded(Normed, 0))
    assert_follows(trained(2, tmp_path, settings, Normed)[0], alone, tolerance=0.05)


@pytest.mark.slow
def test_what_layers_draw_differs_between_processes(tmp_path):
    """SmallNet drops out: so two processes follow each other, and not one."""
    first, second = trained(2, tmp_path, SHORT, SmallNet)
    assert_equal(first, second)
    losses, _, _ = watched(SHORT, seeded(SmallNet, 0))
    assert losses != first[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_repeats_in_two_processes(tmp_path, method):
    settings = SHORT | {"select": "last"}
    (first, second), again = (trained(2, tmp_path, settings, SmallNet, method, "whole") for _ in range(2))
    assert_equal(first, second)
    assert_equal(first, again[0])


# --- resuming ---------------------------------------------------------------------------------------------------------

RESUME = """
import json
from ssdml_fast.exceptions import ProcessError
from trainings import *

settings, folder, stop = json.loads(sys.argv[4]), sys.argv[5], sys.argv[6] == "stop"

def stopping(record):
    if stop and record["validation"] == 3 and record["done"] == 2:
        raise KeyboardInterrupt

try:
    if stop:
        train(settings, seeded(Normed, 0), run=f"{folder}/run", on_batch=stopping)
    else:
        fitted = fit(seeded(Normed, 0), *digits(), run=f"{folder}/run", resume=True)
        torch.save(([], [], fitted.history, fitted.model.state_dict()), f"{folder}/reached {rank}")
except (KeyboardInterrupt, ProcessError) as error:
    print(f"{error}")
"""


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_or_another_number_of_processes(tmp_path):
    settings = SHORT | {"partition_size": 120}
    whole = trained(2, tmp_path, settings, Normed, how="whole")[0]
    arguments = json.dumps(settings), tmp_path
    _, (status, said, errors) = run_together(RESUME, 2, tmp_path, *arguments, "stop")
    assert status == 0 and said == "process 0 of 2 was interrupted\n", errors
    shutil.copytree(tmp_path / "run", tmp_path / "alone")
    for status, _, errors in run_together(RESUME, 2, tmp_path, *arguments, "go on"):
        assert status == 0, errors
    for rank in range(2):
        _, _, history, state = torch.load(tmp_path / f"reached {rank}")
        assert figures(history) == figures(whole[2])
        torch.testing.assert_close(state, whole[3], rtol=0, atol=0)
    alone = fit(seeded(Normed, 0), *digits(), run=tmp_path / "alone", resume=True)
    torch.testing.assert_close(alone.history[-1]["loss"], history[-1]["loss"], rtol=0.01, atol=0.01)


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
    _, _, history, _ = trained(2, tmp_path, SHORT, Normed, how="whole")[0]
    for _, output, errors in resumed:
        assert json.loads(output) == figures(history), errors


KILLED = """
import json, os, signal
from contextlib import suppress
from ssdml_fast.exceptions import ProcessError
from ssdml_fast.train import engine as engines
from trainings import *

settings, method, folder, who, moment = json.loads(sys.argv[4]), *sys.argv[5:8], int(sys.argv[8])
step, engines.SAVED_EVERY = Engine.step, 0
resume, pids = os.path.exists(f"{folder}/run/checkpoint.pt"), [None] * size
distributed.all_gather_object(pids, os.getpid())

def killed(*given):
    global moment
    moment -= 1
    if moment == 0 and f"{rank}" in who:
        for other in who.replace(f"{rank}", "") + f"{rank}":
            with suppress(ProcessLookupError):  # by that one itself
                os.kill(pids[int(other)], signal.SIGKILL)
    return step(*given)

Engine.step = killed
try:
    fitted = train(settings, seeded(SmallNet, 0), method=method, run=f"{folder}/run", resume=resume)
    torch.save((fitted.history, fitted.model.state_dict()), f"{folder}/reached {rank}")
except ProcessError as error:
    sys.exit(f"{error}: {error.__cause__}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])  # a sum of three depends on their order
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_random_moments_processes_go_on_to_the_same(tmp_path, method, size):
    """One alone, which the others do not outlive for long, then all."""
    settings, rng = SHORT | {"select": "last"}, np.random.default_rng(sum(method.encode()))
    losses, _, history, state = trained(size, tmp_path, settings, SmallNet, method, "whole")[0]
    one = f"{rng.integers(size)}"
    for who in (one, "012"[:size], ""):
        moment = rng.integers(2, len(losses) // 2) if who else 0  # so that none comes to the end
        found = run_together(KILLED, size, tmp_path, json.dumps(settings), method, tmp_path, who, moment)
        for rank, (status, _, errors) in enumerate(found):
            assert status == (-signal.SIGKILL if f"{rank}" in who else bool(who)), errors
            if who == one and f"{rank}" != one:  # it sees the other's connection closed, and waits for no time-out
                assert "ended without a word" in errors and "Timed out" not in errors
    for rank in range(size):
        resumed, reached = torch.load(tmp_path / f"reached {rank}")
        assert figures(resumed) == figures(history)
        torch.testing.assert_close(reached, state, rtol=0, atol=0)


# --- networks and losses that use a part ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("network", "method"), [(Idle, "ssdml"), (Normed, "parallel:Views"), (Idle, "parallel:Views")])
def test_networks_and_losses_may_use_a_part(tmp_path, network, method):
    settings, n_steps = (SHORT, 20) if method == "ssdml" else ({"metric_dim": 16}, 10)
    alone = watched(settings, seeded(network, 0), method=method)
    first, second = trained(2, tmp_path, settings, network, method)
    assert_follows(first, alone, n_steps=n_steps)
    assert_equal(first, second)


@pytest.mark.slow
def test_a_network_that_leaves_out_another_part_at_each_step_is_refused(tmp_path):
    arguments = json.dumps(SHORT), "Fickle", "ssdml", tmp_path, "first"
    for status, _, errors in run_together(TRAIN, 2, tmp_path, *arguments):
        assert status == 1 and "network must use the same parameters whenever it is called" in errors


# --- errors -----------------------------------------------------------------------------------------------------------

WRONG = """
import json
from trainings import *

(images, labels), val = digits()
what, run = sys.argv[4], f"{sys.argv[5]}/run"
settings, data, options = TINY | {"warmup": 1}, ((images, labels), val), {}
if rank == 1:
    if what == "argument":
        settings |= {"epochs": 0}
    elif what == "setting":
        settings |= {"learning_rate": 0.5}
    elif what == "data":
        data = (images, np.roll(labels, 1)), val
    elif what == "run":
        options = {"run": run}
if what == "compile":
    settings |= {"compile": True}
    options = {"network": Normed()}
if what == "folder":
    options = {"run": run, "resume": True}
try:
    train(settings, data=data, **options)
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.mark.parametrize(
    ("what", "first", "second"),
    [
        pytest.param(
            "argument",
            ["ProcessError", "process 1 of 2 failed: ValueError: epochs must be at least 1, found 0"],
            ["ValueError", "epochs must be at least 1, found 0"],
        ),
        pytest.param(
            "setting",
            *[["ValueError", "learning_rate must be the same in every process, found others on rank 1"]] * 2,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "data",
            *[["ValueError", "their labels must be the same in every process, found others on rank 1"]] * 2,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "run",
            *[["ValueError", "run and resume must be given in every process or in none"]] * 2,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "compile",
            *[["ValueError", "compile must be False where several processes train a network with batch norm"]] * 2,
            marks=pytest.mark.slow,
        ),
        pytest.param("folder", *[["RunError", "there is no run folder"]] * 2, marks=pytest.mark.slow),
    ],
)
def test_what_is_wrong_in_one_process_is_told_in_all(tmp_path, what, first, second):
    for (_, output, errors), (kind, message) in zip(
        run_together(WRONG, 2, tmp_path, what, tmp_path), (first, second), strict=True
    ):
        found = json.loads(output)
        assert found[0] == kind and message in found[1], errors
    assert not (tmp_path / "run").exists()
