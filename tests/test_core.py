import ast
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import ssdml_fast as sf
from ssdml_fast import _core


def run(code, isa=None):
    """Run `code` in a fresh interpreter with SSDML_ISA set, or unset for None."""
    environment = {name: value for name, value in os.environ.items() if name != "SSDML_ISA"}
    if isa is not None:
        environment["SSDML_ISA"] = isa
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


WHICH = "from ssdml_fast import _core; print(_core.lib.__name__)"


# --- instruction sets -------------------------------------------------------------------------------------------------


def test_baseline_runs_everywhere():
    assert _core.available()[0] == _core.built()[0] == "baseline"
    assert set(_core.available()) <= set(_core.built()) <= set(_core.ISAS)


@pytest.mark.parametrize("isa", _core.available())
def test_the_environment_forces_an_instruction_set(isa):
    result = run(WHICH, isa)
    assert result.stdout.strip() == f"ssdml_fast._core.{isa}", result.stderr


@pytest.mark.parametrize("isa", [None, ""])
def test_the_best_is_taken_by_default(isa):
    assert run(WHICH, isa).stdout.strip() == f"ssdml_fast._core.{_core.available()[-1]}"


def test_the_environment_cannot_ask_for_what_is_not_there():
    result = run("import ssdml_fast as sf; sf.knn_graph", "sse9")
    assert result.returncode != 0
    assert "instruction set must be one of baseline" in result.stderr and "found 'sse9'" in result.stderr


def test_use_switches_and_refuses_without_switching(isa):
    assert _core.lib.__name__ == f"ssdml_fast._core.{isa}"
    with pytest.raises(ValueError, match=r"instruction set must be one of baseline.*found 'sse9'"):
        _core.use("sse9")
    assert _core.lib.__name__ == f"ssdml_fast._core.{isa}"


def test_every_module_offers_the_same(isa):
    def names():
        return [name for name in dir(_core.lib) if not name.startswith("__")]

    here = names()
    _core.use("baseline")
    assert here == names()


def test_the_same_graph_in_every_process():
    code = (
        "import numpy as np, zlib, ssdml_fast as sf; x = np.random.default_rng(0).standard_normal((300, 9));"
        "graph = sf.knn_graph(x, 5); print(zlib.crc32(graph.indices.tobytes() + graph.distances.tobytes()))"
    )
    (checksum,) = {run(code, isa).stdout for isa in _core.available()}
    assert checksum.strip().isdecimal()


# --- interruption -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_calls():
    """Calls of two threads that would take many seconds."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500_000, 40)).astype(np.float32)
    ring = (np.arange(20_000)[:, None] + np.array([1, 2, 5, 70, 900])) % 20_000
    rings = np.add.outer(500 * np.arange(2000), (np.arange(500)[:, None] + [1, 2, 5, 70, 90]) % 500).reshape(-1, 5)
    segments = np.arange(0, len(x) + 1, 1000)
    return {
        "knn_graph": partial(sf.knn_graph, x, 5),
        "knn_graph of unit vectors": partial(sf.knn_graph, x, 5, "cosine"),
        "knn_graph of small segments": partial(sf.knn_graph, np.tile(x[:100_000], (1, 10)), 50, ptr=segments[:101]),
        "knn_search": partial(sf.knn_search, x, x, 5),
        "knn_search with few queries": partial(
            sf.knn_search, np.tile(x[:200], (1, 40)), np.tile(x[:150_000], (1, 40)), 5
        ),
        "propagate_affinity": partial(sf.propagate_affinity, sf.KnnGraph(ring), np.full(len(ring), -1)),
        "propagate_affinity of small segments": partial(
            sf.propagate_affinity, sf.KnnGraph(rings), np.full(len(rings), -1)
        ),
    }


@pytest.fixture(scope="module")
def a_second():
    """Processor time of work that takes a second where the bound below was set (Zen 5 at 2.6 GHz, AVX-512): longer on a
    slower processor, but no longer on a busy one."""
    x = np.random.default_rng(0).standard_normal((6000, 40)).astype(np.float32)

    def used():
        start = time.process_time()
        sf.knn_graph(x, 5, num_threads=1)
        return time.process_time() - start

    return 50 * min(used() for _ in range(5))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
@pytest.mark.parametrize("after", [0.01, 0.1, 0.4])
@pytest.mark.parametrize(
    "call",
    [
        "knn_graph",
        "knn_graph of unit vectors",
        "knn_graph of small segments",
        "knn_search",
        "knn_search with few queries",
        "propagate_affinity",
        "propagate_affinity of small segments",
    ],
)
def test_a_signal_stops_a_long_kernel_soon(long_calls, a_second, call, after):
    """All in processor time, of which a kernel has no more on a machine that is busy with something else."""

    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    start = time.process_time()
    before = signal.signal(signal.SIGPROF, stop)
    try:
        signal.setitimer(signal.ITIMER_PROF, after)
        with pytest.raises(Stopped):
            long_calls[call](num_threads=2)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    looks = 0.1  # seconds between two looks for signals
    assert time.process_time() - start - after < a_second + 2 * looks


# --- configuration ----------------------------------------------------------------------------------------------------


def test_show_config(isa, capsys):
    sf.show_config()
    text = capsys.readouterr().out
    assert sf.__version__ in text and isa in text
    assert "thread" in text.lower() and "CUDA" in text and np.__version__ in text


def test_no_module_takes_the_name_of_a_function():
    """Importing a module binds its name in the package, over whatever had it."""
    code = Path(_core.__file__)
    names = {node.name for node in ast.parse(code.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert "cuda" in names
    assert not names & {*_core.ISAS, *(stub.stem for stub in code.parent.glob("*.pyi"))}


@pytest.mark.parametrize("module", [*_core.built(), "cuda_kernels"])
def test_type_stubs_tell_the_truth(module):
    if importlib.util.find_spec(f"ssdml_fast._core.{module}") is None:
        pytest.skip(f"the module {module} was not built")
    compiled = importlib.import_module(f"ssdml_fast._core.{module}")
    folder = Path(_core.__file__).parent
    stub = folder / ("cuda_kernels.pyi" if module == "cuda_kernels" else "baseline.pyi")
    stubs = {
        f.name: [a.arg for a in f.args.args] for f in ast.parse(stub.read_text()).body if isinstance(f, ast.FunctionDef)
    }
    signatures = {name: f.__doc__.splitlines()[0] for name, f in vars(compiled).items() if callable(f)}
    assert {name: re.findall(r"(\w+): ", signature) for name, signature in signatures.items()} == stubs


# --- checks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 17, 100])
def test_largest_magnitude(isa, size, dtype):
    rng = np.random.default_rng(size)
    x = rng.standard_normal(size).astype(dtype) * 1e30

    def found():
        return _core.lib.largest_magnitude(x.dtype.name, x.ctypes.data, size)

    assert found() == np.abs(x).max(initial=0)
    for value in (-0.0, -np.finfo(dtype).max, -np.inf, np.nan, -np.nan) if size else ():
        x[rng.integers(size)] = value
        np.testing.assert_equal(found(), float(np.abs(x).max()))


@pytest.mark.parametrize("size", [0, 1, 17, 100])
def test_all_indices(isa, size):
    rng = np.random.default_rng(size)
    x = rng.integers(0, 1000, size)
    assert _core.lib.all_indices(x.ctypes.data, size, 1000)
    for value in (1000, -1, 2**62, -(2**62)) if size else ():
        y = x.copy()
        y[rng.integers(size)] = value
        assert not _core.lib.all_indices(y.ctypes.data, size, 1000)
