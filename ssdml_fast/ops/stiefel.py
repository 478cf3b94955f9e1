"""Updates of matrices with orthonormal columns."""

from __future__ import annotations

from typing import Any

from .. import _arrays as arrays
from .._run import stiefel as run


def cayley_update(L: Any, grad: Any, step: float, num_threads: int | None = None) -> Any:
    """Move L against a gradient by a Cayley retraction, which keeps its columns orthonormal.

    Parameters
    ----------
    L : (..., d, l) array
        Matrices with orthonormal columns, l <= d; float32 or float64. A torch parameter is read as its values.
    grad : (..., d, l) array
        Euclidean gradient of the objective at L.
    step : float
        Length of the step; a negative one ascends.
    num_threads : int, optional
        Threads on the CPU; by default what OMP_NUM_THREADS or threadpoolctl says, or all cores.

    Returns
    -------
    (..., d, l) array
        The updated matrices; L itself is unchanged. Not differentiable.

    Raises
    ------
    TypeError
        If L or grad is not of a type above, or they differ in type or place.
    ValueError
        If shapes do not fit, an entry or `step` is not finite, the columns of L are not orthonormal, `step` times the
        gradient is so large that the result overflows, or `num_threads` is out of range.

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

        return _torch.ops.cayley_update(L.detach(), grad.detach(), step, num_threads)
    return run.cayley_update(L, grad, step, num_threads)


def qr_retraction(L: Any, direction: Any, num_threads: int | None = None) -> Any:
    """Move L along a tangent direction and back to the manifold by a QR decomposition.

    Parameters
    ----------
    L : (..., d, l) array
        Matrices with orthonormal columns, l <= d; float32 or float64. A torch parameter is read as its values.
    direction : (..., d, l) array
        Where to move, the length of the step included; as a rule tangent at L.
    num_threads : int, optional
        Threads on the CPU; by default what OMP_NUM_THREADS or threadpoolctl says, or all cores.

    Returns
    -------
    (..., d, l) array
        Q of L + direction = Q R with positive diagonal of R. Not differentiable.

    Raises
    ------
    TypeError
        If L or direction is not of a type above, or they differ in type or place.
    ValueError
        If shapes do not fit, an entry is not finite, the columns of L are not orthonormal, or `num_threads` is out of
        range.

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
    return run.qr_retraction(L, direction, num_threads)


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
    return run.polar_retraction(*arrays.adopt(L=L, direction=direction))
