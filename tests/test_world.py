"""Processes that train together: which rows are whose, and where they agree."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import run_together

from ssdml_fast._world import World


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 9))
def test_rows_are_shared_evenly_and_in_order(n, size, unit):
    parts = [World(rank, size).shard(n, unit) for rank in range(size)]
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    units = [-(-(part.stop - part.start) // unit) for part in parts]
    assert max(units) - min(units) <= 1
    assert all(part.start % unit == 0 or part.start == n for part in parts)


def test_alone_there_is_nothing_to_do():
    world, x = World.here(), torch.rand(5, 3)
    assert (world, world.is_main, world.shard(5)) == (World(0, 1), True, slice(0, 5))
    assert world.gather(x, 5) is x
    assert world.same({"stopped": None}) == {"stopped": None}
    assert (world.join(x), world.every(3), world.once(lambda: 4)) == (x, [3], 4)
    with world.together():
        pass
    before = x.clone()
    world.sum_([x])
    assert torch.equal(x, before)


def test_one_process_is_the_main_one():
    assert [World(rank, 3).is_main for rank in range(3)] == [True, False, False]


TOGETHER = """
import json, os
from ssdml_fast._world import World

world, said, how = World.here(), {}, sys.argv[4]
if how == "agree":
    said["world"] = [world.rank, world.size, world.is_main]
    for n, unit in ((0, 1), (1, 1), (2, 1), (7, 1), (8, 1), (7, 2), (8, 3), (8, 9)):
        for dtype in (torch.float32, torch.int64, torch.bfloat16, torch.bool):
            rows = torch.arange(3 * n).reshape(n, 3).to(dtype)
            whole = world.gather(rows[world.shard(n, unit)].clone(), n, unit)
            said[f"gather {n} {unit} {dtype}"] = whole.dtype == dtype and torch.equal(whole, rows)
    said["scalars"] = torch.equal(world.gather(torch.arange(7)[world.shard(7)], 7), torch.arange(7))
    joined = world.join(torch.full((2 * rank, 2), rank))  # none of the first
    said["join"] = joined.tolist() == [[r, r] for r in range(size) for _ in range(2 * r)]
    said["same"] = world.same({"stopped": f"by {rank}", "score": rank / 3})
    tensors = [torch.full((2, 3), float(rank)).t(), torch.tensor(rank), torch.arange(rank, rank + 4)[::2]]
    world.same_(tensors)
    said["same_"] = [tensor.tolist() for tensor in tensors] == [[[0.0] * 2] * 3, 0, [0, 2]]
    said["every"] = world.every(f"by {rank}") == [f"by {r}" for r in range(size)]
    tensors = [torch.full((2,), float(rank)), torch.tensor(10.0 * rank + 1)]
    world.sum_(tensors)
    said["sum"] = [tensor.tolist() for tensor in tensors]
    calls = []
    said["once"] = world.once(lambda: calls.append(rank) or f"by {rank}") == "by 0" and calls == [0] * world.is_main
    for error in (KeyError("no such key"), type("Local", (Exception,), {})("what was wrong")):
        def fail():
            raise error
        try:
            world.once(fail)
        except Exception as raised:
            said[f"once {type(error).__name__}"] = str(error) in str(raised)
    half = distributed.new_group([size - 1])  # a group of the last alone: its first is not the first of all
    if rank == size - 1:
        said["group"] = World.here(half).same(rank) == rank and World.here(half).every(rank) == [rank]
    else:
        try:
            World.here(half)
        except ValueError as error:
            said["group"] = str(error).startswith("group must hold this process")
else:
    try:
        with world.together():
            if rank == 1 and how == "fail":
                raise ValueError("the disk is full")
            if rank == 1 and how == "die":
                os._exit(3)
            while True:
                world.same(rank)
    except Exception as error:
        said["error"] = [type(error).__name__, str(error)]
print(json.dumps(said), flush=True)
if how != "agree":
    os._exit(0)  # as one does that ends for an error: what connected it is gone
"""


def told_by(size, folder, how):
    """What each of so many processes says, None where it says nothing, and their exit statuses."""
    ended = run_together(TOGETHER, size, folder, how)
    return [json.loads(output) if output else None for _, output, _ in ended], [status for status, _, _ in ended]


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_share_gather_and_agree(tmp_path, size):
    said, status = told_by(size, tmp_path, "agree")
    assert not any(status)
    for rank, each in enumerate(said):
        assert each.pop("world") == [rank, size, rank == 0]
        assert each.pop("same") == {"stopped": "by 0", "score": 0.0}
        ranks = sum(range(size))
        assert each.pop("sum") == [[ranks, ranks], 10 * ranks + size]
        assert len(each) == 40 and all(each.values()), each


def test_what_one_process_fails_by_the_others_tell(tmp_path):
    (first, second), _ = told_by(2, tmp_path, "fail")
    assert first["error"] == ["ProcessError", "process 1 of 2 failed: ValueError: the disk is full"]
    assert second["error"] == ["ValueError", "the disk is full"]


@pytest.mark.slow
def test_a_process_that_ends_without_a_word_ends_the_others(tmp_path):
    said, (_, status, _) = told_by(3, tmp_path, "die")
    assert status == 3 and said[1] is None
    for rank in (0, 2):
        kind, message = said[rank]["error"]
        # the one that finds out first tells the other
        assert kind == "ProcessError" and "ended without a word" in message


GROUPS = """
import os
from ssdml_fast._world import World
from ssdml_fast.exceptions import ProcessError

groups = [distributed.new_group([0, 1]), distributed.new_group([1, 2])]
for group, ranks in zip(groups, ((0, 1), (1, 2)), strict=True):
    if rank in ranks:
        try:
            with World.here(group).together():
                if group is groups[0]:
                    raise ValueError("what all of them refuse")
                if rank == 1:
                    os._exit(3)
                while True:
                    World.here(group).same(rank)
        except (ValueError, ProcessError) as error:
            print(error, flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_what_one_group_failed_by_is_not_told_in_another(tmp_path):
    first, second, third = run_together(GROUPS, 3, tmp_path)
    assert (first[1], second[1]) == ("what all of them refuse\n",) * 2
    assert third[1].startswith("another process than process 1 of 2 ended without a word: "), third[2]


ALONE = """
import sys
from datetime import timedelta
from ssdml_fast._world import met
from ssdml_fast.exceptions import ProcessError

try:
    with met(timedelta(seconds=2)):
        pass
except ProcessError as error:
    sys.exit(f"{error}")
"""


@pytest.mark.parametrize("rank", ["0", "1"])  # the one that the others meet at, and one of the others
def test_a_process_that_does_not_come_is_told(rank):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    meeting = {"WORLD_SIZE": "2", "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    command = [sys.executable, "-c", ALONE]
    ended = subprocess.run(command, env=os.environ | meeting, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert f"the 2 processes did not meet at 127.0.0.1:{port}: " in ended.stderr.splitlines()[-1]


def test_a_port_in_use_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        meeting = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
        command = [sys.executable, "-c", ALONE]
        ended = subprocess.run(command, env=os.environ | meeting, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert f"the 2 processes did not meet at 127.0.0.1:{port}: " in ended.stderr and "in use" in ended.stderr
