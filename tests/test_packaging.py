"""What an installation is made of: the extras, which CUDA compiler builds it, the OpenMP runtime that it runs on."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from itertools import combinations
from pathlib import Path

import pytest

from ssdml_fast import _core

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


# --- CUDA compiler ----------------------------------------------------------------------------------------------------

NVCC = {  # how each answers --version, and how it ends when it should compile
    "too old": ("echo 'Cuda compilation tools, release 11.8'", "echo 'unknown option -std=c++20'; exit 1"),
    "failing": ("echo 'Cuda compilation tools, release 12.4'", "echo 'error: \"GNU\"; too new!' >&2; exit 3"),
    "broken": ("exit 127", "exit 127"),
}
SAYS = {
    "too old": r"{nvcc} \(11\.8\) has no C\+\+20, which nvcc 12 and newer have",
    "failing": r"{nvcc} \(12\.4\) cannot compile C\+\+20 here: it ended with status 3 and said: error: GNU too new",
    "broken": r"{nvcc} cannot compile C\+\+20 here: it ended with status 127 and said: ",
}


@pytest.fixture(scope="module")
def tools():
    """Where cmake, ninja and a C++ compiler are."""
    needed = {name: shutil.which(name) for name in ("cmake", "ninja", "c++")}
    missing = [name for name, path in needed.items() if path is None]
    if missing:
        pytest.skip(f"configures the build with {', '.join(missing)}, which are not on the PATH")
    least = re.search(r"cmake_minimum_required\(VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
    found = re.search(r"[\d.]+", subprocess.check_output([needed["cmake"], "--version"], text=True))[0]
    if [int(part) for part in found.split(".")] < [int(part) for part in least.split(".")]:
        pytest.skip(f"configures the build with cmake {least} or newer; {needed['cmake']} is {found}")
    return needed


def configure(tools, folder, choice, nvcc, **environment):
    """Configure the build in `folder`; of compilers and tools it sees those of `tools`, and `nvcc` first."""
    pybind11 = pytest.importorskip("pybind11", reason="the build is configured with pybind11")
    seen = folder / "bin"
    seen.mkdir()
    for name, path in tools.items():
        (seen / name).symlink_to(path)
    version, compiling = NVCC[nvcc]
    (seen / "nvcc").write_text(f'#!/bin/sh\ncase "$1" in --version) {version};; *) {compiling};; esac\n')
    (seen / "nvcc").chmod(0o755)
    defined = {
        "SSDML_CUDA": choice,
        "SKBUILD_PROJECT_VERSION": "0",
        "CMAKE_CXX_COMPILER": tools["c++"],
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    command = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(folder / "build")]
    kept = {name: value for name, value in os.environ.items() if name not in ("CUDACXX", "CUDA_PATH", "CUDAHOSTCXX")}
    return subprocess.run(
        command + [f"-D{name}={value}" for name, value in defined.items()],
        env={**kept, "PATH": f"{seen}:/usr/bin:/bin", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("nvcc", NVCC)
def test_a_cuda_compiler_of_no_use_is_left_out_and_explained(tools, tmp_path, nvcc):
    result = configure(tools, tmp_path, "AUTO", nvcc)
    assert result.returncode == 0, result.stdout
    why_not = SAYS[nvcc].format(nvcc=re.escape(str(tmp_path / "bin/nvcc")))
    assert re.search(f"CUDA kernels: not built: {why_not}", result.stdout), result.stdout
    commands = json.loads((tmp_path / "build/compile_commands.json").read_text())
    assert not any(".cu" in Path(command["file"]).suffix for command in commands)
    (told,) = {word for command in commands for word in shlex.split(command["command"]) if "SSDML_CUDA_BUILD" in word}
    assert re.fullmatch(f'-DSSDML_CUDA_BUILD="not built: {why_not}"', told)  # what show_config() will say


@pytest.mark.slow
def test_a_cuda_compiler_of_no_use_is_an_error_where_it_is_asked_for(tools, tmp_path):
    result = configure(tools, tmp_path, "ON", "too old")
    assert result.returncode != 0
    why_not = SAYS["too old"].format(nvcc=re.escape(str(tmp_path / "bin/nvcc")))
    assert re.search(f"SSDML_CUDA=ON, but {why_not}", " ".join(result.stdout.split())), result.stdout


@pytest.mark.slow
def test_a_cuda_compiler_that_is_not_there_is_named(tools, tmp_path):
    result = configure(tools, tmp_path, "AUTO", "failing", CUDACXX=str(tmp_path / "elsewhere/nvcc"))
    assert f"not built: no CUDA compiler ({tmp_path}/elsewhere/nvcc) was found" in result.stdout


# --- OpenMP runtime ---------------------------------------------------------------------------------------------------

needs_gnu_openmp = pytest.mark.skipif(
    sys.platform != "linux" or b"GOMP_parallel" not in Path(_core.lib.__file__).read_bytes(),
    reason="the kernels were not compiled by GCC for OpenMP on Linux",
)
MAPPED = r"""
import re
print(*{line.split()[-1] for line in open("/proc/self/maps") if re.search(r"/lib(gomp|i?omp)\b", line)})
"""


def run(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_gnu_openmp
@pytest.mark.parametrize("first", ["torch", "ssdml_fast"])
def test_the_kernels_run_on_the_openmp_runtime_of_torch(first):
    """What is said to one counts for the other, and there is one: whichever was imported first."""
    use = "import numpy as np, ssdml_fast as sf; sf.knn_graph(np.eye(1000), 5)"
    lines = ["import torch", use] if first == "torch" else [use, "assert 'torch' not in sys.modules", "import torch"]
    told = "torch.set_num_threads(3); assert sf._core.lib.default_threads() == 3"
    code = "\n".join(["import sys", *lines, told, MAPPED])
    (runtime,) = run(code, OMP_NUM_THREADS="2").split()
    assert "libgomp" in runtime


@needs_gnu_openmp
@pytest.mark.parametrize(
    "place", ["torch/lib/libgomp.so.1", "torch/lib/libgomp-a1b2.so.1", "torch.libs/libgomp-a1.so.1.0.0"]
)
def test_the_runtime_of_torch_is_found_without_importing_it(tmp_path, place):
    library = re.findall(r"(/\S*/libgomp\S*)", Path("/proc/self/maps").read_text())[0]
    for folder in {(tmp_path / place).parent, tmp_path / "torch"}:
        folder.mkdir(parents=True, exist_ok=True)
    (tmp_path / "torch/__init__.py").write_text("raise AssertionError('torch was imported')")
    shutil.copy(library, tmp_path / place)
    code = "import ssdml_fast as sf; sf.knn_graph" + MAPPED
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    assert run(code, PYTHONPATH=path).split() == [str(tmp_path / place)]


@needs_gnu_openmp
def test_the_system_runtime_serves_where_torch_brings_none(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").touch()
    code = "import ssdml_fast as sf; sf.knn_graph" + MAPPED
    (runtime,) = run(code, PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, sys.path)])).split()
    assert "libgomp" in runtime and sysconfig.get_path("purelib") not in runtime
