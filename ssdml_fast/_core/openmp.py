"""One OpenMP runtime for the kernels and torch: the one that torch brings.

The kernels are compiled for GNU OpenMP, but linked to no copy of it; they call whichever the process has made known to
all. A copy of their own, such as wheels usually bring under a name of its own, would be a second pool of threads beside
torch's, fighting for the same cores, and would not hear what torch or ``threadpoolctl`` says to the first.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from importlib.machinery import PathFinder
from pathlib import Path


def load_runtime() -> None:
    """Make known to all the runtime that torch loads, or will load, without importing torch; else the system's.

    Kernels that were built without OpenMP, or linked to their own compiler's runtime, do without it; those that need it
    and have none fail to be imported, by the name of a function that is missing.
    """
    if sys.platform != "linux":
        return
    spec = PathFinder.find_spec("torch")
    for folder in map(Path, spec.submodule_search_locations or ()) if spec is not None else ():
        for library in [*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")]:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            return
    with contextlib.suppress(OSError):
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
