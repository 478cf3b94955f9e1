"""Angular triplet loss. Kernel: ``csrc/angular_loss/``."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import _arrays as arrays
from .. import _core

REDUCTIONS = ("sum", "mean", "none")


def angular_loss(z: Any, triplets: Any, L: Any, alpha: float = 40.0, reduction: str = "sum", weight: Any = None) -> Any:
    """Angular loss of triplets of points under the metric L; differentiable in z, L and weight for torch tensors.

    Parameters
    ----------
    z : (N, d) array
        Points, float32 or float64; float16 and bfloat16 torch tensors are projected as they are (autocast included)
        and their loss computed in float32.
    triplets : (T, 3) integer array
        Rows (anchor, positive, negative) of indices into z, in [0, N). An index may occur any number of times.
    L : (d, l) array
        Metric; points are compared after projection to ``z @ L``.
    alpha : float
        Upper bound of the angle at the negative, in degrees, between 0 and 90 (paper: 40 or 45).
    reduction : {"sum", "mean", "none"}
        Sum or mean over the triplets (0 for none at all), or the loss of each.
    weight : (T,) array, optional
        Factor of each triplet's loss.

    Returns
    -------
    array
        Scalar, or (T,) for ``reduction="none"``, in the type of z (float32 for half precisions).

    Raises
    ------
    TypeError
        If an argument is not of a type above, or lies elsewhere than z.
    ValueError
        If shapes do not fit, z or L is not finite, or an index, `alpha` or `reduction` is out of range.
    RuntimeError
        On differentiating twice, which is not supported.

    Notes
    -----
    With y = Lᵀz and t = tan² alpha, a triplet (i, p, q) costs log(1 + exp m), where

        m = ‖y_i - y_p‖² - 4 t ‖y_q - (y_i + y_p) / 2‖².

    Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017; under L in Dutta, Harandi, Sekhar, AAAI 2021.
    Products with L are those of the arrays' library; on a CUDA device in TF32 only where that was told to use it.
    No T x d or T x l array is formed, and gradients of eager sums and means are the same for any number of threads.
    Time O(N d + min(N, 3 T) d l + T l): on the CPU, where few points occur in triplets, only those are projected. The
    sum and the mean are found together with their gradients, in one pass over the triplets; the gradients of "none"
    take a second one. torch.compile (also ``fullgraph=True``), autocast and ``torch.func.grad`` are supported;
    ``torch.func.vmap``, forward-mode derivatives and second derivatives are not.

    Examples
    --------
    >>> import torch, ssdml_fast as sf
    >>> z = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    >>> loss = sf.angular_loss(z, torch.tensor([[0, 1, 2]]), torch.eye(2))
    >>> round(loss.item(), 4)
    0.0036
    >>> loss.backward()
    >>> z.grad.sum(0)  # the three gradients of a triplet cancel
    tensor([0., 0.])
    """
    z, triplets, L, weight = arrays.adopt(z=z, triplets=triplets, L=L, weight=weight)
    if arrays.is_torch(z):
        from .. import _torch

        return _torch.angular_loss(z, triplets, L, alpha, reduction, weight)
    return compute(z, triplets, L, alpha, reduction, weight, grad=False)[0]


def angular_loss_and_grad(
    z: Any, triplets: Any, L: Any, alpha: float = 40.0, reduction: str = "sum", weight: Any = None
) -> tuple[Any, Any, Any]:
    """Angular loss together with its gradients with respect to z and L, without autograd.

    Parameters
    ----------
    z, triplets, L, alpha, reduction, weight
        As for :func:`angular_loss`; `reduction` is ``"sum"`` or ``"mean"``.

    Returns
    -------
    loss : scalar
    grad_z : (N, d) array
    grad_L : (d, l) array

    Raises
    ------
    TypeError, ValueError
        As :func:`angular_loss`.

    Notes
    -----
    With s = sigmoid(m), a = y_i - y_p and b = y_q - (y_i + y_p) / 2, the projected points receive s (2 a + 4 t b),
    s (-2 a + 4 t b) and -8 t s b; then grad_z = grad_y Lᵀ and grad_L = zᵀ grad_y.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> z = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    >>> loss, grad_z, grad_L = sf.angular_loss_and_grad(z, np.array([[0, 1, 2]]), np.eye(2))
    >>> grad_z.shape, grad_L.shape
    ((3, 2), (2, 2))
    """
    arrays.as_choice(reduction, "reduction", ("sum", "mean"))
    z, triplets, L, weight = arrays.adopt(z=z, triplets=triplets, L=L, weight=weight)
    loss, found, n, L = compute(z, triplets, L, alpha, reduction, weight, grad=True)
    return loss, *backproject(found, n, L, 1 / max(len(triplets), 1) if reduction == "mean" else 1)


def compute(z, triplets, L, alpha, reduction, weight, grad):
    """Validate and run the kernel.

    Returns the loss and, for `backproject`, what the kernel found (with gradients if asked for), the number of points
    and L validated.
    """
    z = arrays.as_floats(z, "z", ndim=2, halves=True)
    L = arrays.as_floats(L, "L", ndim=2, like=z, halves=True)
    check_operands(z, L)
    reduction = arrays.as_choice(reduction, "reduction", REDUCTIONS)
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
    return math.tan(math.radians(arrays.as_float(alpha, "alpha", 0, 90))) ** 2


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
    threads = arrays.as_threads(None)
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
    threads = arrays.as_threads(None)
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
        _core.lib.angular_loss(*arguments, arrays.as_threads(None))
    return losses, grad_y
