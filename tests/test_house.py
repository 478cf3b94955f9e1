"""The tree keeps its shape: an operation has the same name in every folder, and what is decided once is said once."""

import ast
import doctest
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ssdml_fast as sf
from ssdml_fast import train

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ssdml_fast"
OPS = (
    "affinity",
    "angular_loss",
    "knn_graph",
    "mine_class_triplets",
    "mine_triplets",
    "propagate_labels",
    "riemannian_cg",
    "stiefel",
)
WITHOUT_KERNEL = ("graph_modes",)  # SciPy's sparse graphs on the host
FUNCTIONS = sf.reference.__all__
SOURCES = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu"))
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS, BENCHMARKS = (sorted((ROOT / folder).rglob("*.py")) for folder in ("tests", "benchmarks"))


def mentions(pattern, paths):
    return [str(path.relative_to(ROOT)) for path in paths if re.search(pattern, path.read_text(encoding="utf-8"))]


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    "room",
    [
        "csrc/{0}/{0}.h",
        "csrc/{0}/{0}.cpp",
        "csrc/{0}/{0}.cu",
        "ssdml_fast/ops/{0}.py",
        "ssdml_fast/_torch/{0}.py",
        "ssdml_fast/_run/{0}.py",
        "ssdml_fast/reference/{0}.py",
        "tests/ops/test_{0}.py",
        "tests/gpu/test_{0}.py",
        "benchmarks/bench_{0}.py",
    ],
)
def test_an_operation_has_a_file_in_every_room(op, room):
    assert (ROOT / room.format(op)).is_file()


def test_the_top_level_has_few_folders():
    if not (ROOT / ".git").exists():
        pytest.skip("not a repository: what else lies here is not known")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {path.split("/")[0] for path in tracked if "/" in path}
    assert {name for name in folders if name[0] != "."} == {"csrc", "ssdml_fast", "tests", "benchmarks", "docs"}


def test_no_folder_of_csrc_is_unknown():
    assert {path.parent.name for path in SOURCES} == {*OPS, "bindings", "common", "cuda", "walk"}


def included(path):
    """A source or header of csrc and all that it includes there."""
    seen, todo = set(), [path]
    while todo:
        at = todo.pop()
        if at not in seen:
            seen.add(at)
            todo += [ROOT / "csrc" / name for name in re.findall(r'^#include "(.*)"', at.read_text(), re.MULTILINE)]
    return seen


@pytest.mark.parametrize("op", OPS)
def test_a_chapter_header_belongs_to_one_source(op):
    """Or to both of an operation, where it holds what they agree upon."""
    cpp, cu = (ROOT / f"csrc/{op}/{op}{suffix}" for suffix in (".cpp", ".cu"))
    users = {source: included(source) for source in SOURCES if source.suffix in (".cpp", ".cu")}
    for header in set((ROOT / "csrc" / op).glob("*.h")) - {cpp.with_suffix(".h")}:
        by = {source for source, headers in users.items() if header in headers}
        if header.name == "cuda_shared.h":
            assert cu in by and len(by) > 1, header
        elif header.name.startswith("cuda_"):
            assert by == {cu}, header
        else:
            assert by in ({cpp}, {cpp, cu}), header


def definitions(path):
    """The types and free functions that a source or header of csrc defines."""
    text = path.read_text()
    yield from re.findall(r"^(?:struct|class|enum class) (?:alignas\(.*\) )?(\w+)[^;]*?\{", text, re.MULTILINE)
    before = r"^(?!using|return|else|template|namespace|#)\w[\w:<>,*& ]*?(?:__launch_bounds__\([^)]*\)\s+)?"
    yield from re.findall(before + r"(?<![\w:])(\w+)\((?:[^;{}]|\{\})*\)(?: const| noexcept)* \{", text, re.MULTILINE)


def is_cuda(path):
    return path.suffix == ".cu" or path.name.startswith("cuda_") or path.parent.name == "cuda"


def test_a_name_of_csrc_means_one_thing():
    """But for a CUDA twin, in the folder of what it is the twin of."""
    homes = {}
    for path in SOURCES:
        for name in set(definitions(path)):
            homes.setdefault(name, []).append(path)
    assert {"on_threads", "ColumnsOutcome", "grid_of_threads", "invert", "tighten", "compare", "Filter"} <= set(homes)
    for name, paths in homes.items():
        folders, devices = {path.parent for path in paths}, [is_cuda(path) for path in paths]
        assert len(paths) == 1 or (len(folders) == 1 and sorted(devices) == [False, True]), (name, paths)


def constants(path):
    """Names and values of the constants that a source or header of csrc defines."""
    for declaration in re.findall(r"\bconstexpr\b([^;{}]*);", path.read_text()):
        yield from re.findall(r"\b(k[A-Z]\w*) = ([^,]+)", declaration)


@pytest.mark.parametrize("op", OPS)
def test_a_constant_of_both_twins_has_one_home(op):
    """A header of parameters, which both include."""
    cpu, cuda = set(), set()
    for path in (ROOT / "csrc" / op).iterdir():
        (cuda if is_cuda(path) else cpu).update(constants(path))
    assert not cpu & cuda


def test_no_operation_is_missing_here():
    for folder, more in (
        ("ops", WITHOUT_KERNEL),
        ("reference", WITHOUT_KERNEL),
        ("_run", ()),
        ("_torch", ("library",)),
    ):
        assert {path.stem for path in (PACKAGE / folder).glob("*.py")} == {*OPS, *more, "__init__"}


@pytest.mark.parametrize("op", [*OPS, *WITHOUT_KERNEL])
def test_operation_tests_have_the_same_sections(op):
    text = (ROOT / f"tests/ops/test_{op}.py").read_text()
    sections = re.findall(r"^# --- (.*?) -+$", text, re.MULTILINE)
    assert sections == ["agrees with reference", "invariants", "backends agree", "torch", "errors"]


def test_tests_lie_as_what_they_test():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert {path.parent.name for path in TESTS} <= rooms | {"tests", "docs", "gpu"}
    assert {path.stem.removeprefix("test_") for path in TESTS if path.parent.name == "ops"} == {*OPS, *WITHOUT_KERNEL}
    of_several = {"arrays", "capture", "fake", "peers", "streams", "training", "trust"}
    assert {path.stem.removeprefix("test_") for path in TESTS if path.parent.name == "gpu"} == {*OPS, *of_several}


def test_benchmarks_are_of_operations_or_of_what_is_made_of_them():
    found = {path.stem.removeprefix("bench_") for path in BENCHMARKS if path.stem.startswith("bench_")}
    assert found == {*OPS, "estimator", "gpu", "optim", "training"}
    assert {path.parent.name for path in BENCHMARKS} == {"benchmarks", "studies", "tools"}


def test_files_are_of_a_length_that_is_read():
    files = [*SOURCES, *MODULES, *TESTS, *BENCHMARKS]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 650} == {}


def test_only_the_bindings_know_pybind11():
    assert all(re.fullmatch(r"csrc/bindings/\w+\.(cpp|h)", path) for path in mentions("pybind11", SOURCES))


def test_only_simd_h_knows_instruction_sets():
    assert mentions(r"immintrin|__AVX|\b_mm\d*_", SOURCES) == ["csrc/common/simd.h"]


def test_only_parallel_h_opens_parallel_regions():
    """What is thrown within one must not leave it, which is seen to there."""
    assert mentions(r"#pragma omp (?!simd\b)|\bthread_local\b", SOURCES) == ["csrc/common/parallel.h"]


def test_kernels_know_neither_python_nor_torch():
    kernels = [path for path in SOURCES if path.parent.name != "bindings"]
    assert mentions(r"Python\.h|torch/|ATen|c10::", kernels) == []


def test_only_arrays_tells_libraries_apart():
    """Among the modules behind the operations: models, data and training are torch's own ground."""
    behind = [PACKAGE, *(PACKAGE / name for name in ("_core", "_run", "_torch", "ops", "reference"))]
    around = [path for path in MODULES if path.parent in behind]
    assert mentions(r"isinstance\(.*\b(torch\.Tensor|cupy\.ndarray|np\.ndarray)\b", around) == []


BELOW = {  # of each room of the application, those that it may import, beside the operations and what they need
    "data": (),
    "models": ("data",),
    "runs": ("data", "models", "evaluate"),
    "train": ("data", "models", "runs", "evaluate", "methods"),  # of methods, the list alone
    "methods": ("data", "models", "train"),
    "estimators": ("models", "train", "methods"),
    "report": ("data", "models", "runs", "evaluate"),
    "cli": ("data", "models", "runs", "evaluate", "train", "methods", "report"),
}


def rooms_imported(path):
    """The rooms, folders or files of the package, that a module imports, wherever in it."""
    parts = path.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            module = [*parts[: len(parts) - node.level], *(node.module.split(".") if node.module else ())]
            yield from module[1:2] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names = [(base + alias.name).split(".") for alias in node.names]
            yield from (name[1] for name in names if name[0] == "ssdml_fast" and len(name) > 1)


@pytest.mark.parametrize("room", [*BELOW, "the operations"])
def test_rooms_import_only_those_below(room):
    def is_within(path):
        return (path.relative_to(PACKAGE).parts[0] == room) if room in BELOW else not is_of_the_application(path)

    def is_of_the_application(path):
        return path.relative_to(PACKAGE).parts[0] in (*BELOW, "__init__.py", "__main__.py")

    within = [path for path in MODULES if is_within(path)]
    assert within
    for path in within:
        above = {*BELOW, "evaluate"} - {room, *BELOW.get(room, ())}
        assert not above & set(rooms_imported(path)), path


def test_nothing_is_left_for_later():
    assert mentions(r"\b(TODO|FIXME|XXX)\b", [*MODULES, *SOURCES]) == []


# --- tests ------------------------------------------------------------------------------------------------------------


def test_tests_look_at_no_clock():
    """Whether one passes depends on no machine's speed or load; processor time is compared with processor time."""
    clocks = r"\btime\.(time|perf_counter|monotonic|sleep)(_ns)?\(|\bfrom\s+time\s+import\b|\bimport\s+time\s+as\b"
    assert mentions(clocks, TESTS) == ["tests/conftest.py"]  # which waits for a child that may hang


def test_inputs_of_tests_are_the_same_for_any_blas():
    """Orthonormal columns come by strategies.orthonormalised."""
    assert mentions(r"linalg\.(qr|svd)\(", TESTS) == []


def test_every_tier_is_described_and_used():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    tiers = {marker.partition(":")[0] for marker in options["markers"]} - {"fast"}  # which all others have
    assert tiers == {"slow", "stand_in", "browser", "gpu"}
    for tier in tiers:
        assert mentions(rf"mark\.{tier}\b", TESTS), tier


# --- public names -----------------------------------------------------------------------------------------------------


def test_public_names_are_listed_once_and_for_type_checkers_too():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {alias.name: node.module or alias.name for node in guarded.body for alias in node.names}
    assert homes == sf._HOME
    assert sorted(sf.__all__) == sorted({*homes, "__version__"})
    assert dir(sf) == sorted(sf.__all__)


def test_a_name_of_train_is_no_module_of_it():
    """Which would take its place as soon as it is imported."""
    assert not set(importlib.import_module("ssdml_fast.train").__all__) & {
        path.stem for path in (PACKAGE / "train").glob("*.py")
    }


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        sf.no_such_name  # noqa: B018


PUBLIC = {name: getattr(sf, name) for name in sf.__all__} | {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (sf.nn, sf.optim, sf.distributed)
    for name in module.__all__
}


@pytest.mark.parametrize(
    "name", [name for name, value in PUBLIC.items() if callable(value) and not name.endswith("Warning")]
)
def test_every_public_name_is_documented(name):
    value = PUBLIC[name]
    doc = inspect.getdoc(value)
    sections = re.findall(r"^(\w+)\n-+$", doc, re.MULTILINE)
    assert "Examples" in sections and ">>>" in doc
    parameters = [] if name == "EdgeAffinity" else inspect.signature(value).parameters
    described = doc.split("Parameters\n", 1)[-1]
    for parameter in parameters:
        assert parameter.startswith("_") or re.search(rf"^(\w+, )*{parameter}\b", described, re.MULTILINE), parameter
    if not inspect.isclass(value) and parameters:
        assert {"Parameters", "Returns", "Raises"} <= set(sections)


@pytest.mark.parametrize("name", train.__all__)
def test_every_name_of_training_has_an_example(name):
    value = getattr(train, name)
    sections = re.findall(r"^(\w+)\n-+$", inspect.getdoc(value), re.MULTILINE)
    assert "Examples" in sections
    assert inspect.isclass(value) or {"Parameters", "Returns"} <= set(sections)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_run(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__main__":
        return
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    assert (
        doctest.testmod(
            importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        ).failed
        == 0
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_twins_have_the_same_signature(name):
    only_fast = ("num_threads", "progress")

    def parameters(function):
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values() if p.name not in only_fast]

    assert parameters(getattr(sf.reference, name)) == parameters(getattr(sf, name))


def test_what_has_threads_takes_their_number():
    without = {name for name in FUNCTIONS if "num_threads" not in inspect.signature(getattr(sf, name)).parameters}
    assert without == {"graph_modes", "polar_retraction"}  # SciPy's sparse graphs, and the library's decomposition


# --- arrows -----------------------------------------------------------------------------------------------------------

ROOMS = ("ops", "_torch", "graph", "_run", "_arrays", "_scalars", "_core")
"""Behind the operations, from the public functions down to the compiled modules: each room imports those below it."""


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """Modules of the package that a file imports, in functions too; not what only a type checker sees."""
    modules = {module_of(p) for p in MODULES}
    package = module_of(path).split(".")[: None if path.name == "__init__.py" else -1]
    found, unseen = set(), [ast.parse(path.read_text())]
    while unseen:
        node = unseen.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        unseen += ast.iter_child_nodes(node)
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level], *(node.module or "").split(".")]
            base = ".".join(filter(None, base if node.level else node.module.split(".")))
            names = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in modules else base for name in names]
        found |= modules & set(names)
    return found - {module_of(path)}


IMPORTS = {module_of(path): imports_of(path) for path in MODULES}


def test_arrows_go_down():
    def room(module):
        return module.removeprefix("ssdml_fast").lstrip(".").split(".")[0]

    wrong = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        if room(module) in ROOMS
        for other in others
        if room(other) != "exceptions" and room(other) not in ROOMS[ROOMS.index(room(module)) :]
    ]
    assert wrong == []


def test_no_imports_go_round():
    graph = graphlib.TopologicalSorter(IMPORTS)
    graph.prepare()  # raises a CycleError that names the circle


# --- importing --------------------------------------------------------------------------------------------------------


def loaded_by(statement):
    """Names of the modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(found.split())


@pytest.mark.parametrize(
    ("statement", "libraries", "most"),
    [
        ("import ssdml_fast", set(), 1),
        ("import ssdml_fast; ssdml_fast.knn_graph", {"numpy"}, 20),
    ],
)
def test_importing_loads_no_heavy_library_and_few_modules(statement, libraries, most):
    """What importing costs is what it loads, which can be counted."""
    ours = loaded_by(statement) - loaded_by("; ".join(["pass", *(f"import {name}" for name in libraries)]))
    of = {name.partition(".")[0] for name in ours}
    assert of - sys.stdlib_module_names == {"ssdml_fast"}
    assert sum(name.partition(".")[0] == "ssdml_fast" for name in ours) <= most
    others = {*OPS, *WITHOUT_KERNEL} - {"knn_graph"}
    assert not {name.rpartition(".")[2] for name in ours} & others
    assert len(ours) <= 50  # those of the standard library among them


def test_numbers_are_judged_without_kernels_and_libraries():
    ours = loaded_by("import ssdml_fast._scalars")
    assert not {"ssdml_fast._core", "ssdml_fast._arrays", "torch", "scipy"} & ours
