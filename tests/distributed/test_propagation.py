"""Propagation by several processes is that of one, bit by bit, and fails on all where it fails on one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from processes import run_together

import ssdml_fast as sf

PROBLEMS = """
import json
import numpy as np
import ssdml_fast as sf

def problems():
    for dtype in (np.float32, np.float64):
        for n, ptr in ((700, None), (1700, None), (900, [0, 30, 60, 200, 900])):
            for weighted in (False, True):
                rng = np.random.default_rng(n)
                x = rng.standard_normal((n, 5)).astype(dtype)
                graph = sf.knn_graph(x, 7, ptr=None if ptr is None else np.array(ptr))
                if weighted:
                    weights = rng.random(graph.indices.shape).astype(dtype) + 0.1
                    graph = sf.KnnGraph(graph.indices, graph.distances, graph.ptr, weights)
                for labelled in (0.1, 0.0):
                    yield graph, np.where(rng.random(n) < labelled, rng.integers(0, 20, n), -1)
"""

SAME = (
    PROBLEMS
    + """
said = []
quick = sys.argv[4] == "quick"
for graph, y in problems():
    if quick and (graph.n > 1000 or graph.distances.dtype == np.float64):
        continue
    for library in (np.asarray,) if quick else (np.asarray, torch.as_tensor):
        parts = (graph.indices, graph.distances, graph.ptr, graph.weights)
        of_library = sf.KnnGraph(*(None if part is None else library(part) for part in parts))
        for name in ("propagate_affinity", "propagate_labels"):
            alone = getattr(sf, name)(of_library, library(y))
            found = getattr(sf.distributed, name)(of_library, library(y))
            said.append(
                type(found) is type(alone)
                and all(
                    type(a) is type(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes()
                    for a, b in zip(vars(found).values(), vars(alone).values(), strict=True)
                )
            )
print(json.dumps(said))
"""
)


@pytest.mark.parametrize(
    ("size", "how"), [(2, "quick"), *(pytest.param(size, "all", marks=pytest.mark.slow) for size in (1, 2, 3, 5))]
)
def test_bits_are_those_of_one_process(tmp_path, size, how):
    for status, output, errors in run_together(SAME, size, tmp_path, how):
        assert status == 0, errors
        said = json.loads(output)
        assert len(said) == (16 if how == "quick" else 96) and all(said)


@pytest.mark.parametrize("run", [sf.distributed.propagate_affinity, sf.distributed.propagate_labels])
def test_alone_it_is_the_operation_itself(run):
    graph = sf.knn_graph(np.random.default_rng(0).standard_normal((60, 3)), 4)
    y, shares = np.where(np.arange(60) % 4 == 0, np.arange(60) % 3, -1), []
    found = run(graph, y, 0.9, 1e-7, num_threads=1, progress=shares.append)
    alone = getattr(sf, run.__name__)(graph, y, 0.9, 1e-7)
    assert all(np.array_equal(a, b) for a, b in zip(vars(found).values(), vars(alone).values(), strict=True))
    assert shares[-1] == 1.0
    with pytest.raises(TypeError, match="graph must be a KnnGraph, found ndarray"):
        run(graph.indices, y)


REFUSED = (
    PROBLEMS
    + """
class Stop(Exception):
    pass

def stop(share):
    raise Stop(f"at {share}")

graph, y = next(problems())
large = sf.knn_graph(np.random.default_rng(0).standard_normal((5000, 5)), 10)
of_large = np.arange(5000) % 500 - 1
other, late, last = sf.KnnGraph(graph.indices[:, ::-1]), y.copy(), rank == size - 1
late[-1] = 3
ways = {
    "labels": dict(labels=y[:-1] if last else y),
    "other labels": dict(labels=late if last else y),
    "graph": dict(graph=other if last else graph),
    "no graph": dict(graph=3 if last else graph),
    "gamma": dict(gamma=0.9 if last else 0.99),
    "bad gamma": dict(gamma=2 if last else 0.99),
    "tol": dict(tol=1e-5 if last else 1e-6),
    "progress": dict(progress=3 if last else None),
    "stopped": dict(graph=large, labels=of_large, tol=1e-9, progress=stop if last else None),
}
said = {}
for way, arguments in ways.items():
    for name in ("propagate_affinity", "propagate_labels"):
        try:
            getattr(sf.distributed, name)(**{"graph": graph, "labels": y} | arguments)
        except Exception as error:
            said[f"{way}, {name}"] = f"{type(error).__name__}: {error}"
    found = sf.distributed.propagate_labels(graph, y).posteriors  # the processes go on together
    assert np.array_equal(found, sf.propagate_labels(graph, y).posteriors)
print(json.dumps(said))
"""
)


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_what_one_process_cannot_do_all_refuse(tmp_path, size):
    first, last = "on rank 0", f"on rank {size - 1}"
    expected = {
        "labels": ("ValueError: labels must have shape (700,), one per point", last),
        "other labels": ("ValueError: labels must be the same on every rank, found checksum ", first, last),
        "graph": (
            "ValueError: graph must be the same on every rank, found KnnGraph(n=700, k=7, segments=1) of float32 on "
            "the CPU with checksum ",
            first,
            "of float64",
            last,
        ),
        "no graph": ("TypeError: graph must be a KnnGraph, found int", last),
        "gamma": ("ValueError: gamma must be the same on every rank, found 0.99 on rank 0 and 0.9 on", last),
        "bad gamma": ("ValueError: gamma must", last),
        "tol": ("ValueError: tol must be the same on every rank, found 1e-06 on rank 0 and 1e-05 on", last),
        "progress": ("TypeError: progress must", last),
    }
    for rank, (status, output, errors) in enumerate(run_together(REFUSED, size, tmp_path)):
        assert status == 0, errors
        said = json.loads(output)
        for way, parts in expected.items():
            for name in ("propagate_affinity", "propagate_labels"):
                message = said.pop(f"{way}, {name}")
                assert message.startswith(parts[0]) and all(part in message for part in parts), message
        own = rank == size - 1
        for name, message in said.items():
            assert name.startswith("stopped, ")
            stopped = "Stop: at "
            assert message.startswith(
                stopped if own else f"ProcessError: process {size - 1} of {size} failed: {stopped}"
            )
        assert len(said) == 2


GONE = """
import os
import numpy as np
import ssdml_fast as sf

graph = sf.knn_graph(np.random.default_rng(0).standard_normal((5000, 5)), 10)
try:
    end = (lambda share: os._exit(3)) if rank == 1 else None
    sf.distributed.propagate_affinity(graph, np.arange(5000) % 500 - 1, tol=1e-9, progress=end)
except sf.exceptions.ProcessError as error:
    print(error)
os._exit(0)
"""


@pytest.mark.slow  # it waits for word of the other
def test_a_process_that_is_gone_is_told(tmp_path):
    (status, output, errors), (gone, _, _) = run_together(GONE, 2, tmp_path)
    assert (status, gone) == (0, 3), errors
    assert "process" in output
