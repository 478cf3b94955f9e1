"""Neighbours among the points of several processes are those of one process, bit by bit."""

from __future__ import annotations

import json

import pytest
from processes import run_together

SAME = """
import itertools, json
import numpy as np
import ssdml_fast as sf
from strategies import METRICS, make_points

def cut(x, sizes):
    ends = np.cumsum(sizes)
    return x[ends[rank] - sizes[rank] : ends[rank]]

def equal(a, b):
    a, b = (torch.as_tensor(each) for each in (a, b))
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)

said, rng = {}, np.random.default_rng(0)
SIZES = {
    1: [(90,), (2,)],
    2: [(45, 45), (80, 10), (0, 90), (90, 0), (1, 89), (1, 1), (301, 260)],
    3: [(30, 30, 30), (50, 0, 40), (0, 0, 90), (1, 1, 1), (7, 300, 260)],
    4: [(25, 25, 20, 20), (1, 40, 0, 49), (130, 250, 301, 1)],
}[size]
quick = sys.argv[4] == "quick"
KINDS = ("grid",) if quick else ("gaussian", "grid", "duplicates")
for sizes, metric, kind in itertools.product(SIZES[:3] if quick else SIZES, METRICS, KINDS):
    n = sum(sizes)
    x = torch.from_numpy(make_points(kind, n, 17, rng))
    for k in {min(60, n - 1)} if quick else sorted({1, min(7, n - 1), min(60, n - 1)}):
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            typed = x.to(dtype)
            whole = sf.knn_graph(typed, k, metric)
            shard = sf.distributed.knn_graph(cut(typed, sizes), k, metric)
            name = f"{sizes} {metric} {kind} {k} {dtype}"
            said["graph " + name] = (
                equal(shard.indices, cut(whole.indices, sizes)) and equal(shard.distances, cut(whole.distances, sizes))
            )
            said["place " + name] = (shard.first, shard.n, shard.k) == (sum(sizes[:rank]), n, k)
            if dtype == torch.float32:
                queries = typed.flip(0)[: n // 2 + 1]
                of_queries = [len(queries) * (r + 1) // size - len(queries) * r // size for r in range(size)]
                whole = sf.knn_search(queries, typed, k, metric)
                found = sf.distributed.knn_search(cut(queries, of_queries), cut(typed, sizes), k, metric)
                said["search " + name] = (
                    equal(found.indices, cut(whole.indices, of_queries))
                    and equal(found.distances, cut(whole.distances, of_queries))
                )
            if dtype == torch.float64:
                whole, gathered = sf.knn_graph(typed, k, metric), shard.gather()
                said["gather " + name] = (
                    equal(gathered.indices, whole.indices) and equal(gathered.distances, whole.distances)
                )
print(json.dumps(said))
"""


@pytest.mark.parametrize(
    ("size", "how"), [(2, "quick"), *(pytest.param(size, "all", marks=pytest.mark.slow) for size in (1, 2, 3, 4))]
)
def test_bits_are_those_of_one_process(tmp_path, size, how):
    for status, output, errors in run_together(SAME, size, tmp_path, how):
        assert status == 0, errors
        said = json.loads(output)
        assert len(said) > 100 and [name for name, holds in said.items() if not holds] == []
