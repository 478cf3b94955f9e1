"""What the guide says of several processes: its commands are such, and its script does what it says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch.distributed.run import get_args_parser

import ssdml_fast as sf
from ssdml_fast.cli.app import app

PAGES = Path(__file__).resolve().parents[2] / "docs"
GUIDE = (PAGES / "guide/processes.md").read_text(encoding="utf-8")


def launched():
    """What torchrun is given on the pages, and by which page."""
    for page in sorted(PAGES.rglob("*.md")):
        text = page.read_text(encoding="utf-8").replace("\\\n", "")
        for line in re.findall(r"^\s*(?:\$ )?(?:\w+=\S+ |srun )*torchrun (.*)$", text, re.MULTILINE):
            yield page.stem, shlex.split(line, comments=True)


@pytest.mark.parametrize(("page", "words"), list(launched()), ids=lambda value: value if isinstance(value, str) else "")
def test_what_torchrun_is_given_is_what_it_takes(page, words):
    given = get_args_parser().parse_args(words)
    if given.module:
        assert given.training_script == "ssdml_fast"
        command, *rest = given.training_script_args
        known = typer.main.get_command(app).commands[command]
        options = {option for parameter in known.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options
    else:
        assert given.training_script == "graph.py"


def test_the_batch_script_is_one():
    (script,) = re.findall(r"^```bash\n(#!/bin/bash\n.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_processes_find_together_what_one_finds(tmp_path, size):
    """The script of the guide, as torchrun runs it."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    make, script = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    (tmp_path / "graph.py").write_text(script)
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", f"{size}", "graph.py"]
    subprocess.run(launch, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    parts = [np.load(tmp_path / f"neighbors-{rank}.npz") for rank in range(size)]
    x = np.load(tmp_path / "points.npy")
    alone = sf.knn_graph(x, k=10)
    assert [int(part["first"]) for part in parts] == [len(x) * rank // size for rank in range(size)]
    for name in ("indices", "distances"):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), getattr(alone, name))
