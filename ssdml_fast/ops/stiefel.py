"""Updates of matrices with orthonormal columns. Kernel: ``csrc/stiefel.cpp`` (CPU), ``csrc/stiefel.cu`` (CUDA)."""

from __future__ import annotations

import math
from typing import Any

from .. import _arrays as arrays
from .. import _core

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
    if arrays.is_compiling(L):
        from .. import _torch

        return _torch.ops.cayley_update(L.detach(), grad.detach(), step)
    return compute(L, grad, step)


def compute(L, grad, step):
    """Validate, allocate and run the kernel."""
    L = arrays.as_floats(L, "L")
    if L.ndim < 2 or not 1 <= L.shape[-1] <= L.shape[-2]:
        raise ValueError(f"L must have shape (..., d, l) with 1 <= l <= d, found {tuple(L.shape)}")
    grad = arrays.as_floats(grad, "grad", like=L)
    arrays.check_shape(grad, tuple(L.shape), "grad", "the shape of L")
    dtype = arrays.dtype_name(L)
    if arrays.dtype_name(grad) != dtype:
        raise TypeError(f"grad must be of the type of L, {dtype}, found {arrays.dtype_name(grad)}")
    arrays.check_finite(L, "L")
    arrays.check_finite(grad, "grad")
    step = arrays.as_float(step, "step")

    updated = arrays.empty(tuple(L.shape), dtype, like=L)
    d, l = L.shape[-2:]
    batch = math.prod(L.shape[:-2])
    arguments = (dtype, arrays.address(L), arrays.address(grad), batch, d, l, step, arrays.address(updated))
    if arrays.is_cuda(L):
        cuda = _core.cuda()
        with arrays.on_device(L) as stream:
            drifts = arrays.empty((2,), "float64", like=L)
            work = arrays.workspace(cuda.cayley_update_workspace(dtype, batch, l), like=L)
            cuda.cayley_update(*arguments, arrays.address(drifts), arrays.address(work), stream)
            drift, updated_drift = drifts.tolist()  # waits for the stream: L may have to be refused
    else:
        drift, updated_drift = _core.lib.cayley_update(*arguments, arrays.as_threads(None))
    if not drift <= TOLERANCE[dtype]:
        raise ValueError(
            f"L must have orthonormal columns, found |LᵀL - I| as large as {drift:.2g}; start from a QR decomposition"
        )
    if not updated_drift <= TOLERANCE[dtype]:
        raise ValueError(f"step must be small enough for {dtype} with gradients of this size, found {step:g}")
    return updated
