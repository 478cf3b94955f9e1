"""Train for a moment with an installed package, into the folder given; on Linux the process must hold no OpenMP
runtime of the package's own, and the kernels must count threads with torch."""

import re
import sys
from pathlib import Path

import ssdml_fast as sf
from ssdml_fast import _core
from ssdml_fast.cli.app import app

settings = ["--rounds", "1", "--epochs", "1", "--warmup", "20"]
app(["train", "--out", sys.argv[1], *settings], standalone_mode=False)

import torch  # noqa: E402  as late as can be: training has imported it

if sys.platform == "linux":
    package = Path(sf.__file__).parent
    mapped = {Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    runtimes = sorted(path for path in mapped if re.match(r"lib(gomp|i?omp)\b", path.name))
    print(*runtimes, sep="\n")
    for ours in (package, package.with_name("ssdml_fast.libs")):
        assert not any(runtime.is_relative_to(ours) for runtime in runtimes), f"{ours} brings an OpenMP runtime"
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert _core.lib.default_threads() == threads, "the kernels and torch run on two OpenMP runtimes"
