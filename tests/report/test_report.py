"""The report of a run: one file with every section, right figures in it, and what is missing said rather than fatal."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from datasets import Items
from matplotlib.figure import Figure
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from ssdml_fast.cli.app import app
from ssdml_fast.data.examples import as_examples
from ssdml_fast.data.load import load
from ssdml_fast.report import sections as sections_module
from ssdml_fast.report.names import names
from ssdml_fast.report.sections import sections
from ssdml_fast.runs.fingerprint import PARTS, fingerprint
from ssdml_fast.runs.run import Missing, Run
from ssdml_fast.train.engine import Engine

TITLES = list(sections_module._SECTIONS)
FIGURES, MAPS, RETRIEVAL, PROPAGATED = "Figures on test examples", "Before and after", "Retrieval", "Propagated labels"


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def train(path, *arguments, code=0):
    small = ["--epochs", 1, "--partition-size", 460, "--metric-dim", 16, "--batch-size", 500]
    result = invoke("train", *small, "--out", path, *arguments)
    assert result.exit_code == code, result.output
    return path


def change_config(path, **changes):
    """Change settings, of the method or the training."""
    content = json.loads((path / "config.json").read_text())
    for name, value in changes.items():
        content["settings" if name in content["settings"] else "training"][name] = value
    (path / "config.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, quick_maps):
    """A run on the digits, and as if there were others: of another alpha, alpha and seed, and way of mining."""
    folder = tmp_path_factory.mktemp("runs")
    made = [train(folder / "main", "--rounds", 2)]
    for other in ({"alpha": 30.0}, {"alpha": 30.0, "seed": 1}, {"mining": "neighborhood"}):
        path = folder / f"other {len(made)}"
        shutil.copytree(made[0], path)
        change_config(path, **other)
        made.append(path)
    return made


class Page(HTMLParser):
    """Reads a page: its sections' texts and pictures, every address in it, and whether it is well formed."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.addresses, self.sections, self.heading = [], [], [], {}, None
        self.feed(text)
        self.close()
        assert text.startswith("<!DOCTYPE html>") and self.open == []
        assert len(set(self.ids)) == len(self.ids)
        inside = [address for address in self.addresses if address.startswith("#")]
        assert [address[1:] for address in inside] == self.ids  # each section is linked to, in order

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        assert len({name for name, _ in attributes}) == len(attributes)
        self.ids += [value for name, value in attributes if name == "id"]
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            assert dict(attributes)["alt"]
            self.sections[self.heading]["pictures"] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["h2"]:
            self.heading = data
            self.sections[data] = {"text": "", "pictures": 0}
        elif self.heading:
            self.sections[self.heading]["text"] += data


def report(*paths, out):
    result = invoke("report", *paths, "--out", out)
    assert result.exit_code == 0, result.output
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert list(page.sections) == TITLES
    assert re.findall(r"https?:|//\w|@import|<script|<link|url\(", re.sub(r"base64,[^\"]*", "", text)) == []
    for address in page.addresses:
        if not re.fullmatch(r"#section-\d+", address):
            assert address.startswith("data:image/png;base64,")
            assert base64.b64decode(address.split(",")[1], validate=True).startswith(b"\x89PNG")
    return page, text


# ---- the whole page


def test_a_report_is_one_file_with_every_section(runs, tmp_path):
    page, text = report(*runs, out=tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    pictures = {title: section["pictures"] for title, section in page.sections.items()}
    assert pictures.pop(RETRIEVAL) in (1, 2)  # of wrong ones, if there are any
    assert pictures == {
        "Figures on test examples": 0, "Convergence": 1, "Sensitivity to α": 1, MAPS: 1, PROPAGATED: 1, "Time": 1,
        "Settings": 0,
    }  # fmt: skip
    assert 'class="missing"' not in text
    assert "3 runs that differ in α" in page.sections["Sensitivity to α"]["text"]
    assert "not finished" not in text and "all that was planned is done" in text
    results = json.loads((runs[0] / "results.json").read_text())
    for row in results["test"].values():
        assert f"<td>{100 * row['map@r']:.2f}</td>" in text
    history = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    best = max(history, key=lambda record: record["score"])
    assert f">{100 * best['val_nmi']:.1f}<" in text and f"untrained: {100 * history[0]['val_nmi']:.1f}" in text


def test_one_run_is_reported_into_its_folder_and_what_would_need_others_is_said(runs):
    result = invoke("report", runs[0])
    assert result.exit_code == 0 and f"report: {runs[0] / 'report.html'}" in result.output
    page = Page((runs[0] / "report.html").read_text(encoding="utf-8"))
    alpha = page.sections["Sensitivity to α"]
    assert alpha["pictures"] == 0 and "ssdml-fast report RUN OTHER" in alpha["text"]
    assert all(section["pictures"] for title, section in page.sections.items() if title in (MAPS, RETRIEVAL))
    assert "--metric-update unconstrained" in page.sections[MAPS]["text"]


@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_an_interrupted_run_is_reported(tmp_path, monkeypatch, quick_maps, stop_at):
    saved, save = [], Engine.save

    def interrupted(training):
        if len(saved) == stop_at:
            raise KeyboardInterrupt
        saved.append(save(training))

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "save", interrupted)
        path = train(tmp_path / "run", "--rounds", 2, code=130)
    page, text = report(path, out=tmp_path / "report.html")
    assert "measured once, when a training ends" in page.sections["Figures on test examples"]["text"]
    if stop_at == 0:  # before anything was saved
        assert "has no metrics.jsonl" in page.sections["Convergence"]["text"]
        assert "no model.safetensors" in page.sections[RETRIEVAL]["text"]
        return
    assert "not finished" in text and page.sections["Convergence"]["pictures"] == 1
    assert page.sections[MAPS]["pictures"] == 1
    propagated = page.sections[PROPAGATED]
    assert propagated["pictures"] == (stop_at > 1) and ("has no propagated.safetensors" in propagated["text"]) == (
        stop_at == 1
    )


def change_propagated(path):
    save_file({"propagated": np.zeros((1, 3), np.int32)}, path / "propagated.safetensors")


def rename_validations(path):
    """Name them as versions before 0.1.0 did."""
    records = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(records.replace('"epoch"', '"pass"').replace('"validation"', '"epoch"'))


def propagate_nothing(path):
    propagated = load_file(path / "propagated.safetensors")["propagated"]
    save_file({"propagated": np.full_like(propagated, -1)}, path / "propagated.safetensors")


def change_data(path):
    content = json.loads((path / "config.json").read_text())
    content["dataset"]["name"] = "mnist:/nowhere"
    (path / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "lost", "message"),
    [
        (lambda path: (path / "metrics.jsonl").write_text("{"), ["Convergence", MAPS, "Time"], "metrics.jsonl is dam"),
        (lambda path: (path / "metrics.jsonl").write_text(""), ["Convergence", MAPS, "Time"], "no validation yet"),
        (lambda path: (path / "metrics.jsonl").write_text("[1]"), ["Convergence"], "metrics.jsonl is damaged"),
        (rename_validations, ["Convergence", MAPS, "Time"], "metrics.jsonl is of a version of ssdml-fast before 0.1.0"),
        (lambda path: (path / "model.safetensors").write_bytes(b"x"), [MAPS, RETRIEVAL], "model.safetensors is dam"),
        (lambda path: (path / "propagated.safetensors").write_bytes(b"x"), [PROPAGATED], "safetensors is damaged"),
        (change_propagated, [PROPAGATED], "their number differs"),
        (propagate_nothing, [PROPAGATED], "No unlabelled example got a label"),
        (lambda path: (path / "results.json").unlink(), ["Figures on test examples"], "has no results.json"),
        (change_data, [MAPS, RETRIEVAL, PROPAGATED], "data cannot be loaded: expected train-images"),
    ],
)  # fmt: skip
def test_what_is_missing_or_damaged_is_said_where_it_would_be(runs, tmp_path, damage, lost, message):
    path = tmp_path / "run"
    shutil.copytree(runs[0], path)
    damage(path)
    page, _ = report(path, out=tmp_path / "report.html")
    for title in lost:
        assert page.sections[title]["pictures"] == 0
        assert message in page.sections[title]["text"], page.sections[title]["text"]
    rest = {"Convergence", MAPS, RETRIEVAL, PROPAGATED, "Time"} - set(lost)
    assert sum(page.sections[title]["pictures"] > 0 for title in rest) >= min(2, len(rest))


def rewrite_records(path, change):
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    (path / "metrics.jsonl").write_text("".join(json.dumps(change(record)) + "\n" for record in records))


def test_a_run_without_validation_examples_is_reported(runs, tmp_path):
    """One that keeps its last model: no record has a score."""
    path = tmp_path / "run"
    shutil.copytree(runs[0], path)
    scores = ("score", "val_nmi", "val_recall@1", "triplets", "orthogonality_error")
    rewrite_records(path, lambda record: {name: value for name, value in record.items() if name not in scores})
    change_config(path, select="last")
    page, text = report(path, *runs[1:], out=tmp_path / "report.html")
    last = len((path / "metrics.jsonl").read_text().splitlines()) - 1
    assert f">validation {last}<" in text and ">the last<" in text and ">validation NMI<" not in text
    convergence = page.sections["Convergence"]
    assert convergence["pictures"] == 1 and "no validation examples, and so no scores" in convergence["text"]
    assert f"of validation {last}, the last." in convergence["text"]
    assert page.sections[MAPS]["pictures"] == 1 and page.sections["Time"]["pictures"] == 1
    rewrite_records(path, lambda record: {name: record[name] for name in ("validation", "planned")})
    page, _ = report(path, out=tmp_path / "report.html")
    assert "Nothing was measured yet" in page.sections["Convergence"]["text"]
    assert "kept no times" in page.sections["Time"]["text"]


def test_a_method_without_rounds_triplets_or_alpha_is_reported(runs, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(runs[0], path)
    (path / "propagated.safetensors").unlink()
    rewrite_records(path, lambda record: record | {"round": 0, "partition": 0, "inertia": 3.5})
    content = json.loads((path / "config.json").read_text())
    every = content["settings"] | content["training"]
    content |= {"method": "clusters", "settings": {"clusters": 10}}
    content["training"] = {name: every[name] for name in ("seed", "metric_dim", "learning_rate")}
    (path / "config.json").write_text(json.dumps(content))
    page, _ = report(path, runs[0], out=tmp_path / "report.html")
    assert "no α" in page.sections["Sensitivity to α"]["text"]
    assert page.sections[MAPS]["pictures"] == 1 and page.sections["Convergence"]["pictures"] == 1
    assert "is shaded" not in page.sections["Convergence"]["text"]
    settings = page.sections["Settings"]["text"]
    assert "method clusters" in settings and "method ssdml" in settings  # the runs are named by what both have


def test_rounds_in_which_nothing_was_propagated_are_left_out(runs, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(runs[0], path)
    labels = load_file(path / "propagated.safetensors")["propagated"]
    save_file({"propagated": np.stack([np.full_like(labels[0], -1), labels[1]])}, path / "propagated.safetensors")
    (section,) = (each for each in sections([Run(path)]) if each.title == PROPAGATED)
    assert [row[0] for row in section.rows] == ["2"] and len(section.figures) == 1


def embed_by_nan(path):
    model = load_file(path / "model.safetensors")
    save_file({name: np.full_like(tensor, np.nan) for name, tensor in model.items()}, path / "model.safetensors")


def propagate_a_class_too_many(path):
    labels = load_file(path / "propagated.safetensors")["propagated"]
    save_file({"propagated": np.full_like(labels, 2**40)}, path / "propagated.safetensors")


def another_head(path):
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(content | {"head": "Other"}))


@pytest.mark.parametrize(
    ("damage", "lost", "message"),
    [
        (embed_by_nan, [MAPS, RETRIEVAL], "embeds validation examples by NaN or infinity"),
        (propagate_a_class_too_many, [PROPAGATED], "they have fewer classes"),
        (another_head, [MAPS, RETRIEVAL], "a metric that is not known here, 'Other'"),
        (lambda path: (path / "results.json").write_text("{}"), [FIGURES], "results.json is damaged"),
        (lambda path: (path / "results.json").write_text('{"test": {}}'), [FIGURES], "was not tested"),
        (lambda path: change_config(path, alpha="x"), ["Sensitivity to α"], "has no α"),
        (lambda path: change_config(path, metric_dim="x"), [MAPS, RETRIEVAL], "metric_dim must be an integer"),
        (lambda path: change_config(path, seed=None), [MAPS, RETRIEVAL, PROPAGATED], "seed must be an integer"),
        (
            lambda path: rewrite_records(path, lambda record: record | {"seconds": {"train": 0}}),
            ["Time"], "kept no times",
        ),
    ],
)  # fmt: skip
def test_what_comes_from_elsewhere_is_judged(runs, tmp_path, damage, lost, message):
    path = tmp_path / "run"
    shutil.copytree(runs[0], path)
    damage(path)
    for title in lost:
        with pytest.raises(Missing, match=message):
            sections_module._SECTIONS[title](sections_module.Section(title), [Run(path)])


def test_numbers_at_the_end_of_their_range_are_drawn(runs, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(runs[0], path)
    rewrite_records(
        path, lambda record: record | {"loss": 1e300, "val_nmi": -1e300, "score": 1e300, "seconds": {"train": 2**52}}
    )
    page, _ = report(path, out=tmp_path / "report.html")
    assert page.sections["Convergence"]["pictures"] == 1 and page.sections["Time"]["pictures"] == 1


def test_names_of_users_are_escaped(runs, tmp_path):
    path = tmp_path / "<b>run & co"
    shutil.copytree(runs[0], path)
    _, text = report(path, out=tmp_path / "report.html")
    assert "&lt;b&gt;run &amp; co" in text and "<b>" not in text


def test_features_are_reported_with_their_classes_written(tmp_path, quick_maps):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    np.savez(tmp_path / "f.npz", x=np.eye(3)[y] @ rng.normal(size=(3, 10)) + rng.normal(size=(120, 10)), y=y)
    path = train(tmp_path / "run", "--data", f"features:{tmp_path}/f.npz", "--metric-dim", 4, "--rounds", 1)
    page, _ = report(path, out=tmp_path / "report.html")
    assert page.sections[RETRIEVAL]["pictures"] >= 1


def test_misuse_is_one_clear_error(runs, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(runs[0], damaged)
    (damaged / "config.json").write_text("{")
    for arguments, message in [
        ([tmp_path / "none"], f"there is no run folder {tmp_path / 'none'}"),
        ([runs[0], tmp_path], "has no config.json"),
        ([damaged], "config.json is damaged"),
        ([runs[0], "--out", tmp_path / "no" / "report.html"], "report.html cannot be written: No such file"),
        ([], "Missing argument"),
    ]:
        result = invoke("report", *arguments)
        assert result.exit_code == 2
        assert message in re.sub(r"[\s│]+", " ", result.output) and "Traceback" not in result.output
    assert not (tmp_path / "no").exists()


# ---- data that were moved since


@pytest.fixture(scope="module")
def moved(tmp_path_factory, quick_maps):
    """A run on features that were moved after it, and where they are now."""
    folder = tmp_path_factory.mktemp("moved")
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = np.eye(3)[y] @ rng.normal(size=(3, 10)) + rng.normal(size=(120, 10))
    np.savez(folder / "before.npz", x=x, y=y)
    path = train(folder / "run", "--data", f"features:{folder}/before.npz", "--metric-dim", 4, "--rounds", 1)
    (folder / "before.npz").rename(folder / "after.npz")
    np.savez(folder / "fewer.npz", x=x[:-30], y=y[:-30])
    return path, folder


def test_moved_data_are_evaluated_and_reported_where_they_are(moved, tmp_path):
    path, folder = moved
    result = invoke("evaluate", path)
    assert result.exit_code == 2 and "before.npz" in result.output
    result = invoke("evaluate", path, "--data", f"features:{folder}/after.npz")
    assert result.exit_code == 0, result.output
    tested = json.loads((path / "results.json").read_text())["test"]
    assert all(f"{100 * row['map@r']:.2f}" in result.output for row in tested.values())
    out = tmp_path / "report.html"
    shutil.copytree(path, tmp_path / "other")
    change_config(tmp_path / "other", mining="neighborhood")
    arguments = ("report", path, tmp_path / "other", "--out", out, "--data", f"features:{folder}/after.npz")
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    page = Page(out.read_text(encoding="utf-8"))
    assert page.sections[MAPS]["pictures"] == 1 and "data cannot be loaded" not in page.sections[MAPS]["text"]
    assert "same data and seed" not in page.sections[MAPS]["text"]  # the other's data are the same, and moved with them
    assert f"features:{folder.resolve()}/after.npz" in page.sections["Settings"]["text"]
    assert json.loads((path / "config.json").read_text())["dataset"]["name"].endswith("before.npz")


def test_other_data_are_refused(moved):
    path, folder = moved
    result = invoke("evaluate", path, "--data", f"features:{folder}/fewer.npz")
    assert result.exit_code == 2 and "The data are not those that the run was trained on" in result.output
    result = invoke("evaluate", folder / "after.npz", "--data", "digits")
    assert result.exit_code == 2 and "data must be given with a run folder alone" in result.output


@pytest.mark.parametrize("part", ["train", "labels", "val", "val_labels"])
def test_data_of_another_fingerprint_are_refused(moved, tmp_path, part):
    path, folder = moved
    shutil.copytree(path, tmp_path / "run")
    data = load(f"features:{folder}/after.npz", 0, 10)
    own = fingerprint(
        as_examples(data.images, "images"), data.labels, as_examples(data.val_images, "images"), data.val_labels
    )
    name = f"features:{folder}/after.npz"
    checkpoint = torch.load(path / "checkpoint.pt", weights_only=True)
    torch.save(checkpoint | {"fingerprint": own}, tmp_path / "run" / "checkpoint.pt")
    assert len(Run(tmp_path / "run", {"data": name}).data.images) == len(data.images)
    torch.save(checkpoint | {"fingerprint": own | {part: "0"}}, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(Missing, match=f"not those that the run was trained on: {PARTS[part]} differ"):
        Run(tmp_path / "run", {"data": name}).data  # noqa: B018


# ---- what the sections hold


def test_propagated_labels_are_counted_against_the_truth(runs):
    run = Run(runs[0])
    labels, truth, given = run.propagated, run.data.truth, run.data.labels
    assert labels.shape == (2, len(truth))
    assert ((labels >= 0) == (given < 0)).all()  # every unlabelled example is in one partition of each round
    (section,) = (each for each in sections([run]) if each.title == PROPAGATED)
    for i, row in enumerate(section.rows):
        hidden = given < 0
        assert row[:3] == [str(i + 1), f"{hidden.sum():,}", f"{(labels[i] == truth)[hidden].mean():.1%}"]
        assert row[4] == "0"
    mistakes = {}
    for of, to in zip(truth[labels[1] >= 0], labels[1][labels[1] >= 0], strict=True):
        mistakes[of, to] = mistakes.get((of, to), 0) + (of != to)
    count = max(mistakes.values())
    of, to = re.match(r"(\d) → (\d) ", section.rows[1][3]).groups()
    assert mistakes[int(of), int(to)] == count


def section_of(run, title):
    """One section, made for itself."""
    made = sections_module.Section(title)
    sections_module._SECTIONS[title](made, [run])
    return made


def test_examples_without_a_propagated_label_or_a_true_one_are_counted_apart(runs):
    run = Run(runs[0])
    hidden = np.flatnonzero(run.data.labels < 0)
    run.propagated[1, hidden[:7]] = -1
    truth = run.data.truth.copy()
    truth[hidden[5:100]] = -1
    run.data = replace(run.data, truth=truth)
    section = section_of(run, PROPAGATED)
    n_known, right = len(hidden) - 95, (run.propagated == truth)[:, hidden] & (truth[hidden] >= 0)
    for i, n_none in enumerate((0, 7)):
        row = section.rows[i]
        assert (row[1], row[4]) == (f"{len(hidden) - n_none:,}", str(n_none))
        assert row[2] == f"{right[i].sum() / (n_known - 5 * i):.1%}"
    assert "Those of 95 examples are not known" in section.text and len(section.figures) == 1
    run.data = replace(run.data, truth=np.where(run.data.labels >= 0, truth, -1))
    section = section_of(run, PROPAGATED)
    assert [len(row) for row in [section.header, *section.rows]] == [3, 3, 3] and not section.figures
    assert "no true label of an unlabelled example is known" in section.missing


def test_parts_that_the_data_lack_are_said(runs):
    run = Run(runs[0])
    run.results = {"test": {}}
    with pytest.raises(Missing, match="the data have no test part"):
        section_of(run, FIGURES)


@pytest.mark.parametrize(("known", "n_figures"), [(slice(None), 2), (slice(0, 200), 2), (slice(0), 1)])
def test_without_validation_examples_training_examples_are_shown(runs, known, n_figures):
    run = Run(runs[0])
    truth = np.full_like(run.data.truth, -1)
    truth[known] = run.data.truth[known]
    run.data = replace(run.data, val_images=None, val_labels=None, truth=truth)
    maps, retrieval = section_of(run, MAPS), section_of(run, RETRIEVAL)
    assert maps.figures[0][0] == "Maps of the training examples" and "true class where it is known" in maps.text
    assert retrieval.text.startswith("Training examples and the nearest")
    assert len(retrieval.figures) == n_figures
    assert ("of an unknown one" in retrieval.text) == (known != slice(None))
    legend = {text.get_text() for text in maps.figures[0][1].legends[0].get_texts()} if known != slice(0) else set()
    assert ("unknown" in legend) == (known == slice(0, 200)) and bool(maps.figures[0][1].legends) == (known != slice(0))
    for section in (maps, retrieval):
        for _, figure in section.figures:
            figure.canvas.draw()


def test_at_most_so_many_training_examples_are_shown(runs, monkeypatch):
    monkeypatch.setattr("ssdml_fast.runs.run.SHOWN", 50)
    run = Run(runs[0])
    run.data = replace(run.data, val_images=None, val_labels=None)
    shown = run.shown
    assert len(shown.labels) == len(shown.images) == len(shown.decoded) == len(run.embedding) == 50
    assert run.shares_data(run) and (shown.labels >= 0).all()


def test_what_could_not_be_computed_is_said(runs):
    run = Run(runs[0])
    run.results = run.results | {"notes": ["The silhouette cannot be computed: MemoryError.", "And one more."]}
    section = section_of(run, FIGURES)
    assert section.missing == "The silhouette cannot be computed: MemoryError. And one more." and section.rows


def test_pictures_that_are_decoded_when_asked_for_are_looked_up(runs):
    run, read = Run(runs[0]), []
    assert run.data.val_images is run.examples.val_images  # digits are taken as they are
    images = (255 * run.examples.val_images / run.examples.val_images.max()).astype(np.uint8)
    lazy = Items([lambda i=i: read.append(i) or images[i] for i in range(len(images))])
    run.inputs = replace(run.inputs, examples=replace(run.examples, val_images=lazy))
    assert len(section_of(run, RETRIEVAL).figures) == 2
    assert 0 < len(set(read)) < len(images)  # those that are drawn


def test_a_section_or_a_figure_that_fails_takes_no_other_with_it(runs, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise MemoryError("Unable to allocate 7 GiB")

    def undrawable(*_, **__):
        figure = Figure()
        figure.text(0, 0, "$\\nonsense{$")
        return figure

    whole, _ = report(runs[0], out=tmp_path / "whole.html")
    monkeypatch.setattr(sections_module, "draw_maps", fails)
    monkeypatch.setattr(sections_module, "draw_convergence", undrawable)
    page, _ = report(runs[0], out=tmp_path / "report.html")
    assert "This cannot be shown: MemoryError: Unable to allocate 7 GiB." in page.sections[MAPS]["text"]
    assert "This cannot be drawn: ValueError: " in page.sections["Convergence"]["text"]
    for title, section in whole.sections.items():
        assert page.sections[title]["pictures"] == section["pictures"] * (title not in (MAPS, "Convergence"))
    assert not any("cannot be shown" in section["text"] for section in whole.sections.values())


def test_runs_are_named_by_what_differs(runs, tmp_path):
    assert names([Run(path) for path in runs[:2]]) == ["alpha 40", "alpha 30"]
    assert names([Run(path) for path in runs[:3]]) == ["alpha 40, seed 0", "alpha 30, seed 0", "alpha 30, seed 1"]
    shutil.copytree(runs[0], tmp_path / "main")
    shutil.copytree(runs[0], tmp_path / "copy")
    assert names([Run(runs[0]), Run(tmp_path / "copy")]) == ["main", "copy"]
    assert names([Run(runs[0]), Run(tmp_path / "main")]) == [str(runs[0]), str(tmp_path / "main")]


def test_runs_on_other_data_are_not_mapped_as_if_on_the_same(runs):
    main, other = Run(runs[0]), Run(runs[3])
    other.folder.dataset["labels_per_class"] = 5
    section = sections_module.Section(MAPS)
    sections_module._maps(section, [main, other])
    assert "the same data and seed" in section.missing
    assert len([axes for axes in section.figures[0][1].axes if axes.get_title()]) == 2


def test_a_run_of_other_networks_is_missing_its_model(runs):
    run = Run(runs[0])
    run.stored.training["metric_dim"] = 8
    with pytest.raises(Missing, match="does not fit its config"):
        run.embedding  # noqa: B018
