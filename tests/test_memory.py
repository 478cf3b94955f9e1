"""What happens when memory runs out: tests/native/out_of_memory.cpp lets each allocation of each kernel fail."""

import os
import platform
import subprocess
import sys

import pytest

# Lets the process have so much more memory than it has, call by call. Where glibc gives back what is freed, and threads
# share one heap, each limit means something.
SCRIPT = """
import collections
import resource

import numpy as np

import ssdml_fast as sf

rng = np.random.default_rng(0)
x = rng.standard_normal((2000, 64)).astype(np.float32)
graph = sf.knn_graph(x[:, :8].copy(), 10)
labels = np.where(rng.random(2000) < 0.05, rng.integers(0, 50, 2000), -1)
L = np.tile(np.eye(200, 60), (16, 1, 1))
G = rng.standard_normal(L.shape)
ptr = np.arange(0, 2001, 50)
calls = {
    "knn_graph": lambda: sf.knn_graph(x, 10),
    "knn_graph in segments": lambda: sf.knn_graph(x, 10, ptr=ptr),
    "propagate_affinity": lambda: sf.propagate_affinity(graph, labels, tol=1e-3),
    "propagate_labels": lambda: sf.propagate_labels(graph, labels, tol=1e-3),
    "cayley_update": lambda: sf.cayley_update(L, G, 0.1),
    "qr_retraction": lambda: sf.qr_retraction(L, 1e-3 * G),
}
limits = resource.getrlimit(resource.RLIMIT_AS)
for name, call in calls.items():
    call()
    ends = collections.Counter()
    for half_mebibytes in range(16):
        now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + half_mebibytes * 2**19, limits[1]))
        try:
            call()
            end = "completed"
        except MemoryError:
            end = "raised"
        resource.setrlimit(resource.RLIMIT_AS, limits)
        ends[end] += 1
    print(name, ends["raised"], ends["completed"], sep=",")
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs Linux and glibc's settings")
def test_memory_that_runs_out_within_threads_is_a_memory_error():
    heap = {"MMAP_THRESHOLD_": 16384, "TRIM_THRESHOLD_": 0, "TOP_PAD_": 0, "ARENA_MAX": 1}
    settings = {"OMP_NUM_THREADS": "2", **{f"MALLOC_{name}": str(value) for name, value in heap.items()}}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for line in done.stdout.splitlines():
        _, raised, completed = line.split(",")
        assert int(raised) > 0 and int(completed) > 0, line
