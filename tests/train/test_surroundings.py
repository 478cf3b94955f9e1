"""Where a training runs, and that what torch is set to around it neither breaks nor changes it."""

from __future__ import annotations

import operator
import random
import types

import numpy as np
import pytest
import torch
from ambient import AMBIENT
from torch import nn
from torch.nn import functional as F
from trainings import TINY, SmallNet, assert_same, digits, train

from ssdml_fast import _core
from ssdml_fast.models.seeded import seeded
from ssdml_fast.runs.folder import RunFolder
from ssdml_fast.train import Config, fit
from ssdml_fast.train.device import described, kernel_device, network_device, surroundings

SHORT = TINY | {"rounds": 1, "max_epochs": 1}


# --- the device -------------------------------------------------------------------------------------------------------


def has(monkeypatch, cuda=0, mps=False, kernels=True):
    """Pretend that devices are there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: cuda - 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(_core, "has_cuda", lambda: cuda > 0 and kernels)


@pytest.mark.parametrize(
    ("there", "asked", "network", "kernels"),
    [
        ({}, "auto", "cpu", "cpu"),
        ({"cuda": 1}, "auto", "cuda:0", "cuda:0"),
        ({"cuda": 3}, "cuda", "cuda:2", "cuda:2"),
        ({"cuda": 1, "mps": True}, "cpu", "cpu", "cpu"),
        ({"cuda": 2}, "cuda:1", "cuda:1", "cuda:1"),
        ({"cuda": 1, "kernels": False}, "cuda", "cuda:0", "cpu"),
        ({"mps": True}, "auto", "mps", "cpu"),
        ({"mps": True}, "mps", "mps", "cpu"),
    ],
)
def test_network_and_kernels_have_a_device_each(monkeypatch, there, asked, network, kernels):
    has(monkeypatch, **there)
    device = network_device(Config(device=asked))
    assert device == torch.device(network)
    assert kernel_device(device) == torch.device(kernels)


@pytest.mark.parametrize(
    ("there", "text"),
    [
        ({}, "cpu"),
        ({"cuda": 2}, "cuda:1 (NVIDIA H200)"),
        ({"cuda": 1, "kernels": False}, "cuda:0 (NVIDIA H200), kernels on the CPU: no nvcc was found"),
        ({"mps": True}, "mps, kernels on the CPU: none for mps"),
    ],
)
def test_a_device_is_described_with_where_its_kernels_run(monkeypatch, there, text):
    has(monkeypatch, **there)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(_core, "lib", types.SimpleNamespace(cuda_build="not built: no nvcc was found"))
    assert described(network_device(Config(device="cuda" if "cuda" in there else "auto"))) == text


@pytest.mark.parametrize(
    ("there", "settings", "message"),
    [
        ({}, {"device": "cuda"}, r"^device must be there, found 'cuda' where there is no CUDA device$"),
        ({"cuda": 1}, {"device": "cuda:1"}, r"^device must be there, found 'cuda:1' where there is 1 CUDA device$"),
        ({"cuda": 2}, {"device": "cuda:7"}, r"^device must be there, found 'cuda:7' where there is 2 CUDA devices$"),
        ({"cuda": 1}, {"device": "mps"}, r"^device must be there, found 'mps' where torch has no Metal$"),
        ({}, {"precision": "float16"}, r"^precision must be 'float32' or 'bfloat16' on cpu, found 'float16'$"),
        ({"mps": True}, {"precision": "float16"}, r"^precision must be 'float32' or 'bfloat16' on mps, found"),
    ],
)
def test_a_device_that_is_not_there_is_named_before_any_work(monkeypatch, tmp_path, there, settings, message):
    has(monkeypatch, **there)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        fit(SmallNet(), *digits(), config=Config(**settings), run=run)
    assert not run.path.exists()


def test_a_device_given_to_fit_is_in_place_of_the_settings():
    assert fit(seeded(SmallNet, 0), *digits(), settings={"rounds": 0}, config=Config(metric_dim=4), device="cpu").best
    as_torchs = fit(
        seeded(SmallNet, 0), *digits(), settings={"rounds": 0}, config=Config(metric_dim=4), device=torch.device("cpu")
    )
    assert as_torchs.stopped == "finished"
    with pytest.raises(ValueError, match=r"^device must be"):
        fit(seeded(SmallNet, 0), *digits(), config=Config(device="cpu"), device="gpu")


# --- the ambient state ------------------------------------------------------------------------------------------------


def state_of_torch():
    return (
        torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),  # noqa: NPY002
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain():
    return train(SHORT)


@pytest.mark.parametrize("ambient", AMBIENT)
def test_what_torch_is_set_to_changes_nothing(plain, ambient):
    network = seeded(SmallNet, 0)
    with AMBIENT[ambient]():
        before = state_of_torch()
        result = train(SHORT, network)
        assert state_of_torch() == before
    assert_same(result, plain)
    assert all(p.requires_grad and not p.is_inference() for p in result.model.network.parameters())


@pytest.mark.parametrize("ambient", AMBIENT)
def test_nor_does_it_change_what_a_model_embeds(plain, ambient):
    images = digits()[1][0].copy()
    right = plain.model.embed(images)
    with AMBIENT[ambient]():
        np.testing.assert_array_equal(plain.model.embed(images), right)


@pytest.mark.parametrize("ambient", AMBIENT)
def test_it_is_left_as_it_was_by_a_training_that_fails_too(ambient):
    def fail(record):
        raise RuntimeError("told")

    network = seeded(SmallNet, 0)
    with AMBIENT[ambient]():
        before = state_of_torch()
        with pytest.raises(RuntimeError, match="told"):
            train(SHORT, network, on_batch=fail)
        assert state_of_torch() == before


NEWER = ("", "cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv")


def precisions():
    return {name: operator.attrgetter(f"{name}.fp32_precision".lstrip("."))(torch.backends) for name in NEWER}


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch has such names from 2.9 on")
@pytest.mark.parametrize("name", NEWER)
def test_products_rounded_by_torchs_newer_names_change_nothing_either(plain, name):
    library, within = operator.attrgetter(name)(torch.backends) if name else torch.backends, []
    was = library.fp32_precision
    library.fp32_precision = "ieee" if was == "tf32" else "tf32"
    try:
        before = precisions()
        result = train(SHORT, on_batch=lambda _: within.append(precisions()))
        assert precisions() == before
    finally:
        library.fp32_precision = was
    assert within and all("tf32" not in each.values() for each in within)
    assert_same(result, plain)


def test_metals_generator_is_left_as_it_was_too(monkeypatch):
    state = [torch.tensor(1)]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state[0])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda was: state.__setitem__(0, was))
    with surroundings(torch.device("mps"), tf32=False):
        state[0] = torch.tensor(2)
    assert state[0] == 1


# --- networks ---------------------------------------------------------------------------------------------------------


class Answers(nn.Module):
    """Something else than (B, d) floats."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.layer = nn.Linear(64, 32)

    def forward(self, images):
        return self.answer(self.layer(images.flatten(1)))


def made_in_inference_mode():
    with torch.inference_mode():
        return SmallNet()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmallNet().double(), r"^network must have parameters of float32, found torch\.float64 in layers\.1"),
        (lambda: SmallNet().bfloat16(), r"^network must have parameters of float32, found torch\.bfloat16 in"),
        (made_in_inference_mode, r"^network must be made outside inference mode to be trained, found layers\.1"),
        (lambda: F.normalize, r"^network must be a torch\.nn\.Module, found function"),
        (lambda: Answers(lambda z: z[:, None].expand(-1, 5, -1)), r"^network must map .* found .*\(1, 5, 32\) of"),
        (lambda: Answers(lambda z: z[0]), r"^network must map .* found for one example \(32,\) of torch.float32"),
        (lambda: Answers(lambda z: z.long()), r"^network must map .* found for one example \(1, 32\) of torch.int64"),
        (lambda: Answers(lambda z: (z, z)), r"^network must map .* found for one example tuple"),
        (lambda: Answers(lambda z: z.repeat(2, 1)), r"^network must map .* found for one example \(2, 32\)"),
    ],
)
def test_a_network_that_cannot_be_trained_is_named_and_bars_no_other_try(tmp_path, make, message):
    run = RunFolder(tmp_path / "run")
    with pytest.raises((TypeError, ValueError), match=message):
        train(SHORT, make(), run=run)
    assert not run.path.exists()
    assert train(SHORT | {"rounds": 0}, run=run).stopped == "finished"


class Elsewhere(SmallNet):
    """Lies on another device, as after a training on it, until it is called for."""

    is_here = False

    def cpu(self):
        self.is_here = True
        return super().cpu()

    def forward(self, images):
        assert self.is_here
        return super().forward(images)


def test_a_network_on_another_device_is_trained_as_one_that_is_here(plain):
    assert_same(train(SHORT, seeded(Elsewhere, 0)), plain)


class InPlace(SmallNet):
    def forward(self, images):
        return super().forward(images.sub_(0.5).div_(2))


def test_a_network_that_changes_its_input_changes_no_ones_examples():
    (images, labels), (val_images, val_labels) = digits()
    data = (images.copy(), labels), (val_images.copy(), val_labels)
    train(SHORT, seeded(InPlace, 0), data)
    np.testing.assert_array_equal(data[0][0], images)
    np.testing.assert_array_equal(data[1][0], val_images)
