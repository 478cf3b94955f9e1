"""Train for a moment with an installed package, into the folder given; the process must hold no OpenMP runtime of the
package's own, and the kernels must count threads with torch."""

import re
import sys
from pathlib import Path

import ssdml_fast as sf
from ssdml_fast import _core
from ssdml_fast.cli.app import app

settings = ["--rounds", "1", "--epochs", "1", "--warmup", "20"]
app(["train", "--out", sys.argv[1], *settings], standalone_mode=False)

import torch  # noqa: E402  as late as can be: training has imported it

package = Path(sf.__file__).parent
mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
print(*(name for name in sorted(mapped) if re.search(r"lib(gomp|i?omp)", name)), sep="\n")
own = [name for name in mapped if Path(name).is_relative_to(package) and re.search(r"omp", Path(name).name)]
assert not own, f"the package brings an OpenMP runtime: {own}"
assert not any(Path(name).parent.name == "ssdml_fast.libs" for name in mapped)
for threads in (1, 3):
    torch.set_num_threads(threads)
    assert _core.lib.default_threads() == threads
