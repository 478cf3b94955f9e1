"""No step of a training waits for the device, by torch's own word; without one see tests/methods/test_waiting.py."""

import pytest
import torch
from on_device import gpu

from ssdml_fast.data.digits import load_digits
from ssdml_fast.methods import METHODS
from ssdml_fast.models.digits import DigitsNet
from ssdml_fast.models.seeded import seeded
from ssdml_fast.train import Config, fit
from ssdml_fast.train.engine import Engine

BRIEF = {"rounds": 1, "warmup": 2, "max_epochs": 1, "mixup": 0.5, "softmax_weight": 0.5}
OF_SSDML = (
    {},
    {"hard_negatives": 0},
    {"metric_update": "conjugate"},
    {"metric_update": "unconstrained", "softmax_weight": 0.0},
    {"mining": "neighborhood", "metric_update": "partition"},
)
CASES = [("ssdml", BRIEF | own) for own in OF_SSDML] + [(name, {}) for name in METHODS if name != "ssdml"]


def trained(method, settings, device, network=None):
    data = load_digits(0)
    train, val = (data.images[:400], data.labels[:400]), (data.val_images[:60], data.val_labels[:60])
    config = Config(metric_dim=16, augment="strong", average=0.9, optimizer="sgd", device=device)
    return fit(network or seeded(DigitsNet, 0), train, val, method, settings, config)


@gpu
@pytest.mark.parametrize(("method", "settings"), CASES)
def test_no_step_waits(method, settings, monkeypatch):
    steps, step = [], Engine.step

    def watched(engine, *arguments):
        warm = len(steps) > 2  # memory is allocated, kernels are loaded
        torch.cuda.set_sync_debug_mode("error" if warm else "default")
        try:
            loss = step(engine, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        steps.append(warm)
        return loss

    monkeypatch.setattr(Engine, "step", watched)
    trained(method, settings, "cuda")
    assert any(steps)


@gpu
def test_a_network_is_trained_again_where_it_was_left():
    first = trained("ssdml", BRIEF, "cuda")
    again = trained("ssdml", BRIEF, "cuda", first.model.network)
    assert again.stopped == "finished" and next(again.model.parameters()).is_cuda
