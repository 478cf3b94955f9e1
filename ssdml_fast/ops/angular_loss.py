"""Angular triplet loss."""

from __future__ import annotations

from typing import Any

from .. import _arrays as arrays
from .. import _scalars as scalars
from .._run import angular_loss as run


def angular_loss(
    z: Any,
    triplets: Any,
    L: Any,
    alpha: float = 40.0,
    reduction: str = "sum",
    weight: Any = None,
    num_threads: int | None = None,
) -> Any:
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
    num_threads : int, optional
        Threads on the CPU; by default what OMP_NUM_THREADS or threadpoolctl says, or all cores.

    Returns
    -------
    array
        Scalar, or (T,) for ``reduction="none"``, in the type of z (float32 for half precisions).

    Raises
    ------
    TypeError
        If an argument is not of a type above, or lies elsewhere than z.
    ValueError
        If shapes do not fit, z or L is not finite, or an index, `alpha`, `reduction` or `num_threads` is out of range.
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
        from .._torch import angular_loss as differentiable

        return differentiable.angular_loss(z, triplets, L, alpha, reduction, weight, num_threads)
    z, triplets, L, alpha, weight, num_threads = run.check(z, triplets, L, alpha, reduction, weight, num_threads)
    found = run.forward(z, triplets, L, alpha, weight, num_threads, losses=reduction == "none", grad=False)
    return run.reduced(found, triplets, weight, reduction)


def angular_loss_and_grad(
    z: Any,
    triplets: Any,
    L: Any,
    alpha: float = 40.0,
    reduction: str = "sum",
    weight: Any = None,
    num_threads: int | None = None,
) -> tuple[Any, Any, Any]:
    """Angular loss together with its gradients with respect to z and L, without autograd.

    Parameters
    ----------
    z, triplets, L, alpha, reduction, weight, num_threads
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
    scalars.as_choice(reduction, "reduction", ("sum", "mean"))
    z, triplets, L, weight = arrays.adopt(z=z, triplets=triplets, L=L, weight=weight)
    z, triplets, L, alpha, weight, num_threads = run.check(z, triplets, L, alpha, reduction, weight, num_threads)
    found = run.forward(z, triplets, L, alpha, weight, num_threads, losses=False, grad=True)
    scale = 1 / max(len(triplets), 1) if reduction == "mean" else 1
    return run.reduced(found, triplets, weight, reduction), *run.backward(found, len(z), L, scale, num_threads)
