"""Without the extra `train` the kernels work, and a training that needs none of it; what does says so in one line."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ssdml_fast.cli import NEEDED

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
EVERY_KERNEL = Path(__file__).with_name("every_kernel.py")

BARE = f"""
import sys

class Without:  # finds what there is, but for the modules of the extra
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {NEEDED} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""

TRAIN = """
import numpy
from torch import nn
from ssdml_fast.runs.folder import RunFolder
from ssdml_fast.train import Config, fit
network, last = nn.Identity(), Config(metric_dim=2, select="last")
data = numpy.random.default_rng(0).random((40, 4), numpy.float32), numpy.arange(40) % 2
"""


def bare(code):
    command = [sys.executable, "-c", BARE + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_every_kernel_works_without_the_extra():
    result = bare(EVERY_KERNEL.read_text(encoding="utf-8"))
    assert result.returncode == 0, result.stderr


def test_a_training_without_validation_or_run_folder_works_without_the_extra():
    result = bare(TRAIN + "print(fit(network, data, settings={'rounds': 2}, config=last, device='cpu').stopped)")
    assert (result.returncode, result.stdout) == (0, "finished\n"), result.stderr


@pytest.mark.parametrize(
    ("code", "needs"),
    [
        ("import ssdml_fast; ssdml_fast.SSDML", "an estimator needs safetensors, scikit-learn, threadpoolctl"),
        (f"{TRAIN}fit(network, data, data)", "validation needs scikit-learn, threadpoolctl"),
        (f"{TRAIN}fit(network, data, config=last, run=RunFolder('run'))", "a run folder needs safetensors"),
        ("from ssdml_fast.report.page import write_report", "a report needs jinja2, matplotlib, safetensors, "),
        ("from ssdml_fast.data import load; load('digits')", "load_digits needs scikit-learn"),
        ("from ssdml_fast.data.pictures import decode_images; decode_images([b''], ['a'])", "image files needs Pillow"),
        (
            "import numpy; from ssdml_fast.evaluate import silhouette as s; s(numpy.eye(3), [0, 0, 1])",
            "silhouette needs",
        ),
    ],
)
def test_what_needs_the_extra_says_so(code, needs):
    result = bare(code)
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1 and last.startswith("ImportError: ")
    assert needs in last and last.endswith(": pip install 'ssdml-fast[train]'")


def test_the_command_line_says_so_without_a_traceback():
    result = bare(
        "import runpy; sys.argv = ['ssdml-fast', 'train']; runpy.run_module('ssdml_fast', run_name='__main__')"
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "ssdml-fast: the command line needs jinja2, matplotlib, Pillow, rich, safetensors, scikit-learn, "
        "threadpoolctl, typer: pip install 'ssdml-fast[train]'\n"
    )


def test_the_extra_brings_what_the_command_line_needs():
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    assert sorted(names.get(module, module) for module in NEEDED) == sorted(r.split(">=")[0] for r in extras["train"])
