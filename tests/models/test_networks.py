"""The network that goes with examples: by their shape, by what is asked for, and fresh at each call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ssdml_fast.data import DataError, Dataset, Source
from ssdml_fast.models.digits import DigitsNet
from ssdml_fast.models.networks import Normalize, Resize, choose
from ssdml_fast.models.paper import Cifar10Net, MnistNet
from ssdml_fast.models.preparation import MeanImage, Whitening
from ssdml_fast.models.settings import NetworkSettings
from ssdml_fast.models.small import SmallNet


def asked(**settings) -> NetworkSettings:
    return NetworkSettings(**settings)


PREPARATION = {DigitsNet: MeanImage, MnistNet: MeanImage, Cifar10Net: Whitening}
SQUEEZE = {"backbone": "squeezenet", "weights": "none", "image_size": 32}


@pytest.mark.parametrize(
    ("shape", "settings", "are_files", "network", "size"),
    [
        ((1, 8, 8), {}, False, DigitsNet, None),
        ((1, 28, 28), {}, False, MnistNet, None),
        ((3, 32, 32), {}, False, Cifar10Net, None),
        ((3, 32, 32), {}, True, Cifar10Net, 32),
        ((1, 48, 40), {"image_size": 28}, True, MnistNet, 28),
        ((3, 0, 0), {"image_size": 32}, True, Cifar10Net, 32),
        ((3, 0, 0), {"backbone": "paper"}, True, Cifar10Net, 32),
        ((1, 90, 90), {"backbone": "paper"}, True, MnistNet, 28),
        ((3, 16, 20), {}, False, SmallNet, None),
        ((1, 64, 64), {}, True, SmallNet, None),
        ((3, 100, 100), {"image_size": 40}, True, SmallNet, 40),
        ((3, 100, 100), {"backbone": "small"}, True, SmallNet, 64),
        ((3, 0, 0), {"backbone": "small"}, True, SmallNet, 64),
        ((3, 100, 100), {"backbone": "small"}, False, SmallNet, None),
        ((3, 32, 32), {"backbone": "small"}, False, SmallNet, None),
        ((3, 20, 20), {"backbone": "small", "image_size": 20}, False, SmallNet, None),
    ],
)
def test_networks_that_learn_from_the_start_go_with_shapes(shape, settings, are_files, network, size):
    choice = choose(shape, asked(**settings), are_files=are_files)
    made = choice.made(None, 0)
    assert type(made) is network and choice.size == size and choice.crop == 1.0 and choice.grey is None
    assert choice.backbone == "" and choice.digest == ""
    assert choice.settings.backbone == ("small" if network is SmallNet else "paper")
    assert choice.preparation is PREPARATION.get(network) and (choice.taken is None) == (network is not SmallNet)
    images = torch.randint(0, 256, (5, shape[0], size or shape[1], size or shape[2]), dtype=torch.uint8)
    z = made.eval()(images.float() / 255 if choice.taken is None else choice.taken(images))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))


def test_small_images_of_floats_are_taken_as_they_are_and_no_backbone_takes_them():
    assert choose((3, 16, 16), are_bytes=False).taken is None
    for shape, settings in (((3, 100, 100), {"weights": "none"}), ((1, 8, 8), SQUEEZE)):
        with pytest.raises(DataError, match=r"takes grey and colour images of uint8, found .* of floats"):
            choose(shape, asked(**settings), are_bytes=False)
    with pytest.raises(DataError, match="takes grey and colour images of uint8, found 5x100x100"):
        choose((5, 100, 100), asked(weights="none"))


def test_bytes_are_prepared_once_where_the_network_asks_for_it():
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28), np.uint8)
    data = Dataset(images, np.arange(5), images[:2], None, None, None, np.arange(5), ())
    prepared = choose((1, 28, 28)).prepared(data)
    assert prepared.images.dtype == np.float32 and prepared.decoded is data
    np.testing.assert_allclose(prepared.images.mean(0), 0, atol=5 * 256 * 2**-24)  # of five bytes, rounded
    assert choose((1, 28, 28)).prepared(prepared) is prepared
    assert choose((1, 28, 28), asked(backbone="small")).prepared(data) is data


def test_features_are_embedded_by_no_network_and_take_no_settings():
    choice = choose((7,))
    assert type(choice.made(None, 0)) is Normalize and choice.taken is None
    for settings in ({"backbone": "small"}, {"freeze": True}, {"image_size": 32}):
        with pytest.raises(DataError, match="left out for features"):
            choose((7,), asked(**settings))


@pytest.mark.parametrize(
    ("shape", "settings", "are_files", "message"),
    [
        ((3, 16, 16), {"backbone": "paper"}, False, "examples of 3x16x16; that takes 1x8x8, 1x28x28, 3x32x32"),
        ((3, 16, 16), {"backbone": "paper", "image_size": 32}, False, "backbone must be another than 'paper'"),
        ((3, 16, 16), {"backbone": "paper", "image_size": 28}, True, "examples of 3x28x28"),
        ((28, 28, 1), {"backbone": "paper"}, False, r"channels come first: x.transpose\(0, 3, 1, 2\)"),
        ((16, 20, 3), {"backbone": "small"}, False, r"channels come first: x.transpose\(0, 3, 1, 2\)"),
        ((2, 16, 20), {}, False, "takes grey and colour images, found 2x16x20$"),
        (
            (3, 16, 20),
            {"backbone": "small", "image_size": 48},
            False,
            "image_size must be left out .* 3x16x20, found 48",
        ),
        ((3, 16, 20), {"image_size": 20}, False, "image_size must be left out with backbone 'small'"),
    ],
)
def test_what_no_network_takes_is_refused(shape, settings, are_files, message):
    with pytest.raises(DataError, match=message):
        choose(shape, asked(**settings), are_files=are_files)


def test_photographs_get_a_backbone_that_stays_as_it_is():
    choice = choose((3, 300, 200), asked(weights="none"), are_files=True)
    assert (choice.settings.backbone, choice.settings.freeze) == ("efficientnet-lite0", True)
    assert (choice.size, choice.crop, choice.grey, choice.settings.image_size) == (224, 0.875, False, 224)
    assert choice.backbone == "frozen" and choice.shape(None) == (1280,) and choice.taken is None
    named = choose((3, 300, 200), asked(backbone="efficientnet-lite0", weights="none", image_size=64), are_files=True)
    assert named.settings.freeze is False and named.backbone == "trained" and named.size == 64


def test_arrays_are_resized_on_their_way_to_a_backbone_and_grey_ones_take_it_too():
    choice = choose((1, 70, 50), asked(**SQUEEZE))
    assert choice.size is None and isinstance(choice.taken[0], Resize)
    grey = torch.randint(0, 256, (2, 1, 70, 50), dtype=torch.uint8)
    assert choice.taken(grey).shape == (2, 3, 32, 32)
    assert choice.made(None, 0).eval()(choice.taken(grey)).shape == (2, 512)


def test_each_network_is_made_anew_so_that_what_was_trained_leaves_no_trace():
    for settings in ({"backbone": "small"}, SQUEEZE):
        choice = choose((3, 32, 32), asked(**settings), are_files=True)
        first = choice.made(None, 3)
        before = [parameter.clone() for parameter in first.parameters()]
        with torch.no_grad():
            for parameter in first.parameters():
                parameter.add_(1)
        second = choice.made(None, 3)
        assert all(map(torch.equal, second.parameters(), before))
        assert not any(map(torch.equal, first.parameters(), second.parameters()))


def test_the_seed_decides_random_weights():
    def weights(seed):
        return nn.utils.parameters_to_vector(choose((3, 32, 32), asked(**SQUEEZE), seed).made(None, seed).parameters())

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


def test_features_of_a_frozen_backbone_take_the_place_of_images():
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 32, 32), np.uint8)
    data = Source(("a", "b"), images, np.arange(30) % 2).split()
    choice, told = choose((3, 32, 32), asked(**SQUEEZE, freeze=True)), []
    features = choice.prepared(data, told.append)
    assert features.images.shape == (len(data.images), 512) and features.images.dtype == np.float32
    assert len(features.val_images) == len(data.val_images) and len(features.test_images) == 10
    assert features.decoded is data and told == sorted(told)
    assert type(choice.made(features.images, 0)) is Normalize  # random weights know no directions
    assert len(choice.digest) == 32 != choose((3, 32, 32), asked(**SQUEEZE, freeze=True), 1).digest
    data.images[:] = 0
    assert not np.array_equal(choice.prepared(data).images, features.images)


def test_a_preparation_needs_its_images_in_memory():
    choice = choose((3, 32, 32))
    lazy = Dataset([torch.zeros(3, 32, 32, dtype=torch.uint8)], np.zeros(1), None, None, None, None, np.zeros(1), ())
    with pytest.raises(DataError, match="'small' takes them as they come"):
        choice.prepared(lazy)


@pytest.mark.parametrize(
    ("shape", "asked", "text"),
    [
        ((7,), {}, "none, as examples are features: L alone is trained"),
        ((1, 28, 28), {}, "paper, images of 28x28"),
        ((3, 200, 100), {"backbone": "small"}, "small, images of 64x64"),
        ((3, 0, 0), {"backbone": "squeezenet", "weights": "none"}, "squeezenet, images of 224x224"),
        (
            (3, 0, 0),
            {"backbone": "squeezenet", "weights": "none", "freeze": True, "image_size": 48},
            "squeezenet, which stays as it is, images of 48x48",
        ),
    ],
)
def test_a_choice_says_what_it_is(shape, asked, text):
    assert str(choose(shape, NetworkSettings(**asked), are_files=True)) == text
