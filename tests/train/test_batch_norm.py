"""Batch normalisation over processes is torch's of the whole batch: values, gradients, running statistics."""

from __future__ import annotations

import json

import pytest
import torch
from processes import run_together
from torch import nn
from torch.nn import functional as F

from ssdml_fast._world import World
from ssdml_fast.train.batch_norm import Synchronized


def test_it_has_the_gradients_of_what_it_computes():
    x, weight, bias = (torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in ((5, 3, 2), 3, 3))

    def normalized(x, weight, bias):
        with Synchronized(World()):
            return F.batch_norm(x, None, None, weight, bias, training=True)

    assert torch.autograd.gradcheck(normalized, (x, weight, bias))


def test_layers_that_have_statistics_keep_to_them():
    x, norm = torch.randn(5, 3), nn.BatchNorm1d(3).eval()
    norm.running_mean.fill_(2.0)
    with Synchronized(World()):
        assert torch.equal(norm(x), F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))
        assert torch.equal(nn.LayerNorm(3)(x), F.layer_norm(x, (3,)))


WHOLE = """
import copy, json
from torch import nn
from ssdml_fast._world import World
from ssdml_fast.train.batch_norm import Synchronized
from ssdml_fast.train.parts import part_of, whole_of

world, worst = World.here(), {}
torch.manual_seed(0)

class Activated(nn.BatchNorm2d):  # one that does more
    def forward(self, x):
        return super().forward(x).relu()

LAYERS = {
    "1d": (nn.BatchNorm1d(4), (4,)), "1d of rows": (nn.BatchNorm1d(4), (4, 3)), "2d": (nn.BatchNorm2d(4), (4, 5, 2)),
    "3d": (nn.BatchNorm3d(4), (4, 2, 3, 2)), "not affine": (nn.BatchNorm2d(4, affine=False), (4, 3, 3)),
    "cumulative": (nn.BatchNorm1d(4, momentum=None), (4,)), "activated": (Activated(4, momentum=0.3), (4, 3, 3)),
    "no statistics": (nn.BatchNorm2d(4, track_running_stats=False, eps=0.1), (4, 3, 3)),
}
for name, (norm, shape) in LAYERS.items():
    for dtype in (torch.double, torch.float, torch.bfloat16):
        norm = norm.to(torch.double if dtype == torch.double else torch.float)
        parallel = copy.deepcopy(norm)
        for n in (7, 12, size):
            x = (3 + torch.arange(n)[(...,) + (None,) * len(shape)] / n + torch.randn(n, *shape)).to(dtype)
            weights, others = torch.randn(n, *shape).to(dtype), x.detach().clone().requires_grad_()
            x.requires_grad_()
            expected = norm(x)
            (expected * weights).sum().backward()
            with Synchronized(world):
                part = parallel(others[part_of(world, n)])
            found = whole_of(world, part, n)
            (found * weights).sum().backward()
            gradient = world.gather(others.grad[part_of(world, n)] / size, n)
            got = {"values": (found, expected), "gradient": (gradient, x.grad)}
            for (key, one), (_, other) in zip(parallel.named_parameters(), norm.named_parameters()):
                one.grad /= size
                world.sum_([one.grad])
                got[key] = (one.grad, other.grad)
            for (key, one), (_, other) in zip(parallel.named_buffers(), norm.named_buffers()):
                got[key] = (one, other)
            for key, (one, other) in got.items():
                assert one.dtype == other.dtype and one.shape == other.shape, (name, key)
                off = ((one - other).abs().max() / other.abs().max().clamp(min=1)).item()
                worst[f"{dtype}"] = max(worst.get(f"{dtype}", 0), off)
            for module in (norm, parallel):
                module.zero_grad()
print(json.dumps(worst))
"""


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_it_is_that_of_the_whole_batch(tmp_path, size):
    for status, output, errors in run_together(WHOLE, size, tmp_path):
        assert status == 0, errors
        worst = json.loads(output)
        assert worst.pop("torch.float64") < 1e-12 and worst.pop("torch.float32") < 1e-5
        assert worst.pop("torch.bfloat16") < 0.02 and not worst
