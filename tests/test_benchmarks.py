"""The benchmarks run, and the programs beside them start; what they find is for those who run them at leisure."""

import subprocess
import sys
from pathlib import Path

import pytest

from ssdml_fast.methods import METHODS

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


def test_what_is_trained_on_a_device_agrees_with_itself_on_the_cpu():
    found = run(ROOT / "benchmarks/tools/train_on_device.py", "--device", "cpu", "--tiny").splitlines()
    for method in METHODS:
        assert [line for line in found if line.startswith(f"agrees, coloured, {method}") and " 0.0e+00 apart" in line]
        assert [line for line in found if line.startswith(f"moves, {method}: R@1")]
    assert {"float32", "bfloat16"} <= {line.split()[0] for line in found}


def test_a_bare_loop_takes_the_steps_of_the_engine():
    """Which the study says of each loss before it says what the steps cost."""
    found = run(ROOT / "benchmarks/studies/step_overhead.py", "digits", "--steps", 8, "--warmup", 4, "--threads", 1)
    assert "8 steps of the partition" in found and "3 steps of the warm-up" in found


def test_processes_answer_as_one_in_the_study_of_scaling():
    tiny = ["--points", 1000, "--dimensions", 8, "--neighbors", 5, "--processes", 1, 2, "--repeats", 2]
    rows = [line.split(" | ") for line in run(ROOT / "benchmarks/studies/scaling.py", *tiny).splitlines()[5:]]
    found = {(row[0].strip("| `"), int(row[1])): row[-1].strip(" |") for row in rows}
    work = ("knn_graph", "knn_search", "propagate_affinity", "propagate_labels")
    assert [found.pop((name, 2)) for name in work] == ["same bits"] * 4
    apart, _ = found.pop(("training", 2)).split()
    assert float(apart) < 1e-5
    assert set(found.values()) == {"of one"} and len(found) == 5


def test_the_page_on_scaling_has_what_the_program_prints():
    page = (ROOT / "docs/notes/scaling.md").read_text(encoding="utf-8")
    for table in run(ROOT / "benchmarks/studies/scaling_on_paper.py").split("\n\n"):
        assert table.strip() in page


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_programs_say_what_they_take(path):
    if path.stem == "bench_training":
        pytest.importorskip("faiss")
    assert "usage:" in run(path, "--help")
