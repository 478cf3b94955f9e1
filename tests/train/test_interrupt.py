"""Signals that end a program wait for the end of a step, and are then what they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from trainings import TINY, train

from ssdml_fast._signals import ENDING
from ssdml_fast.methods.ssdml import SSDML
from ssdml_fast.runs.folder import RunFolder
from ssdml_fast.train import interrupt
from ssdml_fast.train.interrupt import Held, Stopped, as_ctrl_c


@pytest.fixture(autouse=True)
def handlers():
    """Each signal has a handler of Python; whatever a test does to them goes with it."""
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, raises)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raises(number, frame):
    raise Stopped(number)


@pytest.mark.parametrize("number", ENDING)
def test_what_arrives_within_a_step_comes_at_its_end(number):
    held, done = Held(), []
    with pytest.raises(Stopped) as stopped, held.signals():
        with held:
            signal.raise_signal(number)
            done.append("step")
        done.append("another")
    assert done == ["step"] and stopped.value.number == number and not held.broken
    assert all(signal.getsignal(each) is raises for each in ENDING)


def test_between_steps_it_comes_at_once():
    held = Held()
    with pytest.raises(Stopped), held.signals():
        with held:
            pass
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it went on")


def test_a_second_one_comes_at_once_unless_it_says_the_same(monkeypatch):
    now, held, done = iter([5.0, 5.1, 5.0 + interrupt.ONE_WISH]), Held(), []
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: next(now))
    with pytest.raises(Stopped), held.signals(), held:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
            done.append(number)
    assert done == [signal.SIGINT, signal.SIGTERM] and held.broken


def test_another_process_than_the_first_goes_on_until_it_fails_by_that_ones_end(monkeypatch):
    now, held, done = iter([5.0, 5.5, 5.0 + interrupt.FOLLOWING]), Held(follows=True), []
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: next(now))
    with pytest.raises(Stopped), held.signals():
        signal.raise_signal(signal.SIGTERM)
        for step in range(3):
            with held:
                done.append(step)
    assert done == [0, 1]
    now, held = iter([5.0]), Held(follows=True)
    with pytest.raises(Stopped) as stopped, held.signals(), held:
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError
    assert isinstance(stopped.value.__context__, ZeroDivisionError)


def test_what_repeats_while_the_stop_is_seen_to_is_one_with_it():
    held, saved = Held(), []
    with pytest.raises(Stopped) as stopped, held.signals():
        try:
            with held:
                signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            with held:
                signal.raise_signal(signal.SIGTERM)
                saved.append(True)
            raise
    assert saved and stopped.value.number == signal.SIGTERM


def test_a_handler_that_goes_on_does_so_each_time():
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    held = Held()
    with held.signals():
        for before in range(3):
            with held:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)
                assert len(seen) == before
        signal.raise_signal(signal.SIGTERM)
    assert len(seen) == 4


def test_an_error_of_the_step_does_not_lose_it():
    held = Held()
    with pytest.raises(Stopped) as stopped, held.signals(), held:
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError
    assert isinstance(stopped.value.__context__, ZeroDivisionError) and held.broken


def test_what_is_ignored_stays_so_and_what_another_handles_since():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    held = Held()
    with held.signals():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN and signal.getsignal(signal.SIGINT) is raises


def test_another_thread_leaves_them_alone():
    seen = []

    def go():
        held = Held()
        with held.signals(), held, as_ctrl_c():
            seen.extend(signal.getsignal(number) for number in ENDING)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    assert seen == [raises] * len(ENDING)


def test_what_would_end_the_process_is_as_ctrl_c():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    with pytest.raises(KeyboardInterrupt) as stopped, as_ctrl_c():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.number == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# --- of a training ----------------------------------------------------------------------------------------------------


def signalled(number, after=3):
    """A method to which a signal comes within its loss."""
    losses = []

    class Signalled(SSDML):
        def loss(self, batch, aid):
            losses.append(batch)
            if len(losses) == after:
                signal.raise_signal(number)
                assert signal.getsignal(number) is not raises
            return super().loss(batch, aid)

    return Signalled, losses


def test_a_training_is_saved_as_the_step_has_ended(tmp_path):
    settings, run = TINY | {"rounds": 1, "warmup": 0, "validations": 2, "batch_size": 10}, RunFolder(tmp_path / "run")
    method, losses = signalled(signal.SIGTERM)
    with pytest.raises(Stopped):
        train(settings, method=method, run=run)
    assert len(losses) == 3 and run.read_within(run.read_checkpoint()["id"])["place"]["batch"] == 3
    assert all(signal.getsignal(number) is raises for number in ENDING)


def test_where_there_is_nothing_to_save_nothing_is_held(tmp_path):
    method, losses = signalled(signal.SIGTERM)
    with pytest.raises(Stopped):
        train(TINY | {"rounds": 1, "warmup": 0}, method=method)
    assert len(losses) == 3


UNHANDLED = """
import signal, sys
from test_interrupt import *

signal.signal(signal.SIGTERM, signal.SIG_DFL)
method, _ = signalled(signal.SIGTERM)
method.__module__, method.__qualname__ = "test_interrupt", "SSDML"
train(TINY | {"rounds": 1, "warmup": 0, "batch_size": 10}, method=method, run=RunFolder(sys.argv[1]))
"""


@pytest.mark.slow
def test_what_nobody_handles_kills_as_before_after_the_state_is_saved(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", UNHANDLED, str(tmp_path / "run")]
    child = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False)
    assert child.returncode == -signal.SIGTERM
    run = RunFolder(tmp_path / "run")
    assert run.read_within(run.read_checkpoint()["id"])["place"]["batch"] == 3
