"""Weights come back from every kind of file, and what is none, or of another network, changes nothing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from ssdml_fast.data import DataError
from ssdml_fast.models.weights import load_weights


def make():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def state():
    return {name: torch.rand(tensor.shape) + 1 for name, tensor in make().state_dict().items()}


def write_npz(weights, path):
    np.savez(path, **{name: tensor.numpy() for name, tensor in weights.items()})


def write_safetensors(weights, path):
    pytest.importorskip("safetensors.torch").save_file(weights, path)


KINDS = {
    "w.npz": write_npz,
    "w.safetensors": write_safetensors,
    "w.pth": torch.save,
    "wrapped.pt": lambda weights, path: torch.save({"epoch": 3, "state_dict": weights}, path),
    "parallel.pt": lambda weights, path: torch.save({"model": {f"module.{n}": t for n, t in weights.items()}}, path),
    "more.pth": lambda weights, path: torch.save(weights | {"fc.weight": torch.ones(3)}, path),
}


@pytest.mark.parametrize("name", KINDS)
def test_weights_come_back(tmp_path, name):
    weights, network = state(), make()
    KINDS[name](weights, tmp_path / name)
    load_weights(network, tmp_path / name, "it")
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, weights[key], check_dtype=False, rtol=0, atol=1)  # of counters
        assert key.endswith("tracked") or torch.equal(tensor, weights[key])


def test_counters_may_be_missing(tmp_path):
    network, weights = make(), {name: tensor for name, tensor in state().items() if "tracked" not in name}
    torch.save(weights, tmp_path / "w.pth")
    load_weights(network, tmp_path / "w.pth", "it")
    assert torch.equal(network[0].weight, weights["0.weight"])


class Program:
    """Would write a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def spoilt(tmp_path):
    torch.save(state(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-100])
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "text.safetensors").write_text("no tensors")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("x")
    torch.save({}, tmp_path / "empty.pth")
    torch.save(state() | {"0.weight": torch.ones(5, 1, 3, 3)}, tmp_path / "shape.pth")
    torch.save({f"layer.{name}": tensor for name, tensor in state().items()}, tmp_path / "names.pth")
    (tmp_path / "program.pth").write_bytes(pickle.dumps(Program(tmp_path / "written"), 2))
    np.savez(tmp_path / "objects.npz", a=np.array([Program(tmp_path / "written")], object))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.pth", "expected the weights of it at .*none.pth, found cut.pth"),
        ("cut.pth", "must hold weights, found a file that cannot be read"),
        ("text.npz", "must hold weights, found a file that cannot be read"),
        ("text.safetensors", "must hold weights, found a file that cannot be read"),
        (
            "program.pth",
            "must hold weights, found a file that cannot be read: it is damaged, or holds more than tensors",
        ),
        ("text.pth", "must hold weights, found a file that cannot be read: it is damaged, or holds more than tensors"),
        ("objects.npz", "must hold weights, found a file that cannot be read"),
        ("list.pth", "must hold weights by name, found list"),
        ("empty.pth", r"must hold weights of it, found nothing in place of 0.bias, 0.weight, 1.bias and \d more"),
        ("names.pth", r"found layer.0.weight, layer.0.bias, layer.1.weight and \d more in place of 0.bias"),
        ("shape.pth", r"found 0.weight of shape \(5, 1, 3, 3\) in place of \(2, 1, 3, 3\)"),
    ],
)
def test_what_holds_no_weights_is_named_and_changes_nothing(tmp_path, name, message):
    spoilt(tmp_path)
    network = make()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(DataError, match=message):
        load_weights(network, tmp_path / name, "it")
    assert not (tmp_path / "written").exists()
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
