"""Processes that train together: which rows are whose, and where they agree."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssdml_fast.train.world import World


@given(st.integers(0, 200), st.integers(1, 9))
def test_rows_are_shared_evenly_and_in_order(n, size):
    parts = [World(rank, size).shard(n) for rank in range(size)]
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_alone_there_is_nothing_to_do():
    world, x = World.here(), torch.rand(5, 3)
    assert (world, world.is_main, world.shard(5)) == (World(0, 1), True, slice(0, 5))
    assert world.gather(x, 5) is x
    assert world.same({"stopped": None}) == {"stopped": None}
    before = x.clone()
    world.mean_([x])
    assert torch.equal(x, before)


def test_one_process_is_the_main_one():
    assert [World(rank, 3).is_main for rank in range(3)] == [True, False, False]


TOGETHER = """
import json, sys
import torch
from torch import distributed
from ssdml_fast.train.world import World

rank, size, meeting = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
world, said = World.here(), {}
said["world"] = [world.rank, world.size, world.is_main]
for n in (0, 1, 2, 7, 8):
    for dtype in (torch.float32, torch.int64):
        rows = torch.arange(3 * n, dtype=dtype).reshape(n, 3)
        whole = world.gather(rows[world.shard(n)].clone(), n)
        said[f"gather {n} {dtype}"] = whole.shape == rows.shape and torch.equal(whole, rows)
said["same"] = world.same({"stopped": f"by {rank}", "score": rank / 3})
tensors = [torch.full((2,), float(rank)), torch.tensor(10.0 * rank + 1)]
world.mean_(tensors)
said["mean"] = [tensor.tolist() for tensor in tensors]
print(json.dumps(said))
distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_gather_and_agree(tmp_path, size):
    if not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    commands = [[sys.executable, "-c", TOGETHER, f"{rank}", f"{size}", tmp_path / "meeting"] for rank in range(size)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    said = [json.loads(child.communicate(timeout=300)[0]) for child in children]
    for rank, each in enumerate(said):
        assert each.pop("world") == [rank, size, rank == 0]
        assert each.pop("same") == {"stopped": "by 0", "score": 0.0}
        mean = (size - 1) / 2
        assert each.pop("mean") == [[mean, mean], 10 * mean + 1]
        assert len(each) == 10 and all(each.values()), each
