"""What this installation is made of, for bug reports."""

from __future__ import annotations

import importlib.metadata
import platform

from . import __version__, _core


def show_config() -> None:
    """Print version, compiler, instruction sets, threads, CUDA and the libraries found.

    Examples
    --------
    >>> import ssdml_fast as sf
    >>> sf.show_config()  # doctest: +ELLIPSIS
    ssdml_fast ...
    """
    rows = {
        "ssdml_fast": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "compiler": _core.lib.compiler,
        "instruction sets": f"{_core.lib.isa} in use; built: {', '.join(_core.built())}",
        "threads": str(_core.lib.default_threads()),
        "CUDA kernels": _core.lib.cuda_build,
        **{name: _version(names) for name, names in _OPTIONAL.items()},
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")


_OPTIONAL = {
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "torch": ("torch",),
    "cupy": ("cupy-cuda12x", "cupy-cuda13x", "cupy"),
    "faiss": ("faiss-gpu", "faiss-cpu"),
}


def _version(distributions: tuple[str, ...]) -> str:
    for name in distributions:
        try:
            return f"{importlib.metadata.version(name)} ({name})"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"
