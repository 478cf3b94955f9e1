"""Several processes, as torchrun starts them: one training with one voice, and one end for all."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from ssdml_fast.cli import processes
from ssdml_fast.cli.app import app
from ssdml_fast.cli.settings import errors_told
from ssdml_fast.cli.train import _interruptible as interruptible
from ssdml_fast.runs.folder import RunFolder
from ssdml_fast.train.engine import Engine

if not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)

SHORT = ["--rounds", "1", "--epochs", "1", "--partition-size", "400", "--device", "cpu"]  # three legs, seconds

HURT = """
import os, signal, sys
from ssdml_fast.cli import main
from ssdml_fast.train.engine import Engine

one_leg = Engine.one_leg

def hurt(engine, *leg, **how):
    is_first_start = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if engine.place.leg == 1 and is_first_start and os.environ["RANK"] in os.environ["WHO"].split(","):
        if os.environ["HOW"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ["HOW"] == "wait":
            print("waiting", file=sys.stderr, flush=True)
            signal.pause()
        if os.environ["HOW"] == "fail":
            raise OSError(28, "No space left on device", "the data")
    return one_leg(engine, *leg, **how)

Engine.one_leg = hurt
if os.environ["HOW"] == "lose" and os.environ["RANK"] in os.environ["WHO"]:
    os.chdir("elsewhere")
main()
"""


def started(*arguments, n=2, hurt=None, cwd=None, restarts=0):
    """A command that torchrun has so many processes carry out; `hurt`: which, and how, before the second leg."""
    module, env = "ssdml_fast", os.environ | {"COLUMNS": "1000", "OMP_NUM_THREADS": "1"}
    if hurt:
        (cwd / "hurt.py").write_text(HURT)
        module, env = "hurt", env | {"WHO": hurt[0], "HOW": hurt[1]}
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", f"{n}"]
    run += ["--max-restarts", f"{restarts}", "-m", module]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*run, *map(str, arguments)], env=env, cwd=cwd, **streams)


def ended(process):
    """Its exit status, what it printed, and on stderr what is not torchrun's own; and the statuses that that tells."""
    out, err = process.communicate(timeout=300)
    of_ranks = {int(rank): int(s) for rank, s in re.findall(r"rank +: (\d+) .*\n +exitcode +: (-?\d+) ", err)}
    own = [line for line in err.partition("Traceback")[0].splitlines() if not re.match(r"[EW]\d{4} |waiting", line)]
    return process.returncode, out, "\n".join(own).strip(), of_ranks


def history(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one_with_one_voice(tmp_path, quick_maps):
    status, out, err, _ = ended(started("train", *SHORT, "--out", tmp_path / "run"))
    assert (status, err) == (0, ""), err
    assert re.findall(r"^validation +(\d) of 3 ", out, re.MULTILINE) == ["0", "1", "2", "3"]
    assert re.findall(r"^ssdml on (.*)$", out, re.MULTILINE) == ["cpu, 2 processes"] or "cores for each" in out
    for once in ("All rounds are done.", "held-out test images", "run folder: "):
        assert out.count(once) == 1
    assert (tmp_path / "run" / "results.json").is_file()
    alone = CliRunner().invoke(app, ["train", *SHORT, "--out", str(tmp_path / "alone")])
    assert alone.exit_code == 0, alone.output
    for found, expected in zip(history(tmp_path / "run"), history(tmp_path / "alone"), strict=True):
        for name in expected.keys() - {"seconds"}:
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "many"], "--rounds"),
        (["--gamma", "1.5"], "gamma must be between 0 and 1"),
        (["--data", "images:nowhere"], "nowhere"),
        (["--device", "cuda:0"], "device must have no number with several processes"),
        (["--resume", "nowhere"], "there is no run folder nowhere"),
    ],
)
def test_a_usage_error_is_told_once_and_leaves_nothing(tmp_path, arguments, message):
    status, out, err, of_ranks = ended(started("train", *arguments, cwd=tmp_path))
    assert status == 1 and of_ranks == {0: 2, 1: 2}
    assert err.count("Error") == 1 and message in err and not out
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_help_is_said_once():
    status, out, err, _ = ended(started("train", "--help"))
    assert (status, err) == (0, "") and out.count("Usage: ") == 1


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_what_one_process_fails_by_is_told_once_with_how_to_go_on(tmp_path, who):
    process = started("train", *SHORT, "--out", "a run", hurt=(f"{who}", "fail"), cwd=tmp_path)
    status, _, err, of_ranks = ended(process)
    assert status == 1 and of_ranks[who] == 2 and of_ranks[1 - who]
    assert err.count("the data: No space left on device") == 1
    assert err.splitlines() == [
        f"Error: process {who} of 2 failed: the data: No space left on device",
        "The training is saved in a run. To continue:",
        "  torchrun --standalone --nproc-per-node 2 -m ssdml_fast train --resume 'a run'",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_file_that_one_process_does_not_find_is_told_and_no_folder_is_left(tmp_path, who):
    y = np.arange(100) % 5
    np.savez(tmp_path / "x.npz", x=np.eye(5, dtype=np.float32)[y], y=y)
    (tmp_path / "elsewhere").mkdir()
    status, _, err, of_ranks = ended(
        started("train", "--data", "features:x.npz", hurt=(f"{who}", "lose"), cwd=tmp_path)
    )
    assert status == 1 and of_ranks == {who: 2, 1 - who: 1}
    assert err.count("expected an .npz file") == 1
    assert who == 0 or err.startswith("Error: process 1 of 2 failed: expected an .npz file")
    assert not (tmp_path / "runs").exists() and not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.slow
def test_the_first_process_alone_needs_the_run_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for arguments in (["--out", "run", *SHORT], ["--resume", "run"]):
        status, out, err, _ = ended(started("train", *arguments, hurt=("1", "lose"), cwd=tmp_path))
        assert (status, err) == (0, ""), err
        assert out.endswith("run folder: run\n") and len(history(tmp_path / "run")) == 4
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.slow
def test_processes_that_do_not_meet_are_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        meeting = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
        command = [sys.executable, "-m", "ssdml_fast", "train"]
        found = subprocess.run(command, env=os.environ | meeting, capture_output=True, text=True, timeout=300)
    assert found.returncode == 1 and not found.stdout
    assert f"Error: the 2 processes did not meet at 127.0.0.1:{port}: " in found.stderr and "in use" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_process_that_is_killed_ends_all_and_others_go_on(tmp_path, who):
    process = started("train", *SHORT, "--out", "run", n=3, hurt=(f"{who}", "kill"), cwd=tmp_path)
    status, out, err, of_ranks = ended(process)
    assert status == 1 and of_ranks[who] == -signal.SIGKILL and all(of_ranks[rank] for rank in range(3))
    assert err.count("ended without a word") + err.count("Stopped") == 1
    assert err.count("torchrun --standalone --nproc-per-node 3 -m ssdml_fast train --resume run") == 1
    n = who + 1
    status, out, err, _ = ended(started("train", "--resume", "run", n=n, cwd=tmp_path))
    assert (status, err) == (0, ""), err
    assert re.findall(r"^validation +(\d) of 3 ", out, re.MULTILINE) == ["2", "3"]
    assert out.count("held-out test images") == 1


@pytest.mark.slow
def test_processes_that_torchrun_starts_again_meet_anew_and_go_on(tmp_path, quick_maps, monkeypatch):
    def stop_before_the_second(engine, *leg, one_leg=Engine.one_leg):
        if engine.place.leg == 1:
            raise KeyboardInterrupt
        one_leg(engine, *leg)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "one_leg", stop_before_the_second)
        assert CliRunner().invoke(app, ["train", *SHORT, "--out", str(tmp_path / "run")]).exit_code == 130
    process = started("train", "--resume", "run", hurt=("1", "kill"), cwd=tmp_path, restarts=1)
    status, out, err, _ = ended(process)
    assert status == 0 and err.count("ended without a word") + err.count("Stopped") == 1, err
    assert re.findall(r"^validation +(\d) of 3 ", out, re.MULTILINE) == ["2", "3"]
    assert len(history(tmp_path / "run")) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_torchrun_stops_all_and_is_told_once(tmp_path, number, status):
    process = started("train", *SHORT, "--out", "run", hurt=("0,1", "wait"), cwd=tmp_path)
    waiting = [process.stderr.readline() for _ in range(1)]
    while waiting.count("waiting\n") < 2:
        assert waiting[-1], waiting
        waiting.append(process.stderr.readline())
    process.send_signal(number)
    _, out, err, _ = ended(process)
    assert process.returncode
    assert (out + err).count("Stopped; the training is saved in run. To continue:") == 1
    assert (out + err).count("  torchrun --standalone --nproc-per-node 2 -m ssdml_fast train --resume run") == 1


def test_how_to_go_on_is_told_of_a_run_of_ones_own_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    run = RunFolder(tmp_path)
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(processes.Ended) as ended, interruptible(run), errors_told():
        raise OSError(28, "No space left on device", "the data")
    assert "The training is saved" in ended.value.text
    in_use = pytest.raises(typer.BadParameter, match=r"is in use by another training$")
    with RunFolder(tmp_path).lock(), in_use, interruptible(run), errors_told(), run.lock():
        raise AssertionError


def test_what_to_type_to_go_on(monkeypatch):
    arguments = ["train", "--resume", "a run"]
    assert processes.command_of(arguments) == "ssdml-fast train --resume 'a run'"
    for name, value in {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert processes.command_of(arguments) == "ssdml-fast train --resume 'a run'"  # not of torchrun
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert processes.command_of(arguments) == (
        "torchrun --nnodes 2 ... --nproc-per-node 4 -m ssdml_fast train --resume 'a run'"
    )


def test_threads_that_are_fewer_than_cores_are_told(monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert processes.threads_told(4) is None
    assert "OMP_NUM_THREADS=4" in processes.threads_told(1)


def test_devices_are_not_shared(monkeypatch):
    processes.refuse_shared("cuda:1")  # alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="device must have no number with several processes"):
        processes.refuse_shared("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="found 2 processes and 1 CUDA device: start as many"):
        processes.refuse_shared("auto")
    processes.refuse_shared("cpu")
