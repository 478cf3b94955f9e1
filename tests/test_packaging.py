"""What an installation is made of: the extras, which CUDA compiler builds it, the OpenMP runtime that it runs on."""

import re
import tomllib
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

# --- extras -----------------------------------------------------------------------------------------------------------

ONE_OF = [{"faiss-cpu", "faiss-gpu"}, {"cupy", "cupy-cuda12x", "cupy-cuda13x"}]
"""Distributions that write to the same folder: of each set an environment can hold one."""


def distributions(requirements):
    """Names that these requirements bring, those of the project's own extras included."""
    names = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w, -]+)\])?", requirement).groups()
        if name == PROJECT["name"]:
            for extra in re.split(r", *", extras):
                names |= distributions(EXTRAS[extra])
        else:
            names.add(name.lower())
    return names


@pytest.mark.parametrize("pair", list(combinations(EXTRAS, 2)), ids="+".join)
def test_extras_combine(pair):
    if set(pair) == {"gpu", "gpu-cuda13"}:
        pytest.skip("gpu-cuda13 stands for gpu where the driver is CUDA 13's")
    wanted = distributions(PROJECT["dependencies"] + EXTRAS[pair[0]] + EXTRAS[pair[1]])
    for rivals in ONE_OF:
        assert len(wanted & rivals) <= 1
