"""Backbones of torchvision and timm are these libraries' own networks; skipped where they do not import."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch.nn import functional as F

from ssdml_fast.data import DataError
from ssdml_fast.models.backbones import find_backbone
from ssdml_fast.models.photographs import Photographs


def library(name):
    """A library, where it imports; torchvision raises what it likes beside a torch of another build."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} does not import here: {type(error).__name__}: {error}")


@pytest.fixture
def torchvision():
    return library("torchvision.models")


@pytest.fixture
def timm():
    library("torchvision")
    return library("timm")


@torch.no_grad()
def with_statistics(network):
    """A network whose batch normalisation has seen something."""
    for name, tensor in network.named_buffers():
        if name.endswith("running_mean"):
            tensor.uniform_(-0.1, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return network.eval()


# ---- torchvision


@torch.no_grad()
def test_torchvisions_googlenet_is_cut_before_its_last_pooling(torchvision, tmp_path):
    """As it is published: with auxiliary classifiers, and for images that it prepares anew itself."""
    whole = with_statistics(torchvision.googlenet(weights=None, transform_input=True, init_weights=False))
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    seen = []
    whole.avgpool.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 3, 224, 224)
    whole(images)
    backbone = find_backbone("torchvision:googlenet", str(tmp_path / "w.pth"))
    torch.testing.assert_close(backbone.trunk.eval()(images), seen[0])
    assert (backbone.size, backbone.crop, backbone.pretrained) == (224, 0.875, True)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (512, 3, 3)),
        ("mobilenet_v3_small", (576, 3, 3)),
        ("densenet121", (1024, 3, 3)),
        ("shufflenet_v2_x0_5", (1024, 3, 3)),
        ("swin_t", (768, 3, 3)),
        ("squeezenet1_0", (512, 5, 5)),
        ("vgg11", (512, 3, 3)),
    ],
)
@torch.no_grad()
def test_torchvisions_networks_give_maps(torchvision, name, shape):
    trunk = find_backbone(f"torchvision:{name}", "none").trunk.eval()
    assert trunk(torch.zeros(2, 3, 96, 96)).shape == (2, *shape)


@torch.no_grad()
def test_torchvisions_pretrained_weights_are_those_of_an_earlier_download(torchvision, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        DataError, match=r"weights of torchvision:resnet18 are not downloaded: expected them at .*resnet18"
    ):
        find_backbone("torchvision:resnet18", "pretrained")
    whole = with_statistics(torchvision.resnet18(weights=None))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    file = torchvision.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(whole.state_dict(), tmp_path / "hub/checkpoints" / file)
    whole.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 224, 224)
    network = Photographs(find_backbone("torchvision:resnet18", "pretrained"))
    torch.testing.assert_close(network(images), F.normalize(whole(images)))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        (
            "resnet18",
            "auto",
            "weights must be a file, 'pretrained' or 'none' with backbone torchvision:resnet18, found 'auto",
        ),
        ("resnet81", "none", "networks of torchvision, found 'resnet81'; did you mean resnet18"),
        ("fcn_resnet50", "none", "networks of torchvision, found 'fcn_resnet50'"),
    ],
)
def test_what_torchvision_does_not_have_is_named(torchvision, name, weights, message):
    with pytest.raises(ValueError, match=message):
        find_backbone(f"torchvision:{name}", weights)


# ---- timm


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]
)
def test_timms_networks_say_what_they_say_to_timm(timm, name, tmp_path):
    whole = with_statistics(timm.create_model(name, num_classes=0))
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    backbone = find_backbone(f"timm:{name}", str(tmp_path / "w.pth"))
    images = torch.randn(1, 3, 224, 224)
    network = Photographs(backbone)
    torch.testing.assert_close(network(images), F.normalize(whole(images)))
    assert (network.trunk(images).ndim == 4) is (
        name == "resnet18"
    )  # the others have layers after the pooling, or none
    assert backbone.mean == tuple(255 * value for value in whole.default_cfg["mean"])


def test_timms_pretrained_weights_are_those_of_an_earlier_download(timm, tmp_path, monkeypatch):
    hub = library("huggingface_hub")
    file = tmp_path / "model.safetensors"
    library("safetensors.torch").save_file(with_statistics(timm.create_model("resnet18")).state_dict(), file)
    kept = {("timm/resnet18.a1_in1k", "model.safetensors"): str(file)}
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda source, name: kept.get((source, name)))
    assert find_backbone("timm:resnet18", "pretrained").pretrained
    kept.clear()
    with pytest.raises(DataError, match=r"expected them of timm/resnet18.a1_in1k in the cache of huggingface_hub"):
        find_backbone("timm:resnet18", "pretrained")


def test_a_network_of_timms_for_one_size_says_so(timm):
    with pytest.raises(ValueError, match=r"map images \(B, 3, 96, 96\).*Input height \(96\)"):
        Photographs(find_backbone("timm:vit_tiny_patch16_224", "none", image_size=96))
    with pytest.raises(ValueError, match="networks of timm, found 'resnt18'; did you mean resnet18"):
        find_backbone("timm:resnt18", "none")
