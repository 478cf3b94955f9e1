"""Angular loss, forward and backward in z and L: ours beside torch, eager and compiled.

The peers project each point once and gather the projections. pytorch-metric-learning's AngularLoss is left out: it
normalises the embeddings after projection, compares each pair with every negative at once, and drops a constant of
the margin, so its answer is another.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from inputs import points

import ssdml_fast as sf

ALPHA = 40.0
FOUR_T = 4 * math.tan(math.radians(ALPHA)) ** 2
SHAPES = {  # n, d, l, T and the target against eager and compiled torch
    "n300-d128-l64-T100": (300, 128, 64, 100, 3, 3),
    "n9100-d128-l64-T45500": (9100, 128, 64, 45_500, 6, 3),
    "n3000-d512-l128-T10000": (3000, 512, 128, 10_000, 5, 3),
    "n5864-d1024-l128-T146600": (5864, 1024, 128, 146_600, 9, 2),
}


def loss_by_indexing(z, triplets, L):
    y = z @ L
    return margin_loss(*(y[i] for i in triplets.unbind(1)))


def loss_by_index_select(z, triplets, L):
    y = z @ L
    return margin_loss(*(y.index_select(0, i) for i in triplets.unbind(1)))


def margin_loss(anchor, positive, negative):
    m = (anchor - positive).square().sum(1) - FOUR_T * (negative - (anchor + positive) / 2).square().sum(1)
    return torch.nn.functional.softplus(m).sum()


def ours():
    return lambda z, triplets, L: sf.angular_loss(z, triplets, L, ALPHA)


def compiled():
    torch._dynamo.reset()  # specialise to this shape and thread count, as a user's own single shape would
    return torch.compile(loss_by_index_select, dynamic=False)


METHODS = {
    "ssdml_fast": ours,
    "torch y[i]": lambda: loss_by_indexing,
    "torch index_select": lambda: loss_by_index_select,
    "torch.compile": compiled,
}


@functools.cache
def operands(shape):
    """Points, triplets and an orthonormal metric, float32."""
    n, d, l, count, *_ = SHAPES[shape]
    rng = np.random.default_rng(4)
    L = np.linalg.qr(rng.standard_normal((d, l)))[0].astype(np.float32)
    return [torch.from_numpy(a) for a in (points("clustered", n, d), rng.integers(0, n, (count, 3)), L)]


def forward_backward(loss, z, triplets, L):
    """Call that returns the loss and its gradients in z and L."""
    z, L = z.clone().requires_grad_(), L.clone().requires_grad_()

    def call():
        z.grad = L.grad = None
        value = loss(z, triplets, L)
        value.backward()
        return value.detach(), z.grad, L.grad

    return call


@functools.cache
def expected(shape):
    z, triplets, L = operands(shape)
    return forward_backward(loss_by_index_select, z.double(), triplets, L.double())()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_angular_loss(race, shape, method):
    def check(answer):
        for found, right in zip(answer, expected(shape), strict=True):
            torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5 * right.abs().max().item())

    *_, eager, compiled = SHAPES[shape]
    targets = {"torch y[i]": eager, "torch index_select": eager, "torch.compile": compiled}
    call = forward_backward(METHODS[method](), *operands(shape))
    call()  # torch.compile compiles here
    race(call, check, targets)
