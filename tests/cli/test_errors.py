"""What the user gave wrong, and what the machine lacks, is one line and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from ssdml_fast.cli.app import app
from ssdml_fast.cli.settings import errors_told

LONG = "x" * 300  # more than a file system takes in one name


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "2000"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", LONG], "File name too long"),
        (["evaluate", f"{LONG}.npz"], f"at {LONG}.npz"),
        (["report", LONG], f"run folder {LONG} cannot be looked at: File name too long"),
        (["train", "--resume", LONG], f"run folder {LONG} cannot be looked at: File name too long"),
        (["train", "--config", LONG], f"config {LONG} cannot be read"),
        (["train", "--out", LONG, "--rounds", 1], f"run folder {LONG} cannot be made: File name too long"),
        (["train", "--data", f"images:{LONG}"], "File name too long"),
        (["train", "--data", "images:nowhere", "--device", "cuda:99"], "device must be there, found 'cuda:99'"),
        (["train", "--data", f"features:{LONG}"], f"{LONG}, found"),
        (["train", "--data", "images:circle/a"], "circle"),
        (["train", "--out", "circle/a", "--rounds", 1], "cannot be made: Too many levels of symbolic links"),
        (["evaluate", "circle"], "there is no run folder circle"),
    ],
)
def test_a_path_that_cannot_be_looked_at_is_one_clear_error(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output and "Traceback" not in result.output


def test_a_folder_that_may_not_be_entered_is_one_clear_error(tmp_path, monkeypatch):
    def refused(path, of=Path.stat, **options):
        if tmp_path in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return of(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    for command in (["evaluate"], ["report"], ["train", "--resume"], ["train", "--out"]):
        result = invoke(*command, tmp_path / "run")
        assert result.exit_code == 2 and "Permission denied" in result.output, result.output


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(36, "File name too long", "a/b"), "a/b: File name too long"),
        (OSError("something"), "something"),
        (ImportError("lib.so: cannot map"), "lib.so: cannot map"),
        (MemoryError(), "there is too little memory"),
        (MemoryError("std::bad_alloc"), "there is too little memory: std::bad_alloc"),
        (MemoryError("cpu has too little memory: lower batch_size"), "cpu has too little memory: lower batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "can't allocate memory: 9 bytes"),
        (torch.OutOfMemoryError("CUDA out of memory."), "CUDA out of memory."),
    ],
    ids=repr,
)
def test_what_the_machine_lacks_is_one_line(error, message):
    with pytest.raises(typer.BadParameter) as raised, errors_told():
        raise error
    assert message in raised.value.message


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), BrokenPipeError(32, "Broken pipe"), KeyError("x")])
def test_other_errors_are_as_they_are(error):
    with pytest.raises(type(error)) as raised, errors_told():
        raise error
    assert raised.value is error


def shell(command, **environment):
    """Run `ssdml-fast` with arguments in a shell of its own."""
    done = subprocess.run(
        ["bash", "-c", command.format(run=f"{sys.executable} -m ssdml_fast")], env=os.environ | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return done.returncode, " ".join(done.stdout.replace("│", " ").split())


@pytest.mark.slow
def test_without_a_compiler_it_is_one_line_and_nothing_is_made(tmp_path):
    found = {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "COLUMNS": "200"}
    code, said = shell(f"PATH=/nowhere {{run}} train --compile --out {tmp_path}/run --rounds 1", **found)
    assert code == 2 and "Traceback" not in said
    assert "compile must be False, as torch.compile does not work here: " in said and "C++ compiler" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_too_little_memory_is_one_line(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.zeros((150_000, 600), np.float16), y=np.arange(150_000) % 10)
    code, said = shell(f"ulimit -v 1300000; {{run}} train --data features:{tmp_path}/f.npz --out {tmp_path}/run")
    assert code == 2 and "Traceback" not in said, said


def test_names_are_shown_as_they_are_though_they_look_like_markup(tmp_path):
    data, out = tmp_path / "[b]:dog:.npz", tmp_path / "[red]:cat:"
    y = np.arange(60) % 2
    np.savez(data, x=np.random.default_rng(0).normal(size=(60, 4)) + 3 * y[:, None], y=y)
    evaluated = invoke("evaluate", data)
    trained = invoke("train", "--data", f"features:{data}", "--rounds", 1, "--epochs", 1, "--out", out)
    assert (evaluated.exit_code, trained.exit_code) == (0, 0)
    assert data.name in evaluated.output
    assert f"features:{data}\n" in trained.output
    assert f"run folder: {out}\n" in trained.output
