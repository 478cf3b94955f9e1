"""Checks, allocates and calls the kernel of ``csrc/riemannian_cg/``."""

from __future__ import annotations

from .. import _arrays as arrays
from .. import _core
from .. import _scalars as scalars
from .angular_loss import as_triplets, check_metric, tan2
from .stiefel import check_drift


def riemannian_cg(L, z, triplets, alpha, iterations, reduction, weight, num_threads):
    """Return the fields of CgResult; its numbers stay on a device, as arrays, where values there are trusted."""
    L = arrays.as_floats(L, "L", ndim=2)
    if not 1 <= L.shape[1] <= L.shape[0]:
        raise ValueError(f"L must have shape (d, l) with 1 <= l <= d, found {tuple(L.shape)}")
    z = arrays.as_floats(z, "z", ndim=2, like=L)
    check_metric(z, L)
    arrays.check_finite(L, "L")
    arrays.check_finite(z, "z")
    triplets = as_triplets(triplets, z)
    alpha = scalars.as_float(alpha, "alpha", 0, 90)
    iterations = scalars.as_int(iterations, "iterations", 0)
    scalars.as_choice(reduction, "reduction", ("sum", "mean"))
    num_threads = scalars.as_threads(num_threads)
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
        tan2(alpha),
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
            if arrays.is_trusted(L):
                return (result, *report[:4])
            loss, grad_norm, steps, evaluations, drift = report.tolist()  # waits for the stream
    else:
        loss, grad_norm, steps, evaluations, drift = _core.lib.riemannian_cg(*arguments, _core.threads(num_threads))
    check_drift(drift, dtype)
    return result, loss, grad_norm, int(steps), int(evaluations)
