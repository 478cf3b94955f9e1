"""Runs a test's code in several processes that gloo connects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

MEET = """
import os
import sys
import traceback
from datetime import timedelta

import torch
from torch import distributed

torch.set_num_threads(1)
rank, size = int(sys.argv[1]), int(sys.argv[2])
distributed.init_process_group(
    "gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=size, timeout=timedelta(seconds=120)
)
"""
RUN = """

def run(code):  # and end without taking torch down, which aborts now and then after DistributedDataParallel
    status = 0
    try:
        exec(code, globals())
        distributed.destroy_process_group()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

"""


def run_together(code: str, size: int, folder: Path, *arguments: object) -> list[tuple[int, str, str]]:
    """What each of so many processes ends with: status, output, errors.

    The code finds its `rank`, their number as `size`, and the arguments from ``sys.argv[4]`` on.
    """
    if not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    meeting, here = folder / "meeting", f"{Path(__file__).parent}"  # other files of tests are found, safe path or not
    children = [
        subprocess.Popen(
            [sys.executable, "-c", f"{MEET}{RUN}run({code!r})", f"{rank}", f"{size}", meeting, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])},
        )
        for rank in range(size)
    ]
    try:
        said = [child.communicate(timeout=300) for child in children]
    finally:
        for child in children:
            child.kill()
    meeting.unlink(missing_ok=True)
    return [(child.returncode, *each) for child, each in zip(children, said, strict=True)]
