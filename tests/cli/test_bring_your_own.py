"""The command line on images, tables and labels of one's own: what is understood, refused, trained, and found again."""

from __future__ import annotations

import json
import re
import shutil
import struct
import sys

import numpy as np
import pytest
import torch
from encoded import Image
from typer.testing import CliRunner

from ssdml_fast.cli.app import app
from ssdml_fast.models.efficientnet_lite import EfficientNetLite0

QUICK = ["--rounds", "1", "--max-epochs", "1", "--neighbors", "3"]
SMALL = [*QUICK, "--backbone", "small"]
CLASSES = ("ant", "bee", "cat")

pytestmark = pytest.mark.usefixtures("quick_maps")


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})


def train(data, out, *arguments):
    result = invoke("train", "--data", data, "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(out, *arguments):
    """The one line by which a training is refused, before there is a folder of it."""
    result = invoke("train", "--out", out, *arguments)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.output
    assert not out.exists()
    return " ".join(re.sub("[│╭╮╰╯─]", "", result.output).split())


def said(output):
    """The lines about the data, by what they are about; of several the last."""
    return dict(re.findall(r"^  (\w+(?: out)?)  +(.+)$", output, re.MULTILINE))


def dataset(run):
    return json.loads((run / "config.json").read_text())["dataset"]


def picture(path, c, i, side=12, mode="RGB"):
    """A bright bar whose height is the class, on noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([c, i]).integers(0, 90, (side, side, 3), np.uint8)
    pixels[side * c // 3 :][: side // 3] = 220
    Image.fromarray(pixels).convert(mode).save(path)


def pictures(folder, n=9, first=0, classes=CLASSES, **how):
    for c, name in enumerate(classes):
        for i in range(first, first + n):
            picture(folder / name / f"{i}.png", c, i, **how)
    return folder


def loose(folder, n=12, first=100):
    for i in range(first, first + n):
        picture(folder / f"{i}.png", i % 3, i)
    return folder


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Labelled and unlabelled images, as a person has them."""
    folder = tmp_path_factory.mktemp("mine")
    pictures(folder / "labelled")
    loose(folder / "unlabelled" / "holiday")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("plain"), 12)


@pytest.fixture(scope="module")
def run(mine, tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "run"
    return out, train(f"images:{mine}", out, *SMALL)


# --- what is understood ----------------------------------------------------------------------------------------------


def test_labelled_and_unlabelled_folders_train_on_all_their_labels(run, mine):
    out, output = run
    assert output.startswith(f"images:{mine}\n")
    assert said(output) == {
        "layout": "labelled/ with a folder for each class, unlabelled images in unlabelled/",
        "classes": "3 (ant, bee, cat), with 7 labelled examples each",
        "training": "21 labelled and 12 unlabelled",
        "validation": "6",
        "test": "none",
        "network": "small",
    }
    assert "no test part" in output
    assert dataset(out) == {"name": f"images:{mine}", "labels_per_class": "all"}
    assert json.loads((out / "results.json").read_text())["test"] == {}


def test_parts_in_any_case_with_other_names_for_what_is_unlabelled(tmp_path):
    pictures(tmp_path / "d" / "Training", 4)
    pictures(tmp_path / "d" / "Valid", 2, 20)
    pictures(tmp_path / "d" / "TEST", 2, 30, classes=("bee",))
    loose(tmp_path / "d" / "Unsup", 5)
    output = train(f"images:{tmp_path}", tmp_path / "run", *SMALL)
    assert said(output) == {
        "layout": "in d/: Training/, Valid/ and TEST/ with a folder for each class, unlabelled images in Unsup/",
        "classes": "3 (ant, bee, cat), with 4 labelled examples each",
        "training": "12 labelled and 5 unlabelled",
        "validation": "6",
        "test": "2, of 1 of the 3 classes",
        "network": "small",
    }
    assert "–" in output  # what is undefined of one class


def test_an_archive_is_as_good_as_its_folder(mine, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "mine"), "zip", mine)
    output = train(f"images:{archive}", tmp_path / "run", *SMALL)
    assert said(output)["training"] == "21 labelled and 12 unlabelled"


@pytest.mark.parametrize(("end", "between"), [("csv", ","), ("tsv", "\t")])
def test_a_table_of_images(plain, tmp_path, end, between):
    names = [(f"{name}/{i}.png", name, i) for name in CLASSES for i in range(12)]
    rows = [(str(plain / path), name if i < 4 else "", "val" if i < 2 else "train") for path, name, i in names]
    table = tmp_path / f"mine.{end}"
    table.write_text("\n".join(between.join(row) for row in [("path", "label", "split"), *rows]))
    output = train(f"table:{table}", tmp_path / "run", *SMALL)
    assert said(output)["training"] == "6 labelled and 24 unlabelled" and said(output)["validation"] == "6"


def test_labels_and_unlabelled_images_beside_a_folder(plain, tmp_path):
    loose(tmp_path / "more", 7)
    (tmp_path / "my.csv").write_text("path,label\nant/0.png,bee\nant/1.png,\ncat/2.png,dog\n")
    more = ["--labels", tmp_path / "my.csv", "--unlabelled", tmp_path / "more"]
    output = train(f"images:{plain}", tmp_path / "run", *SMALL, *more)
    assert said(output)["classes"] == "4, with labelled examples: 8 ant, 11 bee, 9 cat, 1 dog"
    assert said(output)["training"] == "29 labelled and 8 unlabelled"
    assert "my.csv gives 2 labels, 2 in place of another, takes 1" in output
    assert dataset(tmp_path / "run") == {
        "name": f"images:{plain}", "labels": str(tmp_path / "my.csv"), "unlabelled": str(tmp_path / "more"),
        "labels_per_class": "all",
    }  # fmt: skip


def test_labels_over_the_rows_of_features_and_of_mnist(tmp_path):
    y = np.arange(40) % 2
    np.savez(tmp_path / "f.npz", x=np.eye(2, 5)[y] + np.arange(200).reshape(40, 5) / 400, y=np.where(y, -1, 0))
    (tmp_path / "my.csv").write_text("row,label\n" + "".join(f"{row},one\n" for row in range(1, 40, 2)))
    labels = ["--labels", tmp_path / "my.csv"]
    output = train(f"features:{tmp_path / 'f.npz'}", tmp_path / "a", *QUICK, *labels)
    assert said(output)["classes"] == "2 (0, one), with 11 labelled examples each"
    pixels = np.random.default_rng(0).integers(0, 90, (40, 28, 28), np.uint8)
    for kind, array in (("images-idx3", pixels), ("labels-idx1", y.astype(np.uint8))):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        for part in ("train", "t10k"):
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())
    output = train(f"mnist:{tmp_path}", tmp_path / "b", *SMALL, *labels, "--warmup", "0")
    assert said(output)["classes"] == "2 (0, one), with 17 labelled examples each"
    assert said(output)["test"] == "40 of 2 classes, 1 of which, with 20 examples, have no training examples"


def test_labels_per_class_hides_all_but_some_or_none(mine, plain, tmp_path):
    output = train(f"images:{mine}", tmp_path / "a", *SMALL, "--labels-per-class", "2")
    assert (
        said(output)["training"] == "6 labelled and 27 unlabelled" and dataset(tmp_path / "a")["labels_per_class"] == 2
    )
    output = train(f"images:{plain}", tmp_path / "b", *SMALL, "--labels-per-class", "all")
    assert said(output)["training"] == "18 labelled and 0 unlabelled"


def test_settings_of_the_data_and_the_network_may_stand_in_a_file(mine, tmp_path):
    (tmp_path / "my.toml").write_text(
        f'data = "images:{mine}"\nlabels_per_class = 3\nskip_damaged = true\nbackbone = "small"\nimage_size = 8\n'
        "[method]\nrounds = 1\nmax_epochs = 1\nneighbors = 3\n"
    )
    result = invoke("train", "--config", tmp_path / "my.toml", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["dataset"] == {"name": f"images:{mine}", "skip_damaged": True, "labels_per_class": 3}
    assert stored["network"]["backbone"] == "small" and stored["network"]["image_size"] == 8


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(mine, tmp_path):
    """Images of which some are damaged, and things that are none."""
    shutil.copytree(mine, tmp_path / "d")
    (tmp_path / "d" / "labelled" / "ant" / "0.png").write_text("no picture")
    whole = (tmp_path / "d" / "unlabelled" / "holiday" / "100.png").read_bytes()
    (tmp_path / "d" / "unlabelled" / "holiday" / "100.png").write_bytes(whole[:200])
    (tmp_path / "d" / "labelled" / "bee" / "notes.txt").write_text("read me")
    (tmp_path / "d" / "labelled" / "dodo").mkdir()
    return tmp_path / "d"


def test_damaged_images_are_told_at_once_or_left_out_and_strict_lists_all(damaged, tmp_path):
    out, data = tmp_path / "run", ["--data", f"images:{damaged}", *SMALL]
    told = refusal(out, *data)
    assert "2 images cannot be decoded" in told and "labelled/ant/0.png" in told and "holiday/100.png" in told
    output = invoke("train", "--out", out, *data, "--skip-damaged").output
    assert said(output)["training"] == "20 labelled and 11 unlabelled"
    left_out = re.findall(r"^  left out +(\S+) \(", output, re.MULTILINE)
    assert left_out == ["labelled/bee/notes.txt", "labelled/dodo/", "labelled/ant/0.png", "unlabelled/holiday/100.png"]
    assert invoke("evaluate", out).exit_code == 0  # leaves out the same
    told = refusal(tmp_path / "strict", *data, "--skip-damaged", "--strict")
    assert "labelled/bee/notes.txt: no image" in told and "labelled/dodo/: no image in it" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "images:"], "data must be digits or KIND:PATH"),
        (["--data", "photos:here"], "data must be digits or KIND:PATH"),
        (["--data", "images:{}/none"], "found nothing"),
        (["--unlabelled", "{}/none"], "found nothing"),
        (["--labels", "{}/none.csv"], "expected a table"),
        (["--labels-per-class", "some"], "labels_per_class must be 'all' or an integer"),
        (["--background", "bright"], "background must be"),
        (["--image-size", "-1"], "image_size must be at least 0"),
        (["--backbone", "resnet"], "backbone must be one of auto, paper, small"),
        (["--backbone", "paper", "--image-size", "40"], "backbone must be another than 'paper'"),
        (["--backbone", "small", "--weights", "w.pth"], "weights must be 'none' with backbone 'small'"),
        (["--backbone", "small", "--freeze"], "freeze must be False"),
        (["--backbone", "squeezenet"], "weights must be a file or 'none'"),
        (["--backbone", "squeezenet", "--weights", "{}/none.npz"], "expected the weights of squeezenet"),
        (["--backbone", "squeezenet", "--weights", "none", "--scales", "0"], "scales must be numbers above 0"),
        (["--backbone", "no_such_package:make"], "no_such_package"),
        (["--backbone", "own_networks:absent"], "absent"),
        (["--backbone", "own_networks:number"], "must be a function, found int"),
        (["--backbone", "own_networks:makes_none"], "must return a torch.nn.Module or a Backbone, found NoneType"),
        (["--backbone", "own_networks:fails"], "own_networks:fails cannot be made: KeyError: 'lost'"),
        (["--backbone", "own_networks:of_features"], "backbone must map images"),
    ],
)
def test_what_cannot_be_is_one_line_before_there_is_a_run(mine, tmp_path, own_networks, arguments, message):
    arguments = [argument.format(tmp_path) for argument in arguments]
    told = refusal(tmp_path / "run", "--data", f"images:{mine}", *QUICK, *arguments)
    assert message in told


def test_features_take_no_network(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.ones((9, 2)), y=np.arange(9) % 3)
    told = refusal(tmp_path / "run", "--data", f"features:{tmp_path / 'f.npz'}", "--backbone", "small")
    assert "backbone and its settings must be left out for features" in told


def test_without_labels_a_method_that_learns_from_them_is_refused(tmp_path):
    pictures(tmp_path / "one", 12, classes=("ant",))  # one folder alone is no class
    for folder in (loose(tmp_path / "d"), tmp_path / "one"):
        told = refusal(tmp_path / "run", "--data", f"images:{folder}", *SMALL)
        assert "train labels must be known of some examples" in told


def test_without_labels_a_method_that_needs_none_trains(tmp_path):
    out, own = tmp_path / "run", ["--method", "two_views:TwoViews", "--backbone", "small"]
    output = train(f"images:{loose(tmp_path / 'd')}", out, *own)
    assert said(output)["classes"] == "none" and said(output)["training"] == "0 labelled and 12 unlabelled"
    assert "Kept: the model of validation 2, the last." in output
    for command in (["evaluate", out], ["report", out, "--out", tmp_path / "page.html"], ["train", "--resume", out]):
        result = invoke(*command)
        assert result.exit_code == 0, result.output


def test_a_validation_part_that_tells_no_models_apart_is_refused(tmp_path):
    pictures(tmp_path / "d" / "train", 4)
    pictures(tmp_path / "d" / "val", 3, 20, classes=("ant",))
    told = refusal(tmp_path / "run", "--data", f"images:{tmp_path / 'd'}", *SMALL)
    assert "val must hold at least two classes" in told
    output = train(f"images:{tmp_path / 'd'}", tmp_path / "run", *SMALL, "--select", "last")
    assert "Kept: the model of validation 1, the last." in output


def test_classes_too_small_for_a_validation_part_keep_the_last_model(tmp_path):
    pictures(tmp_path / "d", 1)
    loose(tmp_path / "d" / "unknown")
    out, data = tmp_path / "run", ["--data", f"images:{tmp_path / 'd'}", *SMALL]
    assert "val must be given" in refusal(out, *data, "--select", "validation")
    output = invoke("train", "--out", out, *data).output
    assert said(output)["classes"] == "3 (ant, bee, cat), with 1 labelled example each"
    assert "too few labelled examples to spare any for validation" in output
    assert "Kept: the model of validation 1, the last." in output


# --- backbones -------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_networks(tmp_path, monkeypatch):
    """A module of one's own in the working folder."""
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "number = 5\n"
        "def maps(): return nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU())\n"
        "def makes_none(): return None\n"
        "def fails(): return {}['lost']\n"
        "def of_features(): return nn.Linear(7, 3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_networks", None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--backbone", "own_networks:maps", "--image-size", "16"],
        ["--backbone", "own_networks:maps", "--image-size", "16", "--freeze", "--pool", "rmac", "--scales", "1,0.7"],
        ["--backbone", "squeezenet", "--weights", "none", "--image-size", "32", "--freeze"],
        ["--backbone", "paper", "--freeze"],
    ],
    ids=["own", "own, frozen", "squeezenet, frozen", "refused"],
)
def test_backbones_train_and_are_evaluated(plain, tmp_path, own_networks, arguments):
    if "paper" in arguments:
        assert "freeze must be False" in refusal(tmp_path / "run", "--data", f"images:{plain}", *arguments)
        return
    output = train(f"images:{plain}", tmp_path / "run", *QUICK, *arguments)
    figures = re.findall(r"trained network .*", output)
    result = invoke("evaluate", tmp_path / "run")
    assert re.findall(r"trained network .*", result.output) == figures and len(figures) == 2, result.output


@pytest.mark.slow
def test_weights_of_a_file_are_found_from_any_folder(plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(EfficientNetLite0().state_dict(), "w.pth")
    arguments = ["--backbone", "efficientnet-lite0", "--image-size", "32", "--freeze", "--weights", "w.pth"]
    train(f"images:{plain}", tmp_path / "run", *QUICK, *arguments)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert invoke("evaluate", tmp_path / "run").exit_code == 0


# --- afterwards ------------------------------------------------------------------------------------------------------


def test_moved_data_are_found_again_by_their_new_place(mine, tmp_path):
    shutil.copytree(mine, tmp_path / "before")
    out = tmp_path / "run"
    train(f"images:{tmp_path / 'before'}", out, *SMALL)
    (tmp_path / "before").rename(tmp_path / "after")
    for command in (["evaluate", out], ["train", "--resume", out]):
        result = invoke(*command)
        assert result.exit_code == 2 and "found nothing" in result.output
        result = invoke(*command, "--data", f"images:{tmp_path / 'after'}")
        assert result.exit_code == 0, result.output
    pictures(tmp_path / "others", 12)
    for command in (["evaluate", out], ["train", "--resume", out]):
        result = invoke(*command, "--data", f"images:{tmp_path / 'others'}")
        assert result.exit_code == 2 and re.search("other data|data are not those", result.output), result.output


@pytest.mark.slow
def test_all_that_was_moved_is_found_again(plain, mine, tmp_path):
    shutil.copytree(mine / "unlabelled", tmp_path / "before" / "more")
    (tmp_path / "before" / "my.csv").write_text(f"path,label\n{plain}/ant/0.png,bee\nant/1.png,\n")
    out, places = tmp_path / "run", {"--unlabelled": "more", "--labels": "my.csv"}
    more = [text for option, name in places.items() for text in (option, tmp_path / "before" / name)]
    train(f"images:{plain}", out, *SMALL, *more)
    (tmp_path / "before").rename(tmp_path / "after")
    more = [text for option, name in places.items() for text in (option, tmp_path / "after" / name)]
    for command in (["evaluate", out], ["train", "--resume", out]):
        assert invoke(*command, *more[:2]).exit_code == 2
        result = invoke(*command, *more)
        assert result.exit_code == 0, result.output
    result = invoke("report", out, "--out", tmp_path / "page.html", *more)
    assert result.exit_code == 0 and "cannot be loaded" not in (tmp_path / "page.html").read_text(), result.output


def test_a_report_of_a_run_without_test_part_is_written(run, tmp_path):
    result = invoke("report", run[0], "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert "ant" in (tmp_path / "page.html").read_text()


def test_ctrl_c_while_images_are_decoded_leaves_nothing(mine, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssdml_fast.data.images.decode_parts", interrupted)
    result = invoke("train", "--data", f"images:{mine}", "--out", tmp_path / "run", *SMALL)
    assert result.exit_code == 130 and "Stopped before there was anything to save." in result.output
    assert not (tmp_path / "run").exists()
