"""How the benchmarks are run and reported: shapes, threads, the check before the clock, and the table of ratios."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import itertools
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import ssdml_fast as sf
from ssdml_fast import _core

try:
    from threadpoolctl import threadpool_info, threadpool_limits
except ImportError:  # it comes with scikit-learn, which a CUDA device is timed without

    def threadpool_info() -> list[dict[str, Any]]:
        return []

    def threadpool_limits(limits: int) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()


SECONDS = 1.0  # of timing per method
ROUNDS = (3, 300)  # at least and at most; a call of more than SLOW seconds is timed once
SLOW = 2.0
NOISY = 0.25  # a median is marked where the interquartile range is more than this share of it
OURS = "ssdml_fast"


@dataclass(frozen=True)
class Result:
    operation: str
    shape: str
    threads: int
    method: str
    median: float  # seconds
    noisy: bool
    memory: float | None  # bytes by which a call raised the peak of resident memory or, on a device, of allocated
    target: float | None  # times faster than this peer that ours should be
    share: float | None  # of the rate of torch's matrix product in float32, where the operations can be counted


RESULTS = pytest.StashKey[list[Result]]()
LOAD = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shapes",
        choices=("default", "full"),
        default="default",
        help="full: also shapes and peers that take from ten seconds to minutes per call",
    )
    parser.addoption(
        "--threads",
        type=lambda text: [int(n) for n in text.split(",")],
        default=[_core.lib.default_threads()],
        metavar="N[,N...]",
        help="thread counts to compare at, the same for ours and every peer (default: all cores)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: runs with --shapes full only")
    config.addinivalue_line("python_files", "bench_*.py")
    config.option.benchmark_columns = config.option.benchmark_columns or ["median", "min", "iqr", "rounds"]
    config.stash[RESULTS] = []
    config.stash[LOAD] = os.getloadavg()[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("shapes") == "full":
        return
    deselected = [item for item in items if "full" in item.keywords]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "threads" in metafunc.fixturenames:
        counts = metafunc.config.getoption("threads")
        metafunc.parametrize("threads", counts, indirect=True, ids=[f"threads{n}" for n in counts])


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Hold every library, ours included, to the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)  # torch's own OpenMP and its MKL, which threadpoolctl may not see
    with threadpool_limits(request.param):
        assert _core.lib.default_threads() == request.param
        assert all(pool["num_threads"] <= request.param for pool in threadpool_info())
        yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def race(benchmark: Any, threads: int, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Time one method at one shape, once its answer has been found right.

    The test must be parametrised by ``shape`` and ``method``. ``targets`` says how many times faster than each peer
    ours should be; ``flops`` how many operations the answer takes.
    """

    def run(
        call: Callable[[], Any],
        check: Callable[[Any], None],
        targets: Mapping[str, float] | None = None,
        flops: float | None = None,
    ) -> None:
        operation = request.path.stem.removeprefix("bench_")
        shape, method = (request.node.callspec.params[name] for name in ("shape", "method"))
        seconds, answer = _timed(call)
        check(answer)
        if seconds < SLOW:  # the first call also paid for starting threads and faulting pages in
            seconds, _ = _timed(call)
        rounds = 1 if seconds > SLOW else min(max(math.ceil(SECONDS / seconds), ROUNDS[0]), ROUNDS[1])
        target = (targets or {}).get(method)
        benchmark.group = f"{operation} {shape} threads={threads}"
        benchmark.extra_info.update(operation=operation, shape=shape, threads=threads, method=method, target=target)
        on_device = torch.cuda.is_initialized()
        before = _reset_device_memory() if on_device else 0
        benchmark.pedantic(call, rounds=rounds)
        if benchmark.stats:  # none under --benchmark-disable
            stats = benchmark.stats.stats
            memory = torch.cuda.max_memory_allocated() - before if on_device else _peak_memory(call)
            noisy = stats.iqr > NOISY * stats.median
            share = flops and flops / stats.median / _sgemm_rate(threads)
            result = Result(operation, shape, threads, method, stats.median, noisy, memory, target, share)
            request.config.stash[RESULTS].append(result)
            if on_device:  # a run that is cut off there has no table
                terminal = request.config.pluginmanager.get_plugin("terminalreporter")
                terminal.ensure_newline()
                terminal.write_line(f"measured: {shape}, {method}: {_ms(result)} ms, {_mib(result)} MiB")

    return run


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    answer = call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - started, answer


@functools.cache
def _sgemm_rate(threads: int) -> float:
    """Operations per second of torch's float32 matrix product with as many threads as are now set."""
    a = torch.rand(2048, 2048)
    return 2 * 2048**3 / min(_timed(lambda: a @ a)[0] for _ in range(5))


def _reset_device_memory() -> int:
    """Forget the peak; bytes that are allocated."""
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak_memory(call: Callable[[], Any]) -> float | None:
    """Bytes by which a call raises the peak of resident memory; None where the system does not tell (not Linux)."""

    def resident(which: str) -> int:
        return 1024 * int(re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]

    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls have freed must not hide what this one takes
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
        before = resident("VmRSS")
    except (OSError, AttributeError):
        return None
    call()
    return max(resident("VmHWM") - before, 0)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["ssdml_fast"] = _config()  # so that comparing runs of different builds warns


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Iterator[None]:
    try:
        yield  # pytest-benchmark's own tables first, so that the ratios end the output
    finally:
        if config.stash[RESULTS]:
            _report(terminalreporter, config)


def _report(terminal: pytest.TerminalReporter, config: pytest.Config) -> None:
    results = config.stash[RESULTS]
    terminal.section("times faster than each peer (median; same inputs, threads and answers)")
    terminal.write_line("; ".join(f"{name}: {value}" for name, value in _config().items()))
    before, after = config.stash[LOAD], os.getloadavg()[0]
    terminal.write_line(f"load average: {before:.1f} before, {after:.1f} after")
    if before > 1 or after > max(result.threads for result in results) + 1:
        terminal.write_line("other processes were running: these figures are not to be relied on", yellow=True)
    if any(result.noisy for result in results):
        terminal.write_line("~ the rounds differed much", yellow=True)
    for operation, of_operation in itertools.groupby(results, lambda result: result.operation):
        rows = [("shape", "threads", "ours ms", "MiB", "of sgemm", "peer", "peer ms", "MiB", "ratio", "target")]
        colours: list[dict[str, bool]] = [{"bold": True}]
        for group in _groups(of_operation):
            shape, threads = next((result.shape, str(result.threads)) for result in group.values())
            ours = group.pop(OURS, None)
            lead = (shape, threads, _ms(ours), _mib(ours), f"{ours.share:.0%}" if ours and ours.share else "")
            if not group:
                rows.append((*lead, "", "", "", "", ""))
                colours.append({})
            for peer in group.values():
                ratio = peer.median / ours.median if ours else None
                rows.append((*lead, peer.method, _ms(peer), _mib(peer), _times(ratio), _times(peer.target)))
                reached = None if ratio is None or peer.target is None else ratio >= peer.target
                colours.append({} if reached is None else {"green" if reached else "red": True})
                lead = ("", "", "", "", "")
        terminal.write_line("")
        terminal.write_line(operation, bold=True)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row, colour in zip(rows, colours, strict=True):
            cells = (
                text.ljust(width) if i in (0, 5) else text.rjust(width)
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            )
            terminal.write_line("  " + "  ".join(cells).rstrip(), **colour)


def _groups(results: Iterator[Result]) -> list[dict[str, Result]]:
    groups: dict[tuple[str, int], dict[str, Result]] = {}
    for result in results:
        groups.setdefault((result.shape, result.threads), {})[result.method] = result
    return list(groups.values())


def _ms(result: Result | None) -> str:
    if result is None:
        return "-"
    ms = 1e3 * result.median
    return "~" * result.noisy + (f"{ms:,.3g}" if ms < 100 else f"{ms:,.0f}")


def _mib(result: Result | None) -> str:
    return "-" if result is None or result.memory is None else f"{result.memory / 2**20:.3g}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def _config() -> dict[str, str]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        sf.show_config()
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in text.getvalue().splitlines())
