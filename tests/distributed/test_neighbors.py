"""Neighbours among the points of several processes are those of one process, bit by bit."""

from __future__ import annotations

import json
import os

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


LIBRARIES = """
import numpy as np
import ssdml_fast as sf
from strategies import LAYOUTS, make_points, relayout

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

def as_numpy(part, layout):
    if part.dtype != torch.bfloat16:
        return relayout(part.numpy(), layout)
    return part.view(torch.int16).numpy().view(bfloat16)

group = distributed.new_group([1, 2])  # whose first is not the first of all
if rank:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = torch.from_numpy(make_points("gaussian", 60, 7, np.random.default_rng(0))).to(dtype)
        whole = sf.knn_graph(x, 4)
        mine, place = (x[:20], slice(20)) if rank == 1 else (x[20:], slice(20, 60))
        for layout in LAYOUTS[:-1]:
            of_numpy = rank == 1 and (dtype != torch.bfloat16 or bfloat16 is not None)
            before = as_numpy(mine, layout) if of_numpy else mine.clone()
            shard = sf.distributed.knn_graph(before, 4, group=group)
            found = sf.distributed.knn_search(before, before, 4, group=group)
            assert isinstance(shard.indices, np.ndarray) == isinstance(found.distances, np.ndarray) == of_numpy
            assert torch.equal(torch.as_tensor(shard.indices), whole.indices[place])
            assert torch.equal(torch.as_tensor(shard.distances), whole.distances[place])
            assert torch.equal(torch.as_tensor(found.indices), sf.knn_search(mine, x, 4).indices)
            gathered = shard.gather(group)
            assert isinstance(gathered.indices, np.ndarray) == of_numpy and gathered.distances.shape == (60, 4)
            assert torch.equal(torch.as_tensor(gathered.indices), whole.indices)
        try:
            sf.distributed.GraphShard(shard.indices, shard.distances, 0, 60).gather(group)
        except ValueError as error:
            assert "must hold the 60 points of the graph in order of rank, found one of 60" in str(error), error
        else:
            raise AssertionError("parts in no order")
else:
    try:
        sf.distributed.knn_graph(np.zeros((3, 2)), 1, group=group)
    except ValueError as error:
        assert str(error).startswith("group must hold this process")
    else:
        raise AssertionError("a process that is none of the group's")
"""


@pytest.mark.slow
def test_a_group_of_some_and_each_process_its_own_library(tmp_path):
    for status, _, errors in run_together(LIBRARIES, 3, tmp_path):
        assert status == 0, errors
        assert "Warning" not in errors


REFUSED = """
import json
import os
import numpy as np
import ssdml_fast as sf

x = np.random.default_rng(rank).standard_normal((8, 3)).astype(np.float32)
nan = x.copy()
nan[2, 1] = np.nan
CASES = [  # of a graph: what each rank is called with, beside what all are
    [{}, {"x_shard": nan}],
    [{"x_shard": x.tolist()}, {}],
    [{}, {"x_shard": x.astype(int)}],
    [{"x_shard": x[0]}, {}],
    [{}, {"x_shard": x[:, :0]}],
    [{}, {"x_shard": x[:, :2]}],
    [{}, {"x_shard": x.astype(np.float64)}],
    [{}, {"x_shard": x[:0, :2]}],
    [{"k": 3}, {"k": 4}],
    [{"k": 16}, {"k": 16}],
    [{}, {"k": 0}],
    [{}, {"k": 2.0}],
    [{"metric": "cosine"}, {"metric": "euclidean"}],
    [{"metric": "manhattan"}, {"metric": "manhattan"}],
    [{}, {"num_threads": 0}],
    [{}, {"progress": 3}],
    [{"x_shard": x[:0], "k": 1}, {"x_shard": x[:1], "k": 1}],
    [{"x_shard": nan}, {"x_shard": x.astype(int)}],
]
OF_SEARCH = [
    [{}, {"base_shard": x[:, :2]}],
    [{}, {"base_shard": x.astype(np.float64)}],
    [{"base_shard": nan}, {}],
    [{"base_shard": x[:0]}, {"base_shard": x[:0]}],
    [{"k": 17}, {"k": 17}],
]

def refusal(function, arguments):
    try:
        function(**arguments)
    except Exception as error:
        return [type(error).__name__, str(error)]

right = {"queries_shard": x, "base_shard": x, "k": 3}
said = [refusal(sf.distributed.knn_graph, {"x_shard": x, "k": 3, **case[rank]}) for case in CASES]
said += [refusal(sf.distributed.knn_search, {**right, **case[rank]}) for case in OF_SEARCH]
graph = sf.distributed.knn_graph(x, 3).gather()  # nothing is left of what was refused
whole = np.concatenate([np.random.default_rng(r).standard_normal((8, 3)).astype(np.float32) for r in range(size)])
assert np.array_equal(graph.indices, sf.knn_graph(whole, 3).indices)
print(json.dumps(said))
"""

MESSAGES = [
    "RangeError: x_shard must be finite, found nan at x_shard[2, 1], on rank 1",
    "TypeError: x_shard must be a NumPy array, torch tensor, CuPy array or speak DLPack or __cuda_array_interface__, "
    "found list, on rank 0",
    "TypeError: x_shard must be of type float32 or float64 or float16 or bfloat16, found int64, on rank 1",
    "ValueError: x_shard must have 2 dimensions, found shape (3,), on rank 0",
    "ValueError: x_shard must have at least one column, found shape (8, 0), on rank 1",
    "ValueError: x_shard must have the same number of columns on every rank, found 3 on rank 0 and 2 on rank 1",
    "TypeError: x_shard must be of the same type on every rank, found float32 on rank 0 and float64 on rank 1",
    "ValueError: x_shard must have the same number of columns on every rank, found 3 on rank 0 and 2 on rank 1",
    "ValueError: k must be the same on every rank, found 3 on rank 0 and 4 on rank 1",
    "ValueError: k must be in [1, 15] with 16 points, found 16",
    "ValueError: k must be at least 1, found 0, on rank 1",
    "TypeError: k must be an integer, found 2.0, on rank 1",
    "ValueError: metric must be the same on every rank, found cosine on rank 0 and euclidean on rank 1",
    "ValueError: metric must be one of 'sqeuclidean', 'euclidean', 'cosine', 'inner_product', found 'manhattan', on "
    "rank 0",
    "ValueError: num_threads must be in [1, 4096], found 0, on rank 1",
    "TypeError: progress must be callable or None, found 3, on rank 1",
    "ValueError: x_shard must hold at least 2 points on all ranks together, found 1",
    "RangeError: x_shard must be finite, found nan at x_shard[2, 1], on rank 0",
    "ValueError: base_shard must have 3 columns like queries_shard, found shape (8, 2), on rank 1",
    "TypeError: base_shard must be of the type of queries_shard, float32, found float64, on rank 1",
    "RangeError: base_shard must be finite, found nan at base_shard[2, 1], on rank 0",
    "ValueError: base_shard must hold at least one point on all ranks together, found none",
    "ValueError: k must be in [1, 16] with 16 base points, found 17",
]


def test_what_one_process_refuses_all_do(tmp_path):
    for status, output, errors in run_together(REFUSED, 2, tmp_path):
        assert status == 0, errors
        assert [": ".join(each or ["none"]) for each in json.loads(output)] == MESSAGES


FAILING = """
import json, os
import numpy as np
import ssdml_fast as sf
from ssdml_fast.exceptions import ProcessError

how, late = sys.argv[4], float(sys.argv[5])
x = np.random.default_rng(0).standard_normal((40 * size, 5))
mine, said = x[40 * rank : 40 * (rank + 1)], {}

def fail(share):
    if share >= late and how == "raise":
        raise KeyError("no such key")
    if share >= late and how == "interrupt":
        raise KeyboardInterrupt
    if share >= late and how == "die":
        os._exit(3)

try:
    sf.distributed.knn_graph(mine, 5, progress=fail if rank == 1 else None)
except BaseException as error:
    said["error"] = [type(error).__name__, str(error)]
if how == "raise":
    graph, whole = sf.distributed.knn_graph(mine, 5), sf.knn_graph(x, 5)
    said["again"] = np.array_equal(graph.indices, whole.indices[graph.first : graph.first + 40])
print(json.dumps(said), flush=True)
if how != "raise":
    os._exit(0)  # as one does that ends for an error: what connected it is gone
"""


@pytest.mark.parametrize(
    ("size", "late"),
    [(2, 1.0), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 0.0), (5, 0.0), (5, 1.0)))],
)
def test_an_error_of_one_process_is_one_of_all_and_nothing_is_left_of_it(tmp_path, size, late):
    for rank, (status, output, errors) in enumerate(run_together(FAILING, size, tmp_path, "raise", late)):
        assert status == 0, errors
        told = ["ProcessError", f"process 1 of {size} failed: KeyError: 'no such key'"]
        assert json.loads(output) == {"error": ["KeyError", "'no such key'"] if rank == 1 else told, "again": True}


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("interrupt", "process 1 of 2 was interrupted"),
        pytest.param("die", "without a word", marks=pytest.mark.slow),  # for which the other waits some seconds
    ],
)
def test_a_process_that_ends_ends_the_others(tmp_path, how, told):
    (first, second) = run_together(FAILING, 2, tmp_path, how, 0.0)
    assert second[0] == (3 if how == "die" else 0)
    kind, message = json.loads(first[1])["error"]
    assert kind == "ProcessError" and told in message


PROGRESS = """
import numpy as np
import ssdml_fast as sf

for points in (50 * rank, 50, 1):  # of none of the first, too
    x = np.random.default_rng(rank).standard_normal((points, 3))
    for function, shards in ((sf.distributed.knn_graph, (x,)), (sf.distributed.knn_search, (x, x))):
        shares = []
        function(*shards, 1, progress=shares.append)
        assert shares == sorted(shares)
        assert shares[-1:] == [1] or (points < 2 and not shares), shares
"""


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_progress_rises_to_one(tmp_path, size):
    for status, _, errors in run_together(PROGRESS, size, tmp_path):
        assert status == 0, errors


MEMORY = """
import resource
import numpy as np
import ssdml_fast as sf
from ssdml_fast._run import knn_graph as run

n, d, k = 3000, 2000, 4
x = np.random.default_rng(rank).standard_normal((n, d)).astype(np.float32)
run.BLOCK_BYTES = 2 << 20
sf.distributed.knn_graph(x[:300, :4], k, num_threads=1)  # what connects the processes is there before the limit
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
most = int(status["VmData"].split()[0]) * 1024 + int(float(sys.argv[4]) * x.nbytes) + (14 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
sf.distributed.knn_graph(x, k, num_threads=1)
sf.distributed.knn_search(x[:50], x, k, num_threads=1)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
def test_no_process_holds_all_points(tmp_path):
    """Beyond its own shard of five, of 24 MB each, two that visit it, and what blocks and results take."""
    for status, _, errors in run_together(MEMORY, 5, tmp_path, 2):
        assert status == 0, errors
    assert all(status for status, _, _ in run_together(MEMORY, 5, tmp_path, 0.3))  # the limit would be noticed
