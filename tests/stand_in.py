"""CUDA's kernels without a device: compiled for the CPU (native/), behind the bindings that a device has.

While :func:`installed`, torch tensors on the CPU take the way of CUDA tensors, NumPy arrays that of the CPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ssdml_fast import _arrays, _core

ROOT = Path(__file__).resolve().parents[1]


def build(folder: Path) -> ModuleType:
    """Compile the CUDA sources and their bindings as C++; skips the test where that cannot be done."""
    compiler = shutil.which("c++")
    if compiler is None or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("needs a C++ compiler for x86-64")
    sources = [*ROOT.glob("csrc/*/*.cu"), ROOT / "csrc/bindings/cuda.cpp", *ROOT.glob("tests/native/cuda_on_cpu/*.cpp")]
    headers = [
        ROOT / "csrc",
        ROOT / "tests/native/cuda_on_cpu",
        Path(torch.__file__).parent / "include",
    ]  # torch's has pybind11
    headers.append(Path(sysconfig.get_path("include")))
    flags = ["-std=c++20", "-O1", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-w"]
    flags += [f"-I{header}" for header in headers]

    def compile(source: Path) -> str:
        out = str(folder / f"{source.name}.o")
        subprocess.run([compiler, *flags, "-xc++", "-c", str(source), "-o", out], check=True)
        return out

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile, sources))
    library = folder / f"cuda_kernels{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run([compiler, "-shared", *objects, "-o", str(library)], check=True)
    spec = importlib.util.spec_from_file_location("cuda_kernels", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def installed(kernels: ModuleType) -> Iterator[None]:
    """Send torch tensors to these kernels."""

    @contextmanager
    def on_device(x):
        yield 0

    with pytest.MonkeyPatch.context() as patch:
        replace_arrays(patch, "is_cuda", _arrays.is_torch)
        replace_arrays(patch, "on_device", on_device)
        patch.setattr(_core, "cuda", lambda: kernels)
        yield


def replace_arrays(patch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Replace a function of `_arrays` wherever its rooms have it."""
    homes = [module for module in (_arrays, *vars(_arrays).values()) if hasattr(module, "__file__")]
    for home in homes:
        if hasattr(home, name):
            patch.setattr(home, name, value)


@contextmanager
def shared_memory(kernels: ModuleType, n_bytes: int) -> Iterator[None]:
    """Give the device so many bytes of shared memory to a block."""
    library = ctypes.CDLL(kernels.__file__)
    library.cuda_on_cpu_set_shared(ctypes.c_size_t(n_bytes))
    try:
        yield
    finally:
        library.cuda_on_cpu_set_shared(ctypes.c_size_t(227 << 10))
