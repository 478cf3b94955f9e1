"""Updates of matrices with orthonormal columns.

Kernels: ``csrc/stiefel/`` and ``csrc/riemannian_cg/``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import _arrays as arrays
from .. import _core
from . import angular_loss as angular_loss_op

TOLERANCE = {"float32": 1e-3, "float64": 1e-6}
"""How far LᵀL may be from the identity before L is refused."""


def cayley_update(L: Any, grad: Any, step: float) -> Any:
    """Move L against a gradient by a Cayley retraction, which keeps its columns orthonormal.

    Parameters
    ----------
    L : (..., d, l) array
        Matrices with orthonormal columns, l <= d; float32 or float64. A torch parameter is read as its values.
    grad : (..., d, l) array
        Euclidean gradient of the objective at L.
    step : float
        Length of the step; a negative one ascends.

    Returns
    -------
    (..., d, l) array
        The updated matrices; L itself is unchanged. Not differentiable.

    Raises
    ------
    TypeError
        If L or grad is not of a type above, or they differ in type or place.
    ValueError
        If shapes do not fit, an entry or `step` is not finite, the columns of L are not orthonormal, or `step` times
        the gradient is so large that the result overflows.

    Notes
    -----
    With A = grad Lᵀ - L gradᵀ (skew), the update is L(τ) = (I + τ/2 A)⁻¹ (I - τ/2 A) L, the curve of Wen & Yin, "A
    feasible method for optimization with orthogonality constraints", Mathematical Programming 2013. A has rank at most
    2 l, so the d x d solve reduces to one of l x l: time O(d l² + l³). Each update also pulls L back towards the
    manifold, so rounding does not accumulate.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> L = np.array([[1.0], [0.0]])
    >>> sf.cayley_update(L, grad=np.array([[0.0], [-1.0]]), step=2.0)  # a quarter turn
    array([[0.],
           [1.]])
    """
    L, grad = arrays.adopt(L=L, grad=grad)
    if arrays.is_compiling(L):
        from .. import _torch

        return _torch.ops.cayley_update(L.detach(), grad.detach(), step)
    return compute(L, grad, step)


def qr_retraction(L: Any, direction: Any) -> Any:
    """Move L along a tangent direction and back to the manifold by a QR decomposition.

    Parameters
    ----------
    L : (..., d, l) array
        Matrices with orthonormal columns, l <= d; float32 or float64. A torch parameter is read as its values.
    direction : (..., d, l) array
        Where to move, the length of the step included; as a rule tangent at L.

    Returns
    -------
    (..., d, l) array
        Q of L + direction = Q R with positive diagonal of R. Not differentiable.

    Raises
    ------
    TypeError
        If L or direction is not of a type above, or they differ in type or place.
    ValueError
        If shapes do not fit, an entry is not finite, or the columns of L are not orthonormal.

    Notes
    -----
    A first-order retraction; Absil, Mahony & Sepulchre, "Optimization Algorithms on Matrix Manifolds", 2008, example
    4.1.3. By the Cholesky factor of the Gram matrix where that is well conditioned, as it is after a tangent step, and
    otherwise (and on CUDA) by Householder reflections. Time O(d l²).

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> sf.qr_retraction(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])).round(4)
    array([[0.7071],
           [0.7071]])
    """
    L, direction = arrays.adopt(L=L, direction=direction)
    L, direction = _matrices(L, direction, "direction")
    if not (arrays.is_cuda(L) or arrays.is_compiling(L)):
        dtype = arrays.dtype_name(L)
        d, l = L.shape[-2:]
        q = arrays.empty(tuple(L.shape), dtype, like=L)
        drift, is_accurate = _core.lib.qr_retraction(
            dtype,
            arrays.address(L),
            arrays.address(direction),
            math.prod(L.shape[:-2]),
            d,
            l,
            arrays.address(q),
            arrays.as_threads(None),
        )
        if is_accurate and drift <= TOLERANCE[dtype]:
            return q
        _check_finite(L, direction, "direction")
        _check_drift(drift, dtype)
    else:
        _check_finite(L, direction, "direction")
        _check_orthonormal(L)
    xp = arrays.namespace(L, "L")
    q, r = xp.linalg.qr(L + direction)
    diagonal = xp.diagonal(r, 0, -2, -1)
    return q * xp.where(diagonal < 0, -xp.ones_like(diagonal), xp.ones_like(diagonal))[..., None, :]


def polar_retraction(L: Any, direction: Any) -> Any:
    """Move L along a tangent direction and to the nearest matrix with orthonormal columns.

    Parameters
    ----------
    L : (..., d, l) array
        Matrices with orthonormal columns, l <= d; float32 or float64. A torch parameter is read as its values.
    direction : (..., d, l) array
        Where to move, the length of the step included; as a rule tangent at L.

    Returns
    -------
    (..., d, l) array
        The polar factor Y (YᵀY)^(-1/2) of Y = L + direction. Not differentiable.

    Raises
    ------
    TypeError, ValueError
        As :func:`qr_retraction`.

    Notes
    -----
    A second-order retraction, by a singular value decomposition; Absil, Mahony & Sepulchre, "Optimization Algorithms
    on Matrix Manifolds", 2008, example 4.1.3. Time O(d l²), several times that of :func:`qr_retraction`.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> sf.polar_retraction(np.eye(2), np.array([[0.0, -1.0], [1.0, 0.0]])).round(4)
    array([[ 0.7071, -0.7071],
           [ 0.7071,  0.7071]])
    """
    L, direction = arrays.adopt(L=L, direction=direction)
    L, direction = _matrices(L, direction, "direction")
    _check_finite(L, direction, "direction")
    _check_orthonormal(L)
    u, _, vh = arrays.namespace(L, "L").linalg.svd(L + direction, full_matrices=False)
    return u @ vh


class CgResult(NamedTuple):
    """Where :func:`riemannian_cg` ended.

    Attributes
    ----------
    L : (d, l) array
        Metric with orthonormal columns.
    loss : float
        Loss at L.
    grad_norm : float
        Frobenius norm of the Riemannian gradient at L.
    iterations : int
        Steps taken.
    evaluations : int
        How often the loss was computed.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> sf.riemannian_cg(np.eye(2), np.zeros((3, 2)), np.array([[0, 1, 2]])).iterations
    0
    """

    L: Any
    loss: float
    grad_norm: float
    iterations: int
    evaluations: int


def riemannian_cg(
    L: Any,
    z: Any,
    triplets: Any,
    alpha: float = 40.0,
    iterations: int = 10,
    reduction: str = "sum",
    weight: Any = None,
) -> CgResult:
    """Minimise the angular loss of fixed points over the metric L by Riemannian conjugate gradients.

    Parameters
    ----------
    L : (d, l) array
        Where to start: orthonormal columns, l <= d; float32 or float64. A torch parameter is read as its values.
    z : (N, d) array
        Points.
    triplets : (T, 3) integer array
        Rows (anchor, positive, negative) of indices into z.
    alpha : float
        Upper bound of the angle at the negative, in degrees, between 0 and 90.
    iterations : int
        Steps at most.
    reduction : {"sum", "mean"}
        What to minimise. It scales the gradient, and with it the stopping rule.
    weight : (T,) array, optional
        Nonnegative factor of each triplet's loss.

    Returns
    -------
    CgResult
        The metric reached, its loss and gradient norm, and the work done. The loss is no greater than at the start.
        While a CUDA graph is recorded the four numbers are 0-dimensional arrays on the device, and L is taken to be
        orthonormal.

    Raises
    ------
    TypeError
        If an argument is not of a type above or lies elsewhere than L.
    ValueError
        If shapes do not fit, an entry is not finite, the columns of L are not orthonormal, or an index, `alpha`,
        `iterations` or `reduction` is out of range.

    Notes
    -----
    Manopt's method and defaults, as in Dutta, Harandi, Sekhar, AAAI 2021: embedded metric, QR retraction, transport by
    projection, the Hestenes-Stiefel rule, an adaptive line search, and stops at a gradient norm of 1e-6 or a step of
    1e-10. O(M d l + d l²) per iteration, where M is the number of points that occur in triplets. On a CUDA device one
    kernel takes all the steps and their decisions; the host waits for its result once, at the end. Boumal et al.,
    "Manopt, a Matlab toolbox for optimization on manifolds", JMLR 2014.

    Examples
    --------
    >>> import numpy as np, ssdml_fast as sf
    >>> z = np.array([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0]])  # positives differ along the second axis
    >>> start = np.array([[0.6], [0.8]])
    >>> sf.riemannian_cg(start, z, np.array([[0, 1, 2]])).L.round(2)
    array([[1.],
           [0.]])
    """
    L, z, triplets, weight = arrays.adopt(L=L, z=z, triplets=triplets, weight=weight)
    L = arrays.as_floats(L, "L", ndim=2)
    if not 1 <= L.shape[1] <= L.shape[0]:
        raise ValueError(f"L must have shape (d, l) with 1 <= l <= d, found {tuple(L.shape)}")
    z = arrays.as_floats(z, "z", ndim=2, like=L)
    angular_loss_op.check_operands(z, L)
    arrays.check_finite(L, "L")
    arrays.check_finite(z, "z")
    triplets = angular_loss_op.as_triplets(triplets, z)
    tan2_alpha = math.tan(math.radians(arrays.as_float(alpha, "alpha", 0, 90))) ** 2
    iterations = arrays.as_int(iterations, "iterations", 0)
    arrays.as_choice(reduction, "reduction", ("sum", "mean"))
    dtype = arrays.dtype_name(L)
    if weight is not None:
        weight = arrays.as_floats(weight, "weight", ndim=1, like=L)
        arrays.check_shape(weight, (len(triplets),), "weight", "one per triplet")
        arrays.check_finite(weight, "weight")
        weight = arrays.astype(weight, dtype)
    if reduction == "mean" and len(triplets):
        weight = (arrays.full((len(triplets),), 1, dtype, like=L) if weight is None else weight) / len(triplets)

    result = arrays.copy(L)
    arguments = (
        dtype,
        arrays.address(z),
        z.shape[0],
        z.shape[1],
        L.shape[1],
        arrays.address(triplets),
        len(triplets),
        tan2_alpha,
        arrays.address(weight),
        iterations,
        arrays.address(result),
    )
    if arrays.is_cuda(L):
        cuda = _core.cuda()
        with arrays.on_device(L) as stream:
            report = arrays.empty((5,), "float64", like=L)
            n_bytes = cuda.riemannian_cg_workspace(dtype, *z.shape, L.shape[1], len(triplets))
            work = arrays.workspace(n_bytes, like=L)
            cuda.riemannian_cg(*arguments, arrays.address(report), arrays.address(work), stream)
            if arrays.is_capturing(L):
                return CgResult(result, *report[:4])
            loss, grad_norm, steps, evaluations, drift = report.tolist()  # waits for the stream
    else:
        loss, grad_norm, steps, evaluations, drift = _core.lib.riemannian_cg(*arguments, arrays.as_threads(None))
    _check_drift(drift, dtype)
    return CgResult(result, loss, grad_norm, int(steps), int(evaluations))


def _check_drift(drift, dtype) -> None:
    if not drift <= TOLERANCE[dtype]:
        raise ValueError(
            f"L must have orthonormal columns, found |LᵀL - I| as large as {drift:.2g}; start from a QR decomposition"
        )


def _matrices(L, other, name):
    """Return L and another array of its shape and type, contiguous."""
    L = arrays.as_floats(L, "L")
    if L.ndim < 2 or not 1 <= L.shape[-1] <= L.shape[-2]:
        raise ValueError(f"L must have shape (..., d, l) with 1 <= l <= d, found {tuple(L.shape)}")
    other = arrays.as_floats(other, name, like=L)
    arrays.check_shape(other, tuple(L.shape), name, "the shape of L")
    if arrays.dtype_name(other) != arrays.dtype_name(L):
        raise TypeError(f"{name} must be of the type of L, {arrays.dtype_name(L)}, found {arrays.dtype_name(other)}")
    return L, other


def _check_finite(L, other, name) -> None:
    """Refuse NaN and infinities. Kernels of the CPU find out by themselves: no orthonormal result comes of them."""
    if not arrays.is_compiling(L):
        arrays.check_finite(L, "L")
        arrays.check_finite(other, name)


def _check_orthonormal(L) -> None:
    if not (arrays.is_compiling(L) or arrays.is_capturing(L)) and 0 not in L.shape:
        gram = arrays.namespace(L, "L").swapaxes(L, -1, -2) @ L
        identity = arrays.from_numpy(np.eye(L.shape[-1]), like=L)
        _check_drift(float(abs(gram - identity).max()), arrays.dtype_name(L))


def compute(L, grad, step):
    """Validate, allocate and run the kernel."""
    L, grad = _matrices(L, grad, "grad")
    dtype = arrays.dtype_name(L)
    step = arrays.as_float(step, "step")

    updated = arrays.empty(tuple(L.shape), dtype, like=L)
    d, l = L.shape[-2:]
    batch = math.prod(L.shape[:-2])
    arguments = (dtype, arrays.address(L), arrays.address(grad), batch, d, l, step, arrays.address(updated))
    if arrays.is_cuda(L):
        _check_finite(L, grad, "grad")
        cuda = _core.cuda()
        with arrays.on_device(L) as stream:
            drifts = arrays.empty((2,), "float64", like=L)
            work = arrays.workspace(cuda.cayley_update_workspace(dtype, batch, l), like=L)
            cuda.cayley_update(*arguments, arrays.address(drifts), arrays.address(work), stream)
            if arrays.is_capturing(L):
                return updated
            drift, updated_drift = drifts.tolist()  # waits for the stream: L may have to be refused
    else:
        drift, updated_drift = _core.lib.cayley_update(*arguments, arrays.as_threads(None))
        if not (drift <= TOLERANCE[dtype] and updated_drift <= TOLERANCE[dtype]):
            _check_finite(L, grad, "grad")
    _check_drift(drift, dtype)
    if not updated_drift <= TOLERANCE[dtype]:
        raise ValueError(f"step must be small enough for {dtype} with gradients of this size, found {step:g}")
    return updated
