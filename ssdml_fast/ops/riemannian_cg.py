"""Minimisation of the angular loss over the metric."""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import _arrays as arrays
from .._run import riemannian_cg as run


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
    num_threads: int | None = None,
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
    num_threads : int, optional
        Threads on the CPU; by default what OMP_NUM_THREADS or threadpoolctl says, or all cores.

    Returns
    -------
    CgResult
        The metric reached, its loss and gradient norm, and the work done. The loss is no greater than at the start, and
        the columns of L are orthonormal up to rounding.
        While a CUDA graph is recorded the four numbers are 0-dimensional arrays on the device, and L is taken to be
        orthonormal.

    Raises
    ------
    TypeError
        If an argument is not of a type above or lies elsewhere than L.
    ValueError
        If shapes do not fit, an entry is not finite, the columns of L are not orthonormal, or an index, `alpha`,
        `iterations`, `reduction` or `num_threads` is out of range.

    Notes
    -----
    Manopt's method and defaults, as in Dutta, Harandi, Sekhar, AAAI 2021: embedded metric, QR retraction, transport by
    projection, the Hestenes-Stiefel rule, an adaptive line search of at most ten evaluations, and stops at a gradient
    norm of 1e-6 or a step of 1e-10. It stops as well where a gradient or a gain is no more than rounding: at once for a
    square L, on whose manifold the loss is constant. O(M d l + d l²) per iteration, where M is the number of points
    that occur in triplets. On a CUDA device one kernel takes all the steps and their decisions; the host waits for its
    result once, at the end. Boumal et al., "Manopt, a Matlab toolbox for optimization on manifolds", JMLR 2014.

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
    if arrays.is_compiling(L):
        from .. import _torch

        operands = (L.detach(), z.detach(), triplets, alpha, iterations, reduction, weight, num_threads)
        return CgResult(*_torch.ops.riemannian_cg(*operands))
    return CgResult(*run.riemannian_cg(L, z, triplets, alpha, iterations, reduction, weight, num_threads))
