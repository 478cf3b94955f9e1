"""Angular loss, forward and backward in z and L: ours beside torch, eager and compiled, and pytorch-metric-learning.

torch's ways project each point once and gather the projections. Three products of n d l multiplications, z L and those
of its two gradients, are the work that no method escapes; "of sgemm" is the rate of those products over the time of the
whole call, beside the rate of torch's own matrix product: it shows the overhead of a small call, the gathers where
triplets are many. A target that needs more than that rate is past the limit. So is 5x eager torch for
n3000-d512-l128-T10000: on one thread of a Zen 4 processor torch's three products alone took 12 of its 25 ms.

pytorch-metric-learning compares each pair with every negative at once and drops a constant of the margin. Its answer is
ours for unit vectors and 30 degrees where a pair has one negative; it is timed there, without L, which it lacks.
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
    n, d, l, *_ = SHAPES[shape]
    call = forward_backward(METHODS[method](), *operands(shape))
    call()  # torch.compile compiles here
    race(call, check, targets, flops=6 * n * d * l)


PAIRS = {"n300-d128-pairs100-one-negative": (300, 128, 100), "n1000-d128-pairs10000-one-negative": (1000, 128, 10_000)}


def losses_of_pytorch_metric_learning():
    """Both as losses of that library: the mean over pairs of points that are normalised first."""
    theirs = pytest.importorskip("pytorch_metric_learning.losses").AngularLoss(alpha=30)
    from ssdml_fast.integrations.pytorch_metric_learning import AngularLoss

    return {"ssdml_fast": AngularLoss(alpha=30), "pytorch-metric-learning": theirs}


@functools.cache
def pairs(shape):
    """Points, of which the last is of another class than all others, and triplets with that as their negative."""
    n, d, count = PAIRS[shape]
    triplets = np.random.default_rng(4).integers(0, n - 1, (3, count))
    triplets[2] = n - 1
    labels = np.zeros(n, np.int64)
    labels[-1] = 1
    x = 2 * points("clustered", n, d)
    return torch.from_numpy(x), torch.from_numpy(labels), tuple(torch.from_numpy(i) for i in triplets)


@pytest.mark.parametrize("method", ["ssdml_fast", "pytorch-metric-learning"])
@pytest.mark.parametrize("shape", PAIRS)
def test_pytorch_metric_learning(race, shape, method):
    points, labels, triplets = pairs(shape)
    methods = losses_of_pytorch_metric_learning()

    def gradient_of(loss, x):
        value = loss(torch.nn.functional.normalize(x), labels, triplets)  # it leaves negatives as they are
        return value.detach(), *torch.autograd.grad(value, x)

    right = gradient_of(methods["pytorch-metric-learning"], points.double().requires_grad_())

    def check(answer):
        for found, expected in zip(answer, right, strict=True):
            scale = expected.abs().max().item()
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5 * scale)

    x = points.clone().requires_grad_()
    race(lambda: gradient_of(methods[method], x), check)
