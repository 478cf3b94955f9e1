"""Files of a run folder are whole or as they were before, one training writes it, and what is read of it is checked."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ssdml_fast.runs import folder as folder_module
from ssdml_fast.runs.files import from_json
from ssdml_fast.runs.folder import RunError, RunFolder, Stored, new_folder, write_atomically
from ssdml_fast.runs.records import best_of


def write(file):
    file.write(b"new")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [10, 10**5])  # which a buffer of the file holds, and not
def test_a_full_disk_is_told_as_the_system_does(tmp_path, size):
    resource = pytest.importorskip("resource")
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RunError, match=r"checkpoint\.pt cannot be written: File too large$"):
            write_atomically(path, lambda file: torch.save(torch.zeros(size), file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_rights_that_others_get(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file.txt", write)
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o640


@pytest.fixture
def precious(tmp_path):
    """A file outside the folder, and the folder."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    yield tmp_path / "precious", tmp_path / "run"
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_link_in_the_place_of_a_file_is_replaced(precious):
    outside, folder = precious
    (folder / "report.html").symlink_to(outside)
    write_atomically(folder / "report.html", write)
    assert not (folder / "report.html").is_symlink() and (folder / "report.html").read_bytes() == b"new"


def test_names_of_temporary_files_cannot_be_foreseen(tmp_path):
    names = set()
    for _ in range(20):
        write_atomically(tmp_path / "file.txt", lambda file: names.add(file.name))
    assert len(names) == 20 and all(len(os.path.basename(name)) > len("file.txt") + 16 for name in names)


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(precious, monkeypatch):
    outside, folder = precious
    monkeypatch.setattr(secrets, "token_hex", lambda n: "guessed")
    (folder / ".report.html.guessed").symlink_to(outside)
    with pytest.raises(RunError, match=r"report\.html cannot be written: File exists"):
        write_atomically(folder / "report.html", write)
    assert not (folder / "report.html").exists()


# ---- a folder for one training

STORED = Stored("ssdml", "OrthogonalMetric", {"alpha": 40.0}, {"seed": 0})
DATASET = {"name": "digits", "labels_per_class": 10}


def checkpoint(**changed):
    """A checkpoint as a training saves it, of two validations and one round."""
    history = [{"validation": i, "planned": 1, "score": 0.5 + i / 4, "seconds": {"train": 1.5}} for i in range(2)]
    whole = {"history": history, "best_model": {"L": torch.eye(3)}, "propagated": [torch.tensor([-1, 2, 0])], "done": 1}
    return {name: value for name, value in (whole | changed).items() if value is not None}


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "runs" / "run", DATASET)


def test_a_training_is_stored_and_read(run):
    run.refuse_used()
    assert not run.path.parent.exists()  # nothing is made by looking
    run.create(STORED)
    assert json.loads((run.path / "config.json").read_text()) == {
        "format": 2, "dataset": DATASET, "network": {}, "method": "ssdml", "head": "OrthogonalMetric",
        "settings": {"alpha": 40.0}, "training": {"seed": 0},
    }  # fmt: skip
    again = RunFolder(run.path)
    assert again.read_stored() == STORED and again.dataset == DATASET


def test_a_run_of_the_former_format_is_read(run):
    run.path.mkdir(parents=True)
    (run.path / "config.json").write_text(json.dumps({"format": 1, "dataset": DATASET, "training": {"alpha": 40.0}}))
    assert run.read_stored() == Stored("ssdml", "OrthogonalMetric", {}, {"alpha": 40.0})
    torch.save(checkpoint(), run.path / "checkpoint.pt")
    with pytest.raises(
        RunError, match=r"is of a version of ssdml-fast before 0\.3\.0, .*: train again, or continue it"
    ):
        run.read_checkpoint()


def test_what_a_newer_version_wrote_is_refused(run):
    run.create(STORED)
    run.write_progress(checkpoint())
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps(config | {"format": 3}))
    with pytest.raises(RunError, match="is of format 3, which a newer version of ssdml-fast wrote: upgrade ssdml-fast"):
        run.read_stored()
    torch.save(checkpoint(format=3), run.path / "checkpoint.pt")
    with pytest.raises(RunError, match="is of format 3, not 2: continue the training with the version"):
        run.read_checkpoint()


def test_trainings_that_start_in_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(folder_module, "datetime", Stopped)
    with ThreadPoolExecutor(8) as pool:
        made = [each.result() for each in [pool.submit(new_folder, tmp_path / "runs") for _ in range(40)]]
    names = ["2026-01-02_03-04-05", *(f"2026-01-02_03-04-05-{i}" for i in range(2, 41))]
    assert {path.name for path in made} == set(names) and len(list((tmp_path / "runs").iterdir())) == 40
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"a run folder in .*file cannot be made: File exists"):
        new_folder(tmp_path / "file")


def leave_temporary(path):
    """As a process that was killed while it wrote."""
    (path / f".checkpoint.pt.{secrets.token_hex(8)}").write_bytes(b"half")


def test_a_folder_with_nothing_but_leftovers_can_be_used_again(run):
    run.create(STORED)
    leave_temporary(run.path)
    run.tensorboard.mkdir()
    other = Stored("lrml", "OrthogonalMetric", {}, {"seed": 1})
    run.refuse_used()
    run.create(other)
    assert run.read_stored() == other
    assert {path.name for path in run.path.iterdir()} == {"config.json", "tensorboard"}


@pytest.mark.parametrize(
    "used",
    [
        lambda path: (path / "notes.txt").touch(),
        lambda path: (path / ".notes.txt").touch(),
        lambda path: (path / "checkpoint.pt").touch(),
        lambda path: (path / "within.pt").touch(),
        lambda path: (path / "model.safetensors").touch(),
        lambda path: (path / "config.json").write_text('{"compilerOptions": {}}'),  # another program's
        lambda path: (path / "tensorboard").mkdir(),  # without a config.json: not a training's
    ],
)
def test_a_folder_that_holds_anything_else_is_refused_and_stays_as_it_is(run, used):
    run.path.mkdir(parents=True)
    used(run.path)
    what = "a training, which can be resumed" if (run.path / "checkpoint.pt").exists() else "other files"
    before = {path.name: path.is_file() and path.read_bytes() for path in run.path.iterdir()}
    for begin in (run.refuse_used, lambda: run.create(STORED)):
        with pytest.raises(RunError, match="must be new or empty, found " + what):
            begin()
    assert {path.name: path.is_file() and path.read_bytes() for path in run.path.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for path, why in [
        (tmp_path / "file" / "run", "Not a directory"),
        (tmp_path / "file", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ]:
        for begin in (RunFolder(path).refuse_used, lambda path=path: RunFolder(path).create(STORED)):
            with pytest.raises(RunError, match=f"cannot be made: ({why}|File exists)"):
                begin()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # though root may
    with pytest.raises(RunError, match="cannot be made: Permission denied"):
        RunFolder(tmp_path / "new" / "run").refuse_used()


needs_locks = pytest.mark.skipif(not sys.platform.startswith(("linux", "darwin")), reason="folders have no locks here")


@needs_locks
def test_one_training_writes_a_folder(run):
    with run.lock():
        run.create(STORED)
        other = RunFolder(run.path)
        for begin in (other.refuse_used, lambda: other.create(STORED), lambda: other.lock().__enter__()):
            with pytest.raises(RunError, match="is in use by another training"):
                begin()
        run.write_progress(checkpoint())
        with run.lock():  # which it holds
            pass
        with pytest.raises(RunError, match="is in use"), other.lock():
            pass
    with other.lock():
        pass
    assert not [path.name for path in run.path.iterdir() if "lock" in path.name]


HOLDER = """
import os, sys, time
from ssdml_fast.runs.folder import RunFolder

with RunFolder(sys.argv[1]).lock():
    ours, theirs = os.pipe()
    if os.fork() == 0:  # a worker, which outlives a parent that is killed
        os.close(theirs)
        os.write(1, b"held")
        os.read(0, 1)
        os._exit(0)
    os.read(ours, 1)
"""


@needs_locks
def test_a_lock_goes_with_its_process_though_workers_live_on(run):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, run.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )  # the worker waits for its input, the parent for ever
    assert child.stdout.read(4) == b"held"
    with pytest.raises(RunError, match="is in use by another training"):
        run.refuse_used()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    run.create(STORED)
    child.communicate(b"x")


# ---- what a training saves


def test_progress_is_read_as_it_was_saved(run):
    run.create(STORED)
    run.write_progress(checkpoint())
    saved = run.read_checkpoint()
    assert saved["format"] == 2 and saved["done"] == 1 and saved["history"] == checkpoint()["history"]
    assert run.read_history() == saved["history"]
    assert torch.equal(run.read_model()["L"], torch.eye(3))


def test_labels_beyond_32_bits_survive(run):
    run.create(STORED)
    run.write_progress(checkpoint(propagated=[torch.tensor([-1, 2**31, 2**40 + 1])]))
    labels = run.read_propagated()
    assert labels.dtype == np.int64 and labels.tolist() == [[-1, 2**31, 2**40 + 1]]
    run.write_progress(run.read_checkpoint())
    assert run.read_propagated().tolist() == labels.tolist()
    save_file({"propagated": np.array([[3, -1]], np.int32)}, run.path / "propagated.safetensors")  # as before 0.3.0
    assert run.read_propagated().dtype == np.int64 and run.read_propagated().tolist() == [[3, -1]]


def test_the_best_record_is_the_first_of_the_highest_score_or_the_last():
    scores = [0.3, 0.7, None, 0.7, 0.5]
    records = [{"validation": i, "score": score} for i, score in enumerate(scores)]
    assert best_of(records) is records[1]
    assert best_of([{"validation": 0}, {"validation": 1}]) == {"validation": 1}


# ---- files that are damaged, or come from elsewhere


def nest(depth):
    content = []
    for _ in range(depth):
        content = [content]
    return content


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"history": "abc"}, "must hold a list of records"),
        ({"history": [{"validation": "0", "planned": 1}]}, "record 0 has a validation that is no count: '0'"),
        ({"history": [{"validation": 0}]}, "record 0 has a planned that is no count: None"),
        ({"history": [{"validation": 0, "planned": 1, "score": float("nan")}]}, "a score that is no finite number"),
        ({"history": []}, "it has no validation"),
        ({"history": None}, "must hold a list of records"),
        ({"best_model": None}, "best_model is no table of tensors"),
        ({"best_model": {"L": [1.0]}}, "best_model is no table of tensors"),
        ({"propagated": None}, "propagated labels are no list of rounds"),
        ({"propagated": [torch.zeros(3)]}, "propagated labels are no list of rounds"),
        ({"propagated": [torch.zeros(3).long(), torch.zeros(2).long()]}, "propagated labels are no list of rounds"),
        ({"propagated": [torch.zeros(1, dtype=torch.int32).expand(10**11)]}, r"a tensor of shape \(100000000000,\)"),
        ({"optimizer": {"state": [{"x": torch.zeros(1).expand(10**11)}]}}, r"a tensor of shape \(100000000000,\)"),
    ],
)
def test_a_checkpoint_that_is_none_is_one_clear_error(run, changed, message):
    run.create(STORED)
    torch.save(checkpoint(format=2, **changed), run.path / "checkpoint.pt")
    with pytest.raises(RunError, match=rf"checkpoint\.pt is damaged: .*{message}"):
        run.read_checkpoint()


def test_a_checkpoint_may_be_nested_or_refer_to_itself(run):
    run.create(STORED)
    deep = nest(100)
    deep.append(deep)
    torch.save(checkpoint(format=2, own=deep), run.path / "checkpoint.pt")
    assert run.read_checkpoint()["done"] == 1


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"validation": true, "planned": 1}', "a validation that is no count: True"),
        ('{"validation": -1, "planned": 1}', "a validation that is no count: -1"),
        (f'{{"validation": 0, "planned": {2**60}}}', "a planned that is no count"),
        ('{"validation": 0, "planned": 1, "round": 0.5}', "a round that is no count: 0.5"),
        ('{"validation": 0, "planned": 1, "val_nmi": "x"}', "a val_nmi that is no finite number: 'x'"),
        ('{"validation": 0, "planned": 1, "loss": NaN}', "a number is|could not convert|damaged"),
        ('{"validation": 0, "planned": 1, "loss": 1e400}', "a number is 1e400"),
        (f'{{"validation": 0, "planned": 1, "val_nmi": {"9" * 400}}}', "a number has 400 digits"),
        ('{"validation": 0, "planned": 1, "seconds": "x"}', "seconds that are no times of stages: 'x'"),
        ('{"validation": 0, "planned": 1, "seconds": {"train": -1}}', "seconds that are no times of stages"),
        ("[" * 100000, "nested too deeply"),
        ("[1]", "must hold a list of records"),
    ],
)
def test_a_record_that_is_none_is_one_clear_error(run, record, message):
    run.create(STORED)
    (run.path / "metrics.jsonl").write_text('{"validation": 0, "planned": 1}\n' + record)
    with pytest.raises(RunError, match=rf"metrics\.jsonl is damaged: .*({message})"):
        run.read_history()


def test_records_may_hold_a_methods_own_fields_and_lack_what_it_has_not(run):
    record = {"validation": 0, "planned": 1, "inertia": [1.5, None], "round": 0, "partition": 0, "score": None}
    run.create(STORED)
    run.write_progress(checkpoint(history=[record]))
    assert run.read_history() == [record] and run.read_checkpoint()["history"] == [record]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100000, "nested too deeply"),
        ("[1]", "damaged or not of a run"),
        ("null", "damaged or not of a run"),
        ('{"format": true}', "format True is none"),
        ('{"format": 0}', "format 0 is none"),
        ('{"format": 1, "dataset": {}}', "training is no table: None"),
        ('{"format": 1, "dataset": [1], "training": {}}', r"dataset is no table: \[1\]"),
        (
            '{"format": 2, "dataset": {}, "method": 3, "head": "", "settings": {}, "training": {}}',
            "method is no text: 3",
        ),
        (f'{{"format": 1, "dataset": {{}}, "training": {{"alpha": {"1" * 400}}}}}', "a number has 400 digits"),
    ],
)
def test_a_config_that_is_none_is_one_clear_error(run, content, message):
    run.path.mkdir(parents=True)
    (run.path / "config.json").write_text(content)
    with pytest.raises(RunError, match=rf"config\.json is damaged or not of a run: .*{message}|{message}"):
        run.read_stored()


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"test": []}', '{"test": {"a": "x"}}', '{"test": {"a": {"nmi": "x"}}}']
)
def test_results_that_are_none_are_one_clear_error(run, content):
    run.create(STORED)
    (run.path / "results.json").write_text(content)
    with pytest.raises(RunError, match=r"results\.json is damaged: it must hold under test the figures"):
        run.read_results()


@pytest.mark.parametrize("notes", ["text", [3], {"a": "b"}])
def test_notes_on_results_that_are_none_are_one_clear_error(run, notes):
    run.create(STORED)
    run.write_results({"test": {}, "notes": notes})
    with pytest.raises(RunError, match=r"results\.json is damaged: it must hold under notes a list of sentences"):
        run.read_results()
    run.write_results({"test": {}})  # as versions before 0.4.0 did
    assert run.read_results() == {"test": {}, "notes": []}


@pytest.mark.parametrize("labels", [np.zeros(3, np.int64), np.zeros((1, 3)), np.full((1, 3), -2)])
def test_propagated_labels_that_are_none_are_one_clear_error(run, labels):
    run.create(STORED)
    save_file({"propagated": labels}, run.path / "propagated.safetensors")
    with pytest.raises(RunError, match=r"propagated\.safetensors is damaged: it must hold rounds of integers from -1"):
        run.read_propagated()


def test_json_is_of_finite_numbers():
    assert from_json('{"a": [1, -2.5, 1e300, true]}') == {"a": [1, -2.5, 1e300, True]}
    for text in ("NaN", "Infinity", "-1e999", "1" * 301):
        with pytest.raises(ValueError, match="number"):
            from_json(text)
