"""Features are those of the network; what is kept on the disk is found again, and not believed blindly."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from ambient import AMBIENT
from processes import run_together
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from ssdml_fast.data import ImageFileDataset, image_folder
from ssdml_fast.models.backbones import Backbone, Standardize
from ssdml_fast.models.features import CACHE, backbone_features
from ssdml_fast.models.photographs import Photographs


class Counted(nn.Module):
    """Embeds images, and counts them."""

    def __init__(self, bias=0.0, double=False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.sin(torch.arange(parameter.numel()) * (i + 1.0)).view(parameter.shape) + bias)
        self.double, self.seen = double, 0

    def forward(self, images):
        self.seen += len(images)
        maps = self.norm(self.conv(images))
        return F.normalize((maps * maps if self.double else maps).mean((2, 3)))


def pictures(n=23):
    return np.random.default_rng(0).integers(0, 256, (n, 3, 9, 70), np.uint8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache):
    return sorted(path for path in cache.rglob("*") if path.is_file())


def again(images, network=None, prepare=None):
    """Features, and how many images were embedded for them."""
    network = network or Counted()
    features = backbone_features(network, prepare or Standardize(), images)
    return features, network.seen


def test_features_are_the_networks_and_progress_ends_at_one():
    images, network, shares = pictures(), Counted().train(), []
    features = backbone_features(network, Standardize(), images, progress=shares.append)
    assert features.dtype == np.float32 and features.shape == (23, 6) and not network.training
    with torch.no_grad():
        expected = network(Standardize()(torch.from_numpy(images)))
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) > 1


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
    monkeypatch.delenv(CACHE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it is where nobody knows the home
    assert again(pictures())[1] == 23


@pytest.mark.parametrize("ambient", AMBIENT)
def test_what_torch_is_set_to_changes_no_features(cache, ambient):
    images = np.repeat(pictures(), 20, axis=0)
    expected, _ = again(images)
    other, network, prepare = Counted(), Photographs(Backbone(Counted().conv, size=9)), Standardize()
    alone = backbone_features(network, prepare, pictures())
    with AMBIENT[ambient]():
        found, computed = again(images, other, prepare)
        same = Photographs(Backbone(network.trunk, size=9))
        np.testing.assert_allclose(backbone_features(same, prepare, pictures()), alone, rtol=0, atol=1e-6)
    assert computed == 4 and np.array_equal(found, expected)


def test_what_was_computed_is_found_again(cache):
    first, computed = again(pictures())
    second, looked_at = again(pictures())
    assert (computed, looked_at) == (27, 4) and len(kept(cache)) == 1
    assert np.array_equal(first, second) and second.flags.writeable


@pytest.mark.parametrize(
    "change",
    [
        {"images": pictures()[::-1]},
        {"images": pictures()[:-1]},
        {"images": pictures().reshape(23, 3, 70, 9)},
        {"images": pictures().astype(np.float32)},
        {"network": Counted(bias=0.1)},
        {"prepare": Standardize((0, 0, 0))},
    ],
    ids=["order", "number", "shape", "type", "weights", "preparation"],
)
def test_other_images_or_another_network_are_not_mistaken(cache, change):
    again(pictures())
    features, computed = again(**({"images": pictures()} | change))
    assert computed > 20 and len(kept(cache)) == 2
    alone = backbone_features(change.get("network") or Counted(), change.get("prepare") or Standardize(), **{
        "images": np.ascontiguousarray(change.get("images", pictures()))
    })  # fmt: skip
    np.testing.assert_allclose(features, alone, rtol=0, atol=1e-6)


def test_a_network_that_computes_otherwise_by_the_same_state_is_found_out(cache):
    again(pictures())
    features, computed = again(pictures(), Counted(double=True))
    assert computed == 27
    assert again(pictures(), Counted(double=True))[1] == 4  # which is what is kept now
    assert (features >= 0).all()


def cut(file):
    file.write_bytes(file.read_bytes()[:-7])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-30] ^= 1
    file.write_bytes(content)


def to_folder(file):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("spoil", [cut, flip, to_folder, lambda file: file.write_bytes(b"")])
def test_what_is_damaged_is_computed_anew(cache, spoil):
    first, _ = again(pictures())
    spoil(kept(cache)[0])
    second, computed = again(pictures())
    assert computed == 27 and np.array_equal(first, second)
    assert len(kept(cache)) == (0 if spoil is to_folder else 1)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    assert again(pictures())[1] == again(pictures())[1] == 27


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv(CACHE, "")
    again(pictures())
    assert kept(tmp_path) == []
    monkeypatch.delenv(CACHE)
    again(pictures())
    assert [path.parent for path in kept(tmp_path)] == [tmp_path / "xdg" / "ssdml-fast" / "features"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    again(pictures())
    assert len(kept(tmp_path / "home" / ".cache" / "ssdml-fast")) == 1


def test_image_files_are_told_by_their_names_sizes_and_times(cache, tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "set" / "a").mkdir(parents=True)
    for i, pixels in enumerate(pictures(9)):
        image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "set" / "a" / f"{i}.png")

    def found(rows=range(9), **how):
        return again(Subset(ImageFileDataset(image_folder(tmp_path / "set"), **how), rows))

    features, computed = found()
    np.testing.assert_allclose(features, again(pictures(9))[0], rtol=0, atol=1e-6)
    assert computed == 13 and found()[1] == 4
    assert found(rows=[0, 1, 2, 3, 4, 5])[1] == 10 and found(size=8)[1] == 13
    os.utime(tmp_path / "set" / "a" / "3.png", ns=(1, 1))
    assert found()[1] == 13


def test_a_dataset_that_does_not_say_what_it_is_is_embedded_anew(cache):
    class Plain(Dataset):
        def __len__(self):
            return 9

        def __getitem__(self, i):
            return pictures(9)[i]

    assert again(Plain())[1] == again(Plain())[1] == 9 and kept(cache) == []


@pytest.mark.parametrize(
    ("network", "images", "error", "message"),
    [
        (
            nn.Identity(),
            pictures(),
            ValueError,
            r"network must map \(B, ...\) images to \(B, d\) floats, found for 8 \(",
        ),
        (nn.Flatten(0), pictures(), ValueError, "found for 8 "),
        (Counted(), [1, 2], TypeError, "pictures must be a NumPy array"),
        (Counted(), pictures(0), ValueError, "pictures must hold at least one example, found none"),
    ],
)
def test_what_cannot_be_embedded_is_named(network, images, error, message):
    with pytest.raises(error, match=message):
        backbone_features(network, Standardize(), images, "pictures")


SHARED = """
import os
import numpy as np
from ssdml_fast._world import World
from ssdml_fast.models.features import backbone_features

class Counted(torch.nn.Flatten):
    seen = 0

    def forward(self, images):
        self.seen += len(images)
        return super().forward(images).sin()

folder, images = sys.argv[4], np.arange(300 * 12).astype(np.uint8).reshape(300, 3, 2, 2)
for n, caches in ((300, "same"), (300, "same"), (300, "other"), (3, "same"), (100, "none")):
    os.environ["SSDML_FAST_CACHE"] = {"same": f"{folder}/c", "other": f"{folder}/c{rank or str()}", "none": ""}[caches]
    network, shares = Counted(), []
    features = backbone_features(network, lambda x: x / 8, images[:n], progress=shares.append, world=World.here())
    expected = (torch.from_numpy(images[:n]) / 8).flatten(1).sin().numpy()
    print(n, caches, network.seen, np.array_equal(features, expected), shares[-1:] in ([], [1.0]))
    distributed.barrier()  # what the first writes is there
"""


def test_processes_share_the_images_and_what_is_kept(tmp_path):
    """Of 300 images 128 are embedded at once, so that one process has the first of three parts; four tell of all."""
    for rank, (status, out, errors) in enumerate(run_together(SHARED, 2, tmp_path, tmp_path)):
        assert status == 0 and not errors, errors
        own, few = [128, 172][rank], [0, 100][rank]
        assert out.splitlines() == [
            f"300 same {4 + own} True True",
            "300 same 4 True True",
            f"300 other {4 + own} True True",  # the second finds nothing
            "3 same 3 True True",
            f"100 none {4 + few} True True",
        ]
    assert len(kept(tmp_path / "c")) == 1 and not (tmp_path / "c1").exists()
