"""Checks, allocates and calls the kernels of ``csrc/angular_loss/``."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import _arrays as arrays
from .. import _core
from .. import _scalars as scalars

REDUCTIONS = ("sum", "mean", "none")


def compute(z, triplets, L, alpha, reduction, weight, grad):
    """Validate and run the kernel.

    Returns the loss and, for `backproject`, what the kernel found (with gradients if asked for), the number of points
    and L validated.
    """
    z = arrays.as_floats(z, "z", ndim=2, halves=True)
    L = arrays.as_floats(L, "L", ndim=2, like=z, halves=True)
    check_operands(z, L)
    reduction = scalars.as_choice(reduction, "reduction", REDUCTIONS)
    if weight is not None:
        weight = arrays.as_floats(weight, "weight", ndim=1, like=z, halves=True)
        arrays.check_like(triplets, "triplets", like=z)
        arrays.check_shape(weight, (len(triplets),), "weight", "one per triplet")
        arrays.check_finite(weight, "weight")
        weight = arrays.astype(weight, arrays.dtype_name(z))
    found = evaluate(z, triplets, L, alpha, weight, losses=reduction == "none", grad=grad)
    if reduction == "none":
        loss = found.losses if weight is None else found.losses * weight
    else:
        loss = found.loss / max(len(triplets), 1) if reduction == "mean" else found.loss
    return loss, found, len(z), L


def reduce(losses, reduction):
    """Return the sum or the mean of the losses, 0 for none at all, or the losses themselves."""
    if reduction == "none":
        return losses
    return losses.sum() / max(losses.shape[0], 1) if reduction == "mean" else losses.sum()


def check_operands(z, L) -> None:
    """Refuse a metric that does not fit the points."""
    if L.shape[0] != z.shape[1] or L.shape[1] == 0:
        raise ValueError(
            f"L must have shape (d, l) with d = {z.shape[1]}, the columns of z, and l > 0, found {tuple(L.shape)}"
        )
    if arrays.dtype_name(z) != arrays.dtype_name(L):
        raise TypeError(f"L must be of the type of z, {arrays.dtype_name(z)}, found {arrays.dtype_name(L)}")


def as_triplets(triplets, points):
    """Return triplets as contiguous int64, all of them indices of rows of `points`."""
    triplets = _as_columns(triplets, points)
    arrays.check_indices(triplets, len(points), "triplets", "rows of z")
    return triplets


def _as_columns(triplets, points):
    """Return triplets as contiguous int64, their values not yet looked at."""
    triplets = arrays.as_integers(triplets, "triplets", ndim=2, like=points)
    if triplets.shape[1] != 3:
        raise ValueError(f"triplets must have 3 columns, found shape {tuple(triplets.shape)}")
    return triplets


def _tan2(alpha):
    return math.tan(math.radians(scalars.as_float(alpha, "alpha", 0, 90))) ** 2


class Found(NamedTuple):
    """What the kernel found: the loss, and what its gradients follow from; None for what was not asked for."""

    loss: Any  # sum of the weighted losses
    losses: Any  # (T,)
    grad_y: Any  # gradient in the projections of the first `used` of `points`
    points: Any  # z, or copies of its `rows` that occur in triplets
    used: int
    rows: Any  # ascending; None for all


def evaluate(z, triplets, L, alpha, weight, losses, grad):
    """Project points, contiguous as L and weight are, and run the kernel; refuses triplets and values as documented."""
    triplets, tan2_alpha = _as_columns(triplets, z), _tan2(alpha)
    (n, d), l, count, dtype = z.shape, L.shape[1], triplets.shape[0], arrays.dtype_name(z)
    if arrays.is_cuda(z):
        arrays.check_indices(triplets, n, "triplets", "rows of z")
        y = z @ L
        if not arrays.is_finite(y):
            _refuse(z, L)
        each, grad_y = run(y, triplets, alpha, weight, losses=True, grad=grad)
        return Found(each.sum() if weight is None else each.dot(weight), each, grad_y, z, n, None)
    is_sparse = 0 < 3 * count < 2 * n  # else most points occur in some triplet, or nothing does
    room = min(3 * count, n) if is_sparse else n
    each = arrays.empty((count,), dtype, like=z) if losses else None
    grad_y = arrays.empty((room, l), dtype, like=z) if grad else None
    points = arrays.empty((room, d), dtype, like=z) if is_sparse else z
    rows = arrays.empty((room,), "int64", like=z) if is_sparse else None
    threads = _core.threads(None)
    at_z, at_L, at_triplets, at_weight, at_losses, at_grad_y, at_points, at_rows = arrays.addresses(
        z, L, triplets, weight, each, grad_y, points if is_sparse else None, rows
    )
    loss, used, in_range, is_finite = _core.lib.metric_loss(
        dtype,
        at_z,
        n,
        d,
        at_L,
        l,
        at_triplets,
        count,
        tan2_alpha,
        at_weight,
        at_losses,
        at_grad_y,
        at_points,
        at_rows,
        threads,
    )
    if not in_range:
        arrays.check_indices(triplets, n, "triplets", "rows of z")
    if not is_finite:
        _refuse(z, L)
    return Found(arrays.scalar(loss, dtype, like=z), each, grad_y, points, used, rows)


def _refuse(z, L):
    """Say what is not finite."""
    arrays.check_finite(z, "z")
    arrays.check_finite(L, "L")
    with np.errstate(over="ignore", invalid="ignore"):
        arrays.check_finite(z @ L, "z @ L")


def backproject(found, n, L, scale, wanted=(True, True)):
    """Return the gradients in n points and in L, times `scale`, of what was found; None for one not wanted."""
    grad_y, x = found.grad_y, found.points
    if arrays.is_cuda(x):
        return grad_y @ (scale * L).T if wanted[0] else None, scale * (x.T @ grad_y) if wanted[1] else None
    dtype, (d, l) = arrays.dtype_name(x), L.shape
    grad_z = arrays.empty((n, d), dtype, like=x) if wanted[0] else None
    grad_L = arrays.empty((d, l), dtype, like=x) if wanted[1] else None
    at_x, at_L, at_grad_y, at_rows, at_z, at_grad_L = arrays.addresses(x, L, grad_y, found.rows, grad_z, grad_L)
    threads = _core.threads(None)
    _core.lib.metric_loss_backward(
        dtype, at_x, found.used, d, at_L, l, at_grad_y, float(scale), at_rows, n, at_z, at_grad_L, threads
    )
    return grad_z, grad_L


def run(y, triplets, alpha, weight, losses, grad):
    """Run the kernel on projected points; returns what was asked for of (losses, gradient of their weighted sum)."""
    dtype = arrays.dtype_name(y)
    losses = arrays.empty((len(triplets),), dtype, like=y) if losses else None
    grad_y = arrays.empty(tuple(y.shape), dtype, like=y) if grad else None
    arguments = (
        dtype,
        arrays.address(y),
        y.shape[0],
        y.shape[1],
        arrays.address(triplets),
        len(triplets),
        _tan2(alpha),
        arrays.address(weight),
        arrays.address(losses),
        arrays.address(grad_y),
    )
    if arrays.is_cuda(y):
        cuda = _core.cuda()
        with arrays.on_device(y) as stream:
            work = arrays.workspace(cuda.angular_loss_workspace(y.shape[0], len(triplets)) if grad else 0, like=y)
            cuda.angular_loss(*arguments, arrays.address(work), stream)
    else:
        _core.lib.angular_loss(*arguments, _core.threads(None))
    return losses, grad_y
