"""Figures on held-out data: of whatever parts and examples there are, and each for itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Items
from rich.console import Console
from sklearn.decomposition import PCA as Components
from torch import nn

from ssdml_fast.cli.tables import held_out_table
from ssdml_fast.data.digits import load_digits
from ssdml_fast.evaluate import FIGURES, report_embedding
from ssdml_fast.models.digits import DigitsNet
from ssdml_fast.models.metric import untrained
from ssdml_fast.models.networks import Normalize
from ssdml_fast.models.preparation import MeanImage
from ssdml_fast.models.seeded import seeded
from ssdml_fast.report.maps import draw_held_out
from ssdml_fast.runs.figures import AFTER, BEFORE, FEATURES, PCA, RAW, HeldOut


@pytest.fixture(scope="module")
def data():
    data = load_digits(0)
    return replace(data, test_images=data.test_images[:60], test_labels=data.test_labels[:60])


@pytest.fixture(scope="module")
def models(data):
    return [untrained(seeded(DigitsNet, seed), data.images, 16, seed) for seed in (0, 1)]


def told(held_out, width=200):
    console = Console(width=width, record=True)
    console.print(held_out_table(held_out))
    return console.export_text()


def test_pixels_and_both_networks_are_compared(models, data):
    held_out = HeldOut.of(*models, data)
    assert list(held_out.figures) == [RAW, BEFORE, AFTER] and held_out.notes == ()
    pixels = data.test_images.reshape(60, -1)
    np.testing.assert_array_equal(held_out.embeddings[RAW], pixels)
    np.testing.assert_array_equal(held_out.embeddings[AFTER], models[1].embed(data.test_images))
    assert held_out.figures[RAW] == report_embedding(pixels, data.test_labels)
    assert "60 held-out test images, %" in told(held_out)


def test_without_a_test_part_there_are_no_figures(models, data):
    held_out = HeldOut.of(*models, replace(data, test_images=None, test_labels=None))
    assert held_out.figures == held_out.embeddings == {} and len(held_out.labels) == 0
    assert told(held_out).strip() == "no test part: there are no figures on held-out examples"
    with pytest.raises(ValueError, match="a map needs at least 4 test examples, found 0"):
        draw_held_out(held_out)


def test_one_test_image_has_no_figure(models, data):
    held_out = HeldOut.of(*models, replace(data, test_images=data.test_images[:1], test_labels=data.test_labels[:1]))
    assert list(held_out.figures.values()) == [dict.fromkeys(FIGURES)] * 3
    assert "1 held-out test image, %" in told(held_out) and held_out.notes == ()


def test_images_that_are_decoded_when_asked_for_have_the_same_figures(data):
    data = replace(data, test_images=(15 * data.test_images).astype(np.uint8))
    prepare = MeanImage(torch.from_numpy(data.test_images))
    models = [untrained(seeded(DigitsNet, seed), data.test_images, 16, seed, prepare=prepare) for seed in (0, 1)]
    lazy = replace(data, test_images=Items(list(data.test_images)))
    one, other = (HeldOut.of(*models, each) for each in (data, lazy))
    assert one.figures == other.figures and one.notes == ()
    for name, embedding in one.embeddings.items():
        np.testing.assert_array_equal(embedding, other.embeddings[name])


class Means(nn.Module):
    def forward(self, images):
        return images.float().mean((2, 3))


@pytest.mark.parametrize(("shape", "size"), [((3, 64, 64), (32, 32)), ((1, 33, 99), (11, 32)), ((3, 500, 2), (32, 1))])
def test_pixels_of_large_images_are_averaged(data, shape, size):
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), np.uint8)
    data = replace(data, test_images=Items(list(images)), test_labels=np.arange(6) % 2)
    models = [untrained(Means(), images.astype(np.float32), 1, 0, prepare=nn.Identity()) for _ in range(2)]
    held_out = HeldOut.of(*models, data)
    name, *_ = held_out.figures
    assert name == f"raw pixels, {size[0]}x{size[1]}" and name in told(held_out)
    averaged = held_out.embeddings[name]
    assert averaged.shape == (6, shape[0] * size[0] * size[1])
    if shape == (3, 64, 64):
        halves = images.reshape(6, 3, 32, 2, 32, 2).mean((3, 5))
        np.testing.assert_allclose(averaged, halves.reshape(6, -1), rtol=1e-5)


def features(data, n=200, d=12):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 4
    x = (3 * rng.normal(size=(4, d))[labels] + rng.normal(size=(n, d))).astype(np.float32)
    return replace(data, images=x, test_images=x[::3], test_labels=labels[::3])


def test_features_are_compared_with_their_principal_components(data):
    data = features(data)
    models = [untrained(Normalize(), data.images, 5, seed) for seed in (0, 1)]
    held_out = HeldOut.of(*models, data)
    assert list(held_out.figures) == [FEATURES, PCA, BEFORE, AFTER]
    components = Components(5).fit(data.images).transform(data.test_images)  # of training examples alone
    np.testing.assert_allclose(np.abs(held_out.embeddings[PCA]), np.abs(components), atol=1e-3)
    assert "67 held-out test examples, %" in told(held_out)
    models = [untrained(Normalize(), data.images, 12, seed) for seed in (0, 1)]  # as many as there are: nothing is left
    assert list(HeldOut.of(*models, data).figures) == [FEATURES, BEFORE, AFTER]
    few = replace(data, images=data.images[:3])
    assert HeldOut.of(*models[:0], *[untrained(Normalize(), data.images, 5, 0)] * 2, few).embeddings[PCA].shape[1] == 2


def test_a_table_of_features_fits_a_terminal(data):
    data = features(data)
    models = [untrained(Normalize(), data.images, 5, seed) for seed in (0, 1)]
    assert "…" not in told(HeldOut.of(*models, data), width=80)


# --- what fails takes nothing with it ---------------------------------------------------------------------------------


def fails(*_, **__):
    raise MemoryError("Unable to allocate 7.5 GiB\nfor an array")


@pytest.mark.parametrize(
    ("function", "names"),
    [
        ("silhouette", ["silhouette"]),
        ("clustering_nmi", ["nmi"]),
        ("map_at_r", ["map@r"]),
        ("recall_at_k", ["recall@1", "recall@2", "recall@4", "recall@8"]),
    ],
)
def test_a_figure_that_fails_is_told_and_the_others_stand(models, data, monkeypatch, function, names):
    whole = HeldOut.of(*models, data)
    monkeypatch.setattr(f"ssdml_fast.evaluate.{function}", fails)
    held_out = HeldOut.of(*models, data)
    for name, row in held_out.figures.items():
        assert row == whole.figures[name] | dict.fromkeys(names)
    said = "The {} of the {} cannot be computed: MemoryError: Unable to allocate 7.5 GiB."
    assert held_out.notes == tuple(said.format(each, row) for row in held_out.figures for each in names)
    assert all(note in " ".join(told(held_out).split()) for note in held_out.notes)
    with pytest.raises(MemoryError, match=r"7\.5 GiB"):  # to who does not ask for what failed
        report_embedding(held_out.embeddings[RAW], data.test_labels)


def test_a_network_that_fails_is_told_and_the_others_stand(models, data, monkeypatch):
    monkeypatch.setattr(models[0], "embed", fails)
    held_out = HeldOut.of(*models, data)
    assert held_out.figures[BEFORE] == dict.fromkeys(FIGURES) and BEFORE not in held_out.embeddings
    assert all(held_out.figures[name]["nmi"] for name in (RAW, AFTER))
    assert held_out.notes == (
        "There are no figures of the untrained network: MemoryError: Unable to allocate 7.5 GiB.",
    )
    with pytest.raises(ValueError, match="a map needs an embedding by the untrained network"):
        draw_held_out(held_out)


def test_examples_that_cannot_be_read_take_no_more_with_them_than_is_made_of_them(models, data):
    images = data.test_images.copy()
    images[3] = np.nan
    held_out = HeldOut.of(*models, replace(data, test_images=images))
    assert list(held_out.figures.values()) == [dict.fromkeys(FIGURES)] * 3
    assert "There are no figures of the raw pixels: RangeError: images must be finite, found nan" in held_out.notes[0]
    assert "The trained network embeds 1 of 60 by NaN or infinity." in held_out.notes
    gone = Items([OSError("gone")] * 60)
    held_out = HeldOut.of(*models, replace(data, test_images=gone))
    assert list(held_out.figures.values()) == [dict.fromkeys(FIGURES)] * 2
    assert held_out.notes[0].startswith("The examples cannot be compared as they are: DataError: images[0] cannot be")


def test_what_is_embedded_by_nan_is_counted(models, data, monkeypatch):
    wrong = np.where(np.arange(60)[:, None] < 2, np.nan, models[1].embed(data.test_images))
    monkeypatch.setattr(models[1], "embed", lambda _: wrong)
    held_out = HeldOut.of(*models, data)
    assert held_out.figures[AFTER] == dict.fromkeys(FIGURES) and held_out.figures[BEFORE]["nmi"]
    assert held_out.notes == ("The trained network embeds 2 of 60 by NaN or infinity.",)
