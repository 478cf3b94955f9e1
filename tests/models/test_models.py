"""The networks have the paper's shapes and weights, and their images are prepared as the formulas say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ambient import AMBIENT
from datasets import Items
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssdml_fast.data import DataError
from ssdml_fast.models.digits import DigitsNet
from ssdml_fast.models.metric import BATCH, at_once, untrained
from ssdml_fast.models.paper import Cifar10Net, MnistNet
from ssdml_fast.models.preparation import MeanImage, Whitening, apply
from ssdml_fast.models.rmac import googlenet, regions, rmac, rmac_features
from ssdml_fast.models.seeded import seeded


@pytest.fixture(autouse=True)
def generator():
    torch.manual_seed(0)


def photographs(n=300, shape=(3, 6, 6)):
    """Random images whose pixels are related, as those of photographs, with some flat ones among them."""
    rng = np.random.default_rng(0)
    p = int(np.prod(shape))
    x = 128 + rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) * 10 * rng.uniform(0.05, 1, (n, 1))
    return torch.from_numpy(np.clip(x, 0, 255).astype(np.uint8).reshape(n, *shape))


# ---- networks


@pytest.mark.parametrize(
    ("network", "shape", "spatial", "weights"),
    [
        (MnistNet, (1, 28, 28), [24, 12, 8, 4, 1, 1], [(20, 1, 5, 5), (50, 20, 5, 5), (500, 50, 4, 4), (128, 500)]),
        (
            Cifar10Net,
            (3, 32, 32),
            [32, 16, 16, 16, 16, 8, 8, 8, 4, 1, 1],
            [(32, 3, 5, 5), (32, 32, 5, 5), (64, 32, 5, 5), (64, 64, 4, 4)],
        ),
    ],
)
def test_a_paper_network_has_the_papers_layers(network, shape, spatial, weights):
    net = seeded(network, 0)
    parameters = list(net.parameters())
    assert [tuple(p.shape) for p in parameters[::2]] == weights
    for weight, std in zip(parameters[::2], [0.01] + 3 * [0.01 if network is MnistNet else 0.05], strict=True):
        assert weight.std().item() == pytest.approx(std, rel=0.1) and abs(weight.mean().item()) < std / 5
    assert all((bias == 0).all() for bias in parameters[1::2])
    x, sizes = torch.randn(2, *shape), []
    for layer in net.layers:
        x = layer(x)
        if x.ndim == 4:
            sizes.append(x.shape[2])
            assert x.shape[2] == x.shape[3]
    assert sizes == spatial
    z = net(torch.randn(5, *shape))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))


def test_pooling_averages_inside_the_image_only():
    pool = seeded(Cifar10Net, 0).layers[5]
    torch.testing.assert_close(pool(torch.ones(1, 1, 16, 16)), torch.ones(1, 1, 8, 8))


def test_a_seeded_network_depends_on_its_seed_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (seeded(MnistNet, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    images = torch.randn(3, 1, 28, 28)
    assert torch.equal(first(images), again(images)) and not torch.equal(first(images), other(images))


@pytest.mark.parametrize("ambient", AMBIENT)
def test_what_torch_is_set_to_changes_no_seeded_network(ambient):
    with AMBIENT[ambient]():
        made = seeded(MnistNet, 0)
    for name, tensor in seeded(MnistNet, 0).state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name])
    assert not any(parameter.is_inference() for parameter in made.parameters())


# ---- preparation


def test_the_mean_image_is_of_the_training_images():
    images = photographs()
    prepare = MeanImage(images)
    np.testing.assert_allclose(prepare.mean, images.numpy().astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_allclose(prepare(images).mean(0), 0, atol=1e-3)


def test_whitening_is_matconvnets():
    """The steps of MatConvNet's cnn_cifar, in NumPy and float64."""
    images = photographs()
    train, other = images[:250], images[250:]

    def rows(part):
        x = part.numpy().astype(np.float64).reshape(len(part), -1) - train.numpy().reshape(250, -1).mean(0)
        return x - x.mean(1, keepdims=True)

    n = rows(train).std(1, ddof=1)
    assert 0.1 < (n < 40).mean() < 0.9  # so that the threshold matters
    x = rows(train) * (n.mean() / np.maximum(n, 40))[:, None]
    values, vectors = np.linalg.eigh(x.T @ x / 250)
    spread = np.sqrt(np.maximum(values, 0))
    assert (spread < 10).any() and (spread > 10).any()
    matrix = vectors @ np.diag(np.sqrt(values.mean()) / np.maximum(spread, 10)) @ vectors.T
    y = rows(other)
    expected = y * (n.mean() / np.maximum(y.std(1, ddof=1), 40))[:, None] @ matrix
    prepare = Whitening(train)
    np.testing.assert_allclose(prepare(other).flatten(1), expected, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(apply(prepare, images), prepare(images))


def test_whitening_decorrelates_the_strong_directions():
    images = photographs(2000, (1, 4, 4))
    x = apply(Whitening(images), images).flatten(1).double()
    strong = torch.linalg.eigvalsh(x.T @ x / len(x))[-8:]
    assert strong.max() / strong.min() < 1.01


# ---- R-MAC


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4))
def test_regions_lie_inside_and_reach_every_edge(height, width, levels):
    found = regions(height, width, levels)
    assert all(0 <= t <= height - s and 0 <= l <= width - s and s >= 1 for t, l, s in found)
    first = [region for region in found if region[2] == min(height, width)]
    assert min(t for t, _, _ in first) == 0 and max(t + s for t, _, s in first) == height
    assert min(l for _, l, _ in first) == 0 and max(l + s for _, l, s in first) == width
    assert sorted(regions(width, height, levels)) == sorted((l, t, s) for t, l, s in found)


def test_regions_of_a_known_map():
    # 3 x 4: one more region along the width overlaps by 2/3, two more by 5/6, so one more; sides 3, 2, 1
    found = regions(3, 4, 3)
    assert found[:2] == [(0, 0, 3), (0, 1, 3)]
    assert found[2:8] == [(t, l, 2) for t in (0, 1) for l in (0, 1, 2)]
    assert found[8:] == [(t, l, 1) for t in (0, 1, 2) for l in (0, 1, 2, 3)]


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
def test_rmac_is_the_sum_of_normalised_maxima(height, width, levels):
    maps = torch.rand(2, 5, height, width, dtype=torch.float64)
    expected = np.zeros((2, 5))
    for top, left, side in [(0, 0, None), *regions(height, width, levels)]:
        rows, columns = (
            (slice(None), slice(None)) if side is None else (slice(top, top + side), slice(left, left + side))
        )
        maxima = maps.numpy()[:, :, rows, columns].max((2, 3))
        expected += maxima / np.linalg.norm(maxima, axis=1, keepdims=True)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(rmac(maps, levels), expected, rtol=1e-12)
    torch.testing.assert_close(rmac(3 * maps, levels), rmac(maps, levels))


def test_rmac_is_differentiable_and_names_bad_arguments():
    maps = torch.rand(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rmac, (maps,))
    for arguments, message in [((torch.ones(2, 3, 4),), "maps must have 4"), ((maps, 0), "levels must be at least 1")]:
        with pytest.raises(ValueError, match=message):
            rmac(*arguments)


def test_features_of_photographs_are_summed_over_scales(tmp_path):
    image = pytest.importorskip("PIL.Image")
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for file, pixels in zip(files, photographs(2, (3, 20, 30)), strict=True):
        image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU())
    seen = []
    features = rmac_features(network, files, ["a", "b"], (24, 16), seen.append)
    assert features.shape == (2, 8) and seen == [0.5, 1.0]
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    one, other = (torch.from_numpy(rmac_features(network, files, ["a", "b"], (side,))) for side in (24, 16))
    np.testing.assert_allclose(features, F.normalize(one + other), rtol=1e-5, atol=1e-6)


def test_googlenet_takes_its_weights_from_a_path(tmp_path):
    models = pytest.importorskip("torchvision.models")
    with pytest.raises(DataError, match="expected the weights of torchvision:googlenet at"):
        googlenet(tmp_path / "none.pth")
    torch.save(models.googlenet(weights=None, aux_logits=True, init_weights=False).state_dict(), tmp_path / "w.pth")
    assert googlenet(tmp_path / "w.pth").eval()(torch.randn(1, 3, 96, 128)).shape == (1, 1024, 3, 4)
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="must hold weights of torchvision:googlenet"):
        googlenet(tmp_path / "w.pth")


def test_googlenet_without_torchvision_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models", None)
    with pytest.raises(ImportError, match=r"ssdml-fast\[vision\]"):
        googlenet(tmp_path / "w.pth")


def test_a_data_set_is_embedded_a_batch_at_a_time(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8), np.uint8)
    prepare = MeanImage(torch.from_numpy(images))
    model = untrained(seeded(DigitsNet, 0), Items(list(images)), 16, 0, prepare=prepare)
    whole, sizes = model.embed(images), []
    monkeypatch.setattr(model, "features", lambda part, of=model.features: sizes.append(len(part)) or of(part))
    np.testing.assert_array_equal(model.embed(Items(list(images))), whole)
    assert max(sizes) == BATCH and sum(sizes) == 300
    assert at_once((1, 8, 8)) == BATCH > at_once((3, 65, 8)) and at_once((3, 65, 8), "cuda") > at_once((3, 65, 8))


def test_bytes_that_nothing_prepares_are_refused():
    images = np.zeros((3, 1, 8, 8), np.uint8)
    model = untrained(seeded(DigitsNet, 0), images.astype(np.float32), 16, 0)
    for each in (images, Items(list(images))):
        with pytest.raises(
            TypeError, match=r"^images must be float32 where the model has no `prepare`, found torch.ui"
        ):
            model.embed(each)
