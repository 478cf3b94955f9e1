"""Examples that other processes decode are those that this one would, however they are asked for and whatever ends."""

import os
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Broken, Counted, Dying, Held, Items, octets
from torch.utils.data import TensorDataset

import ssdml_fast
from ssdml_fast.data import DataError
from ssdml_fast.data import examples as examples_module
from ssdml_fast.data import workers as module
from ssdml_fast.data.cache import Cache
from ssdml_fast.data.example import Form
from ssdml_fast.data.examples import DatasetExamples

TESTS = Path(__file__).resolve().parents[1]
HOME = Path(ssdml_fast.__file__).parents[1]  # a checkout, or where the package is installed
N = 400
ARRAY = octets(N, (3, 8, 8))
BYTES = ARRAY[0].nbytes
INDEX = 8 * N  # bytes by which a cache finds what it holds


@pytest.fixture
def made():
    """Make examples whose workers end with the test."""
    opened = []

    def make(dataset, workers, cache=0):
        opened.append(DatasetExamples(dataset, "images", workers, cache / 1e9))
        return opened[-1]

    yield make
    for examples in opened:
        examples.close()


def batches(seed=0, sizes=(1, 100, 0, 333, 5, 64, 64, 64, 64, 400)):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.integers(N, size=size)) for size in sizes]


def distinct(rows):
    return len(torch.cat(rows).unique())


def same(found, rows, array=ARRAY):
    return torch.equal(found, torch.from_numpy(array[rows.numpy()]))


# --- twins ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("cache", [0, INDEX + 150 * BYTES, INDEX + N * BYTES], ids=["none", "part", "all"])
def test_examples_are_those_of_the_dataset(made, workers, cache):
    examples = made(TensorDataset(torch.from_numpy(ARRAY.copy())), workers, cache)
    for seed in range(2):
        rows = batches(seed)
        found = list(examples.stream(iter(rows)))
        assert [same(*pair) for pair in zip(found, rows, strict=True)] == [True] * len(rows)
        assert same(examples.take(rows[3]), rows[3])
    assert examples.cache.used == min(distinct(batches(0) + batches(1)), max(0, cache - INDEX) // BYTES)


@pytest.mark.parametrize("shape", [(), (0, 3), (1_000_000,), (5, 3, 7)])
def test_examples_of_any_size(made, monkeypatch, shape):
    monkeypatch.setattr(module, "AHEAD", 1000)
    array = octets(9, shape)
    examples, rows = made(TensorDataset(torch.from_numpy(array.copy())), 2), torch.tensor([8, 0, 3, 3, 1, 7])
    assert same(examples.take(rows), rows, array)


@pytest.mark.parametrize("workers", [0, 2])
def test_streams_may_be_read_by_turns_and_given_up(made, workers):
    examples = made(TensorDataset(torch.from_numpy(ARRAY.copy())), workers, INDEX + 200 * BYTES)
    first, second, given_up = (examples.stream(iter(batches(seed))) for seed in (3, 4, 5))
    assert same(next(given_up), batches(5)[0])
    for i, (one, other) in enumerate(zip(batches(3), batches(4), strict=True)):
        assert same(next(first), one) and same(next(second), other)
        assert same(examples.take(other.flip(0)), other.flip(0))
        if i == 3:
            given_up.close()
    rows = batches(6)
    assert all(same(*pair) for pair in zip(examples.stream(rows), rows, strict=True))


def test_a_copy_is_the_callers(made):
    examples = made(TensorDataset(torch.from_numpy(ARRAY.copy())), 1, INDEX + N * BYTES)
    rows = torch.arange(N)
    for _ in range(2):
        examples.take(rows).zero_()
        assert same(examples.take(rows), rows)


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_what_fits_is_decoded_once(made, tmp_path, workers):
    path = tmp_path / "count"
    examples = made(Counted(list(ARRAY), path), workers, INDEX + 300 * BYTES)
    path.write_bytes(b"")  # the first was read for its shape
    counts = []
    for seed in range(3):
        order = torch.from_numpy(np.random.default_rng(seed).permutation(N))
        assert all(same(*pair) for pair in zip(examples.stream(order.split(50)), order.split(50), strict=True))
        counts.append(path.stat().st_size)
    assert np.diff(counts, prepend=0).tolist() == [400, 100, 100]


@pytest.mark.parametrize("n_bytes", [0, 1, INDEX, INDEX + BYTES - 1, INDEX + BYTES, INDEX + 7 * BYTES + 3, 10**9])
def test_a_cache_keeps_within_its_bytes(n_bytes):
    cache = Cache(N, Form(ARRAY.shape[1:], ARRAY.dtype), n_bytes)
    for rows in batches(1):
        cache.store(rows.numpy(), ARRAY[rows.numpy()])
    assert len(cache.examples) == min(N, max(0, n_bytes - INDEX) // BYTES)
    assert cache.used == min(distinct(batches(1)), len(cache.examples))
    assert cache.examples.nbytes + cache._places.nbytes <= n_bytes
    places = cache.places(np.arange(N))
    assert sorted(places[places >= 0]) == list(range(cache.used))
    assert (cache.examples[places[places >= 0]] == ARRAY[places >= 0]).all()


@pytest.mark.parametrize(("n_bytes", "ahead"), [(64 << 20, 16), (0, 2), (6 * 10 * BYTES, 5)])
def test_no_more_is_read_ahead_than_is_said(made, tmp_path, monkeypatch, n_bytes, ahead):
    monkeypatch.setattr(examples_module, "AHEAD", n_bytes)
    path = tmp_path / "count"
    examples = made(Counted(list(ARRAY), path), 2)
    asked = []
    stream = examples.stream(asked.append(i) or rows for i, rows in enumerate(torch.arange(N).split(10)))
    for n in range(1, 5):
        next(stream)
        assert len(asked) == n + ahead
        assert path.stat().st_size <= 1 + 10 * (n + ahead)


@pytest.mark.parametrize("n_bytes", [1, 3072, 150_528, 30_000_000])
@pytest.mark.parametrize("n", [1, 2, 16])
def test_shared_memory_is_bounded(n, n_bytes):
    piece, slots = module.layout(n, n_bytes)
    assert slots >= 2 * n and 1 <= piece <= 32
    assert slots * piece * n_bytes <= max(64 << 20, 2 * n * n_bytes, 2 * n << 20)


# --- errors -----------------------------------------------------------------------------------------------------------

GOOD = octets(1)[0]


def test_an_example_that_a_worker_cannot_read_is_named_and_the_others_are_read(made):
    items = [GOOD] * 40
    items[17], items[18] = KeyError("lost"), GOOD[:, 1:]
    examples = made(Items(items), 2, 10**6)
    with pytest.raises(DataError, match=r"^images\[17\] cannot be read: KeyError: 'lost'$") as raised:
        list(examples.stream([torch.arange(5), torch.arange(10, 18), torch.arange(5)]))
    assert "datasets.py" in str(raised.value.__cause__)
    with pytest.raises(DataError, match=r"^images\[18\] must be uint8 of shape"):
        examples.take(torch.tensor([18]))
    assert len(examples.take(torch.arange(17))) == 17


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGKILL, r"was killed by SIGKILL \(too little memory\?\)"),
        (signal.SIGSEGV, "was killed by SIGSEGV"),
        (0, "ended with exit code 3"),
    ],
)
def test_a_worker_that_dies_is_one_error_that_names_the_example(made, number, how):
    items = [GOOD] * 40
    items[17] = Dying(number)
    examples = made(Items(items), 2)
    with pytest.raises(DataError, match=rf"^a worker that read images\[17\] {how}$"):
        examples.take(torch.arange(40))
    assert len(examples.take(torch.arange(17))) == 17  # others start


def test_a_stream_does_not_go_on_when_its_workers_were_closed(made):
    examples = made(Items([GOOD] * 40), 2)
    stream = examples.stream([torch.arange(5), torch.arange(40).repeat(200)])  # more than can be decoded ahead
    next(stream)
    examples.close()
    with pytest.raises(RuntimeError, match="the workers of images were closed"):
        next(stream)


def test_a_worker_that_dies_while_nobody_waits(made):
    examples = made(Items([GOOD] * 40), 1)
    examples.take(torch.arange(5))
    (process,) = examples.workers.processes
    process.kill()
    process.join()
    with pytest.raises(DataError, match=r"^a worker of images was killed by SIGKILL"):
        examples.take(torch.arange(5))


def test_a_dataset_that_cannot_be_pickled_is_named(made):
    examples = made(Items([GOOD, lambda: GOOD]), 2)
    with pytest.raises(TypeError, match=r"^images must be a Dataset that can be pickled, .* or workers must be 0: "):
        examples.take(torch.tensor([1]))
    assert not examples.workers


def test_a_worker_that_cannot_start_is_an_error(made):
    examples = made(Items([GOOD, Broken()]), 2)
    with pytest.raises(DataError, match=r"^a worker of images ended with exit code 1 as it started; .*__main__"):
        examples.take(torch.tensor([0]))


UNGUARDED = """
import torch
from datasets import Items, octets
from ssdml_fast.data.examples import DatasetExamples

DatasetExamples(Items(octets({n})), "images", workers=2).take(torch.arange(4))
"""


@pytest.mark.parametrize("n", [4, 50_000])  # a data set that a pipe holds, and one that it does not
def test_a_script_that_workers_cannot_import_is_an_error(tmp_path, n):
    program = tmp_path / "program.py"
    program.write_text(UNGUARDED.format(n=n))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(HOME)])}
    ran = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert "DataError: a worker of images ended" in last and 'below if __name__ == "__main__":' in last


# --- how workers end --------------------------------------------------------------------------------------------------

PROGRAM = """
import sys, torch
from datasets import Held, octets
from ssdml_fast.data.examples import DatasetExamples

if __name__ == "__main__":
    examples = DatasetExamples(Held(list(octets(100)), sys.argv[1]), "images", workers=2)
    stream = examples.stream(iter(lambda: torch.arange(100), None))
    next(stream)
    print("reading", flush=True)
    while sys.argv[2] != "leave":
        next(stream)
"""


def has_ended(pipe):
    """Whether no process holds the pipe's other end any more, after at most a minute."""
    ready, _, _ = select.select([pipe], [], [], 60)
    return bool(ready) and os.read(pipe, 1) == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM, None])
def test_workers_end_with_their_process(tmp_path, number):
    path, program = tmp_path / "pipe", tmp_path / "program.py"
    os.mkfifo(path)
    program.write_text(PROGRAM)
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    command = [sys.executable, str(program), str(path), "leave" if number is None else "stay"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(HOME)])}
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # which a shell's background jobs ignore
    )  # fmt: skip
    assert child.stdout.readline() == "reading\n"
    if number == signal.SIGINT:
        os.killpg(child.pid, number)  # as Ctrl-C does
    elif number:
        child.send_signal(number)
    _, err = child.communicate()
    assert has_ended(pipe)
    os.close(pipe)
    assert child.returncode == (-number if number else 0)
    assert err.count("Traceback") == (number == signal.SIGINT)


GOES_ON = """
import signal, sys, torch
from datasets import Items, octets
from ssdml_fast.data.examples import DatasetExamples

if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    examples = DatasetExamples(Items(list(octets(100))), "images", workers=2)
    examples.take(torch.arange(50))
    print("reading", flush=True)
    sys.stdin.readline()
    examples.take(torch.arange(50, 100))
    examples.close()
    print("went on")
"""


def test_signals_to_all_of_a_group_are_for_the_process_that_asks(tmp_path):
    """As of a terminal that is closed, or of torchrun: that process may have something to save."""
    program = tmp_path / "program.py"
    program.write_text(GOES_ON)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(HOME)])}
    child = subprocess.Popen(
        [sys.executable, str(program)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert child.stdout.readline() == "reading\n"
    for number in (signal.SIGTERM, signal.SIGHUP):
        os.killpg(child.pid, number)
    output, errors = child.communicate("\n")
    assert (child.returncode, output) == (0, "went on\n"), errors


def test_workers_end_when_closed_or_dropped(made, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for drop in (False, True):
        pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with Held([GOOD] * 9, path) as dataset:
            examples = DatasetExamples(dataset, "images", workers=2)
            examples.take(torch.arange(9))
        if drop:
            del examples
        else:
            examples.close()
        assert has_ended(pipe)
        os.close(pipe)
