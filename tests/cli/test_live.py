"""What is to be seen of a training while it runs: the terminal, TensorBoard, the stage times and the calls behind."""

from __future__ import annotations

import io
import itertools
import re
import sys
import types

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ssdml_fast.cli.app import app
from ssdml_fast.cli.live import Live
from ssdml_fast.data.digits import load_digits
from ssdml_fast.models.digits import DigitsNet
from ssdml_fast.models.seeded import seeded
from ssdml_fast.train import Config, fit
from ssdml_fast.train.tensorboard import TensorBoard

TINY = ["--rounds", "1", "--epochs", "1", "--metric-dim", "16", "--batch-size", "500"]
STAGES = {"embed", "graph", "propagate", "mine", "train", "validate"}


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def record(number, **values):
    return {
        "validation": number,
        "planned": 4,
        "score": 0.625,
        "val_nmi": 0.5,
        "val_recall@1": 0.75,
        "seconds": {"train": 2.0},
    } | values


def trained(number):
    return record(number, round=1, partition=number, loss=0.25, triplets=3000, examples=3000)


def batch(number, done):
    return {"validation": number, "planned": 4, "done": done, "batches": 1000, "examples": done, "loss": 0.125}


class Terminal:
    """A terminal that keeps what is written, and a clock that is moved by hand."""

    def __init__(self, **settings):
        self.now, self.file = 100.0, io.StringIO()
        console = Console(file=self.file, width=120, legacy_windows=False, **settings)
        self.live = Live(console, clock=lambda: self.now)

    def lines(self):
        return self.file.getvalue().splitlines()


# ---- the terminal


def test_a_validations_line_tells_scores_throughput_and_time_left():
    terminal = Terminal()
    with terminal.live as live:
        live.validation(record(0))
        terminal.now += 30
        live.validation(trained(1))
        terminal.now += 50
        live.validation(trained(2))
        terminal.now += 40
        live.validation(trained(4))
    first, second, third, last = terminal.lines()
    assert "untrained" in first and first.endswith("NMI  50.0  R@1  75.0")  # nothing to reckon the time from yet
    assert "round 1  partition 1  loss 0.2500  NMI  50.0  R@1  75.0  1,500 examples/s  0:01:30 left" in second
    assert third.endswith("0:01:20 left") and last.endswith("examples/s")


def test_a_record_without_scores_or_partition_has_a_line_too():
    terminal = Terminal()
    scored = trained(1)
    for each in (trained(1) | {"partition": 0}, trained(2) | {"round": 0}, scored | {"own": "figure"}):
        for name in ("score", "val_nmi", "val_recall@1"):
            del each[name]
        terminal.live.validation(each)
    first, second, third = terminal.lines()
    assert re.search(r"validation +1 of 4  round 1 +loss 0\.2500 +1,500 examples/s  0:00:00 left$", first)
    assert "warm-up  " in second and "partition" not in first + second
    assert "round 1  partition 1" in third and "figure" not in third


def test_time_left_of_a_resumed_training_counts_from_where_it_was_resumed():
    terminal = Terminal()
    with terminal.live as live:
        terminal.now += 5
        live.batch(batch(3, 100))
        terminal.now += 15
        live.validation(trained(3))
    assert terminal.lines()[-1].endswith("0:00:20 left")  # one took 20 s, one is to come


def test_the_bar_moves_with_every_batch():
    terminal = Terminal(force_terminal=True)
    with terminal.live as live:
        live.validation(record(0))
        live.batch(batch(1, 100))
        terminal.now += 2
        live.batch(batch(1, 500))
        live._bar.refresh()
        text = terminal.file.getvalue()
        (task,) = live._bar.tasks
    assert (task.completed, task.total) == (0.5, 4)
    assert "validation 1 of 4" in text and "loss 0.1250  200 examples/s  0:00:14 left" in text


# ---- the calls behind


def test_batches_and_stages_are_told(monkeypatch):
    clock = types.SimpleNamespace(perf_counter=itertools.count().__next__)  # a second from each look to the next
    monkeypatch.setattr("ssdml_fast.train.timing.time", clock)
    data = load_digits()
    batches, records = [], []
    fit(
        seeded(DigitsNet, 0), data, settings={"rounds": 1, "epochs": 1, "partition_size": 920},
        config=Config(batch_size=200), device="cpu",
        on_validation=records.append, on_batch=batches.append,
    )  # fmt: skip
    (start, end) = records
    assert set(start["seconds"]) == {"validate"} and set(end["seconds"]) == STAGES
    assert all(seconds >= 1 for seconds in end["seconds"].values())
    assert {(b["validation"], b["planned"], b["batches"]) for b in batches} == {(1, 1, len(batches))}
    assert [b["done"] for b in batches] == list(range(1, len(batches) + 1))
    assert batches[0]["examples"] == 200 and batches[-1]["examples"] == end["examples"]
    assert sum(b["loss"] for b in batches) / len(batches) == pytest.approx(end["loss"])


# ---- TensorBoard


class Writer:
    """As much of torch's SummaryWriter as is used."""

    made: list[Writer] = []  # noqa: RUF012

    def __init__(self, path, purge_step):
        self.path, self.purge_step, self.scalars, self.closed = path, purge_step, {}, False
        self.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars[name, step] = value

    def flush(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def writers(monkeypatch, quick_maps):
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    return Writer.made


def test_tensorboard_logs_scores_and_times_and_drops_what_is_trained_again(writers, tmp_path):
    path = tmp_path / "run"
    result = invoke("train", "--out", path, "--tensorboard", *TINY)
    assert result.exit_code == 0, result.output
    (writer,) = writers
    assert (writer.path, writer.purge_step, writer.closed) == (str(path / "tensorboard"), 0, True)
    steps = {name: [step for other, step in writer.scalars if other == name] for name, _ in writer.scalars}
    assert steps["validation/nmi"] == steps["validation/recall@1"] == [0, 1, 2]
    assert steps["loss"] == steps["seconds/train"] == [1, 2]

    again = TensorBoard(tmp_path)
    again(trained(3))
    again.close()
    assert writers[1].purge_step == 3


def test_tensorboard_may_be_asked_for_when_resuming_but_is_no_setting(writers, tmp_path):
    (tmp_path / "my.toml").write_text("tensorboard = true\nrounds = 1")
    result = invoke("train", "--config", tmp_path / "my.toml", "--out", tmp_path / "run")
    assert result.exit_code == 2 and "unknown setting 'tensorboard'" in " ".join(result.output.split())
    assert invoke("train", "--out", tmp_path / "run", *TINY).exit_code == 0
    assert invoke("train", "--resume", tmp_path / "run", "--tensorboard").exit_code == 0


def test_tensorboard_that_is_not_installed_is_one_clear_error_before_anything_is_trained(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = invoke("train", "--out", tmp_path / "run", "--tensorboard", *TINY)
    assert result.exit_code == 2
    assert "pip install 'ssdml-fast[tensorboard]'" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_the_logs(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = TensorBoard(tmp_path)
    for number in (1, 2):
        logs(trained(number))
    logs.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("validation/nmi")] == [1, 2]
