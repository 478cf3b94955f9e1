"""The benchmarks run, and the programs beside them start; what they find is for those who run them at leisure."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = [*sorted((ROOT / "benchmarks/studies").glob("*.py")), ROOT / "benchmarks/bench_training.py"]
SMALL = "2000x128 or 10x900 or n300 or iris or 9100x64 or 9100-C10 or clustered-200- or 128x64 or float32"

pytestmark = pytest.mark.slow


def run(*arguments):
    """Standard output of Python with these arguments, in the project's folder."""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_benchmark_is_collected_at_every_shape():
    pytest.importorskip("pytest_benchmark")
    found = run("-m", "pytest", "benchmarks", "--collect-only", "-q", "--shapes", "full")
    for path in ROOT.glob("benchmarks/bench_*.py"):
        assert path in PROGRAMS or f"{path.name}::test_" in found


def test_a_small_shape_of_each_is_right():
    """Answers are compared with the peers' before the clock runs, which here it does not."""
    pytest.importorskip("pytest_benchmark")
    run("-m", "pytest", "benchmarks", "-q", "-x", "--benchmark-disable", "-k", f"ssdml_fast and ({SMALL})")


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_programs_say_what_they_take(path):
    if path.stem == "bench_training":
        pytest.importorskip("faiss")
    assert "usage:" in run(path, "--help")
