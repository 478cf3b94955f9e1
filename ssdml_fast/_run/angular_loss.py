"""Checks, allocates and calls the kernels of ``csrc/angular_loss/``.

A call is checked once, by :func:`check`, but for the values of points and triplets, which kernels see for themselves.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import _arrays as arrays
from .. import _core
from .. import _scalars as scalars

REDUCTIONS = ("sum", "mean", "none")


def check(z, triplets, L, alpha, reduction, weight, num_threads, mixed=False, values=True):
    """Return the arguments but `reduction`, triplets in contiguous int64, half precisions as float32.

    Under autocast types are `mixed`: z and L stay as they are, and the weight becomes float32. `values` are looked at
    unless the call is traced or transformed, so that there are none.
    """
    scalars.as_choice(reduction, "reduction", REDUCTIONS)
    z, L = arrays.check_floats(z, "z", ndim=2), arrays.check_floats(L, "L", ndim=2, like=z)
    if not mixed:
        z, L = arrays.at_least_float32(z), arrays.at_least_float32(L)
    check_metric(z, L, mixed)
    triplets = as_columns(triplets, z)
    alpha = scalars.as_float(alpha, "alpha", 0, 90)
    if weight is not None:
        weight = arrays.check_floats(weight, "weight", ndim=1, like=z)
        arrays.check_shape(weight, (triplets.shape[0],), "weight", "one per triplet")
        if values:
            arrays.check_finite(weight, "weight")
        weight = arrays.astype(weight, "float32" if mixed else arrays.dtype_name(z))
    return z, triplets, L, alpha, weight, scalars.as_threads(num_threads)


def check_metric(z, L, mixed=False):
    """Refuse a metric that does not fit the points, or, unless types are `mixed`, is of another type."""
    if L.shape[0] != z.shape[1] or L.shape[1] == 0:
        raise ValueError(
            f"L must have shape (d, l) with d = {z.shape[1]}, the columns of z, and l > 0, found {tuple(L.shape)}"
        )
    if not mixed and z.dtype != L.dtype and arrays.dtype_name(z) != arrays.dtype_name(L):
        raise TypeError(f"L must be of the type of z, {arrays.dtype_name(z)}, found {arrays.dtype_name(L)}")


def as_columns(triplets, points):
    """Return triplets as contiguous int64, their values not yet looked at."""
    triplets = arrays.as_integers(triplets, "triplets", ndim=2, like=points)
    if triplets.shape[1] != 3:
        raise ValueError(f"triplets must have 3 columns, found shape {tuple(triplets.shape)}")
    return triplets


def as_triplets(triplets, points):
    """Return triplets as contiguous int64, all of them indices of rows of `points`."""
    triplets = as_columns(triplets, points)
    arrays.check_indices(triplets, len(points), "triplets", "rows of z")
    return triplets


def tan2(alpha):
    """The squared tangent of an angle in degrees."""
    return math.tan(math.radians(alpha)) ** 2


class Forward(NamedTuple):
    """What one pass over the triplets finds, and :func:`backward` needs; None for what was not asked for."""

    loss: Any  # sum of the weighted losses
    losses: Any  # (T,)
    grad_y: Any  # gradient in the projections of the first `used` of `points`
    points: Any  # z, or copies of its `rows` that occur in triplets
    used: int
    rows: Any  # ascending; None for all


def forward(z, triplets, L, alpha, weight, num_threads, losses, grad):
    """Project points and find their losses, and the gradient in the projections if asked for."""
    z, L, weight = arrays.contiguous(z), arrays.contiguous(L), None if weight is None else arrays.contiguous(weight)
    (n, d), l, count, dtype = z.shape, L.shape[1], triplets.shape[0], arrays.dtype_name(z)
    if arrays.is_cuda(z):
        arrays.check_indices(triplets, n, "triplets", "rows of z")
        with arrays.in_own_type(z):
            y = z @ L
        if not arrays.is_finite(y):
            _refuse(z, L)
        each, grad_y = projected_loss(y, triplets, alpha, weight, num_threads, losses=True, grad=grad)
        return Forward(each.sum() if weight is None else each.dot(weight), each, grad_y, z, n, None)
    is_sparse = 0 < 3 * count < 2 * n  # else most points occur in some triplet, or nothing does
    room = min(3 * count, n) if is_sparse else n
    each = arrays.empty((count,), dtype, like=z) if losses else None
    grad_y = arrays.empty((room, l), dtype, like=z) if grad else None
    points = arrays.empty((room, d), dtype, like=z) if is_sparse else z
    rows = arrays.empty((room,), "int64", like=z) if is_sparse else None
    at_z, at_L, at_triplets, at_weight, at_losses, at_grad_y, at_points, at_rows = arrays.addresses(
        z, L, triplets, weight, each, grad_y, points if is_sparse else None, rows
    )
    loss, used, in_range, is_finite = _core.lib.angular_loss(
        dtype,
        at_z,
        n,
        d,
        at_L,
        l,
        at_triplets,
        count,
        tan2(alpha),
        at_weight,
        at_losses,
        at_grad_y,
        at_points,
        at_rows,
        _core.threads(num_threads),
    )
    if not in_range:
        arrays.check_indices(triplets, n, "triplets", "rows of z")
    if not is_finite:
        _refuse(z, L)
    return Forward(arrays.scalar(loss, dtype, like=z), each, grad_y, points, used, rows)


def _refuse(z, L):
    """Say what is not finite."""
    arrays.check_finite(z, "z")
    arrays.check_finite(L, "L")
    with np.errstate(over="ignore", invalid="ignore"):
        arrays.check_finite(z @ L, "z @ L")


def backward(found, n, L, scale, num_threads, wanted=(True, True)):
    """Return the gradients in n points and in L of what :func:`forward` found, times `scale`; None if not wanted."""
    L, grad_y, x = arrays.contiguous(L), found.grad_y, found.points
    if arrays.is_cuda(x):
        with arrays.in_own_type(x):
            return grad_y @ (scale * L).T if wanted[0] else None, scale * (x.T @ grad_y) if wanted[1] else None
    dtype, (d, l) = arrays.dtype_name(x), L.shape
    grad_z = arrays.empty((n, d), dtype, like=x) if wanted[0] else None
    grad_L = arrays.empty((d, l), dtype, like=x) if wanted[1] else None
    at_x, at_L, at_grad_y, at_rows, at_z, at_grad_L = arrays.addresses(x, L, grad_y, found.rows, grad_z, grad_L)
    threads = _core.threads(num_threads)
    _core.lib.angular_loss_backward(
        dtype, at_x, found.used, d, at_L, l, at_grad_y, float(scale), at_rows, n, at_z, at_grad_L, threads
    )
    return grad_z, grad_L


def reduced(found, triplets, weight, reduction):
    """The loss of what :func:`forward` found: a sum, a mean (0 of none at all) or that of each triplet."""
    if reduction == "none":
        return found.losses if weight is None else found.losses * weight
    if reduction == "sum":
        return found.loss
    mean = found.loss / max(len(triplets), 1)
    return mean if arrays.is_torch(mean) else mean.astype(found.loss.dtype)  # NumPy 1 makes it a float64


def projected_loss(y, triplets, alpha, weight, num_threads, losses, grad):
    """Return what was asked for of the losses of projected points and the gradient of their weighted sum."""
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
        tan2(alpha),
        arrays.address(weight),
        arrays.address(losses),
        arrays.address(grad_y),
    )
    if arrays.is_cuda(y):
        cuda = _core.cuda()
        with arrays.on_device(y) as stream:
            work = arrays.workspace(cuda.projected_loss_workspace(y.shape[0], len(triplets)) if grad else 0, like=y)
            cuda.projected_loss(*arguments, arrays.address(work), stream)
    else:
        _core.lib.projected_loss(*arguments, _core.threads(num_threads))
    return losses, grad_y
