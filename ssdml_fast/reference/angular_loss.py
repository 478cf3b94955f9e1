"""Twin of :mod:`ssdml_fast.ops.angular_loss`."""

from __future__ import annotations

import math

import numpy as np


def angular_loss(z, triplets, L, alpha=40.0, reduction="sum", weight=None):
    """Angular triplet loss; see :func:`ssdml_fast.angular_loss`."""
    m, _, _ = _margins(z @ L, triplets, alpha)
    losses = np.logaddexp(0, m)
    if weight is not None:
        losses = weight * losses
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / max(len(losses), 1)}[reduction]


def angular_loss_and_grad(z, triplets, L, alpha=40.0, reduction="sum", weight=None):
    """Angular triplet loss with its gradients; see :func:`ssdml_fast.angular_loss_and_grad`."""
    y = z @ L
    m, a, b = _margins(y, triplets, alpha)
    scale = np.exp(-np.logaddexp(0, -m))  # sigmoid(m) = d softplus(m) / dm, without overflow
    if weight is not None:
        scale = scale * weight
    if reduction == "mean":
        scale = scale / max(len(triplets), 1)
    scale, four_t = scale[:, None], 4 * math.tan(math.radians(alpha)) ** 2
    grad_y = np.zeros_like(y)
    anchor, positive, negative = triplets.T
    np.add.at(grad_y, anchor, scale * (2 * a + four_t * b))
    np.add.at(grad_y, positive, scale * (-2 * a + four_t * b))
    np.add.at(grad_y, negative, scale * (-2 * four_t * b))
    return angular_loss(z, triplets, L, alpha, reduction, weight), grad_y @ L.T, z.T @ grad_y


def _margins(y, triplets, alpha):
    """m = |y - y+|^2 - 4 tan^2(alpha) |y- - (y + y+)/2|^2 per triplet, with the two differences it is made of."""
    anchor, positive, negative = triplets.T
    a = y[anchor] - y[positive]
    b = y[negative] - (y[anchor] + y[positive]) / 2
    return (a**2).sum(1) - 4 * math.tan(math.radians(alpha)) ** 2 * (b**2).sum(1), a, b
