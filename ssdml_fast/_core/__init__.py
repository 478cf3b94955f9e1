"""Chooses the compiled kernels to run: one extension module per instruction set, all built from the same sources.

Whole modules, not functions, are compiled per instruction set, so no code built for AVX-512 can leak into what an older
processor runs, and the C++ needs no dispatch of its own. The best module that the processor supports is taken;
the environment variable ``SSDML_ISA`` (``baseline``, ``avx2`` or ``avx512``) forces another.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

from . import openmp

if TYPE_CHECKING:
    from . import baseline as lib

ISAS = ("baseline", "avx2", "avx512")  # from the least to the most demanding


forked = False
"""Whether this process is a fork: GNU OpenMP's threads do not survive one, so kernels must then run on one thread."""


def _note_fork() -> None:
    global forked
    forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def threads(asked: int | None) -> int:
    """Threads for a kernel: those asked for, or what OMP_NUM_THREADS, threadpoolctl or the processor says."""
    number = lib.default_threads() if asked is None else asked
    return 1 if forked else number


def built() -> tuple[str, ...]:
    """Instruction sets that this installation has kernels for."""
    return tuple(isa for isa in ISAS if importlib.util.find_spec(f"{__name__}.{isa}") is not None)


def available() -> tuple[str, ...]:
    """Instruction sets that this installation has kernels for and this processor can run."""
    supported = importlib.import_module(f"{__name__}.baseline").supported_isas()
    return tuple(isa for isa in built() if isa in supported)


def use(isa: str) -> None:
    """Run the kernels built for `isa` from now on: they are ``_core.lib``, to be read anew at each call."""
    if isa not in available():
        raise ValueError(f"instruction set must be one of {', '.join(available())} here, found {isa!r}")
    globals()["lib"] = importlib.import_module(f"{__name__}.{isa}")


def has_cuda() -> bool:
    """Whether this installation has CUDA kernels."""
    return importlib.util.find_spec(f"{__name__}.cuda_kernels") is not None


def cuda() -> Any:
    """Return the module of CUDA kernels, or say why there is none."""
    if not has_cuda():
        raise RuntimeError(
            f"this installation of ssdml_fast has no CUDA kernels ({lib.cuda_build}); install it again where nvcc is "
            "on the PATH, or move the arrays to the CPU"
        )
    return importlib.import_module(f"{__name__}.cuda_kernels")


if "baseline" not in built():
    raise ImportError(
        "the compiled kernels of ssdml_fast are missing: install the package (pip install .) rather than importing it "
        "from its source folder"
    )
openmp.load_runtime()
use(os.environ.get("SSDML_ISA") or available()[-1])
