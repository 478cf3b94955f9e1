"""Registers the operations with torch; imported only once a torch tensor has been seen.

Registered operators are what torch.compile can trace through and autograd can differentiate; one block per operation.
Each runs the very function that serves eager calls, so validation happens there, at run time.
"""

from __future__ import annotations

import torch

from . import _arrays as arrays
from .graph import KnnGraph
from .ops import affinity as affinity_op
from .ops import angular_loss as angular_loss_op
from .ops import knn_graph as knn_graph_op
from .ops import mine_class_triplets as mine_class_triplets_op
from .ops import mine_triplets as mine_triplets_op
from .ops import stiefel as stiefel_op

_library = torch.library.Library("ssdml_fast", "DEF")
ops = torch.ops.ssdml_fast
_KEY = "CompositeExplicitAutograd"  # one implementation for every device, below autograd


# ---- knn_graph -------------------------------------------------------------------------------------------------------
_library.define("knn_graph(Tensor x, int k, str metric, Tensor? ptr, int? num_threads) -> (Tensor, Tensor)")


def _knn_graph(x, k, metric, ptr, num_threads):
    return knn_graph_op.compute(x, k, metric, ptr, num_threads)[:2]


def _knn_graph_fake(x, k, metric, ptr, num_threads):
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    return x.new_empty((x.shape[0], k), dtype=torch.int64), x.new_empty((x.shape[0], k), dtype=dtype)


_library.impl("knn_graph", _knn_graph, _KEY)
torch.library.register_fake("ssdml_fast::knn_graph", _knn_graph_fake, lib=_library)


# ---- affinity --------------------------------------------------------------------------------------------------------
_library.define(
    "propagate_affinity(Tensor indices, Tensor? distances, Tensor? ptr, Tensor? weights, Tensor labels, float gamma, "
    "float tol, int? num_threads) -> "
    "(Tensor values, Tensor class_mass, Tensor classes, Tensor iterations, Tensor error_bound)"
)


def _propagate_affinity(indices, distances, ptr, weights, labels, gamma, tol, num_threads):
    graph = KnnGraph(indices, distances, ptr, weights, _validated=arrays.is_capturing(indices))
    values, mass, classes, iterations, bound = affinity_op.compute(graph, labels, gamma, tol, num_threads)
    return values, mass, classes, torch.tensor(iterations), torch.tensor(bound, dtype=torch.float64)


def _propagate_affinity_fake(indices, distances, ptr, weights, labels, gamma, tol, num_threads):
    dtype = torch.float64 if distances is None else distances.dtype
    classes = torch.library.get_ctx().new_dynamic_size()
    return (
        indices.new_empty(indices.shape, dtype=dtype),
        indices.new_empty((indices.shape[0], classes), dtype=dtype),
        indices.new_empty((classes,), dtype=torch.int64),
        torch.empty((), dtype=torch.int64),
        torch.empty((), dtype=torch.float64),
    )


_library.impl("propagate_affinity", _propagate_affinity, _KEY)
torch.library.register_fake("ssdml_fast::propagate_affinity", _propagate_affinity_fake, lib=_library)


_library.define(
    "propagate_labels(Tensor indices, Tensor? distances, Tensor? ptr, Tensor? weights, Tensor labels, float gamma, "
    "float tol, int? num_threads) -> (Tensor posteriors, Tensor classes, Tensor iterations, Tensor error_bound)"
)


def _propagate_labels(indices, distances, ptr, weights, labels, gamma, tol, num_threads):
    graph = KnnGraph(indices, distances, ptr, weights, _validated=arrays.is_capturing(indices))
    posteriors, classes, iterations, bound = affinity_op.compute_labels(graph, labels, gamma, tol, num_threads)
    return posteriors, classes, torch.tensor(iterations), torch.tensor(bound, dtype=torch.float64)


def _propagate_labels_fake(indices, distances, ptr, weights, labels, gamma, tol, num_threads):
    dtype = torch.float64 if distances is None else distances.dtype
    classes = torch.library.get_ctx().new_dynamic_size()
    return (
        indices.new_empty((indices.shape[0], classes), dtype=dtype),
        indices.new_empty((classes,), dtype=torch.int64),
        torch.empty((), dtype=torch.int64),
        torch.empty((), dtype=torch.float64),
    )


_library.impl("propagate_labels", _propagate_labels, _KEY)
torch.library.register_fake("ssdml_fast::propagate_labels", _propagate_labels_fake, lib=_library)


# ---- mine_triplets ---------------------------------------------------------------------------------------------------
_library.define("mine_triplets(Tensor indices, Tensor? distances, Tensor affinity, Tensor? anchors) -> Tensor")


def _mine_triplets(indices, distances, affinity, anchors):
    graph = KnnGraph(indices, distances, _validated=arrays.is_capturing(indices))  # looks at no value while recording
    return mine_triplets_op.compute(graph, affinity, anchors)


def _mine_triplets_fake(indices, distances, affinity, anchors):
    count = indices.shape[0] if anchors is None else anchors.shape[0]
    return indices.new_empty((count * (indices.shape[1] // 2), 3), dtype=torch.int64)


_library.impl("mine_triplets", _mine_triplets, _KEY)
torch.library.register_fake("ssdml_fast::mine_triplets", _mine_triplets_fake, lib=_library)


# ---- mine_class_triplets ---------------------------------------------------------------------------------------------
_library.define(
    "mine_class_triplets(Tensor posteriors, int n_triplets, float min_confidence, int seed, bool balanced, Tensor? z, "
    "int n_nearest, int? num_threads) -> Tensor"
)


def _mine_class_triplets_fake(posteriors, n_triplets, min_confidence, seed, balanced, z, n_nearest, num_threads):
    count = torch.library.get_ctx().new_dynamic_size()  # n_triplets or, where none can be drawn, 0
    return posteriors.new_empty((count, 3), dtype=torch.int64)


_library.impl("mine_class_triplets", mine_class_triplets_op.compute, _KEY)
torch.library.register_fake("ssdml_fast::mine_class_triplets", _mine_class_triplets_fake, lib=_library)


# ---- angular_loss ----------------------------------------------------------------------------------------------------
# Operators see projected points only: autograd's own backward of z @ L is the two matrix products that remain.
# `angular_loss` finds the sum and its gradient in one pass; `angular_losses` are for those who want the loss of each
# triplet, whose gradient waits for that of the losses, and for those who want no gradient. Eager calls need no
# operator: _EagerAngularLoss takes them from z and L to their gradients, products included.
_library.define(
    "angular_loss(Tensor y, Tensor triplets, Tensor? weight, float alpha, bool mean) "
    "-> (Tensor loss, Tensor losses, Tensor grad_y)"
)
_library.define("angular_losses(Tensor y, Tensor triplets, float alpha) -> Tensor")
_library.define("angular_losses_backward(Tensor grad_losses, Tensor y, Tensor triplets, float alpha) -> Tensor")


def angular_loss(z, triplets, L, alpha, reduction, weight):
    """Angular loss as a differentiable function of z, L and weight; see ops/angular_loss.py."""
    is_compiling, is_transformed = arrays.is_compiling(z), torch._C._are_functorch_transforms_active()
    is_autocast = torch.is_autocast_enabled(z.device.type)
    is_plain = not (is_compiling or is_transformed or is_autocast)
    is_differentiated = torch.is_grad_enabled() and any(arrays.is_torch(x) and x.requires_grad for x in (z, L, weight))
    if is_plain and not is_differentiated:
        return angular_loss_op.compute(z, triplets, L, alpha, reduction, weight, grad=False)[0]
    arrays.as_choice(reduction, "reduction", angular_loss_op.REDUCTIONS)
    z, L = arrays.check_floats(z, "z", ndim=2), arrays.check_floats(L, "L", ndim=2, like=z)
    if not is_autocast:
        z, L = arrays.at_least_float32(z), arrays.at_least_float32(L)
        angular_loss_op.check_operands(z, L)
    if weight is not None:
        weight = arrays.check_floats(weight, "weight", ndim=1, like=z)
        arrays.check_like(triplets, "triplets", like=z)
        arrays.check_shape(weight, (triplets.shape[0],), "weight", "one per triplet")
        weight = weight.to(torch.float32 if is_autocast else z.dtype)
        if not (is_compiling or is_transformed):
            arrays.check_finite(weight.detach(), "weight")
    is_reduced, mean = reduction != "none" and is_differentiated, reduction == "mean"
    if is_plain and is_reduced:
        return _EagerAngularLoss.apply(z, L, triplets, weight, alpha, mean)
    arrays.check_like(triplets, "triplets", like=z)
    alpha = arrays.as_float(alpha, "alpha", 0, 90)
    y = arrays.at_least_float32(z @ L)
    if is_reduced:
        run = ops.angular_loss if is_compiling else _AngularLoss.apply
        return run(y, triplets, weight, alpha, mean)[0]
    losses = (ops.angular_losses if is_compiling else _AngularLosses.apply)(y, triplets, alpha)
    if weight is not None:
        losses = losses * weight
    return angular_loss_op.reduce(losses, reduction)


def _angular_loss(y, triplets, weight, alpha, mean):
    y, triplets = _angular_loss_operands(y, triplets)
    weight = None if weight is None else arrays.contiguous(weight)
    losses, grad_y = angular_loss_op.run(y, triplets, alpha, weight, losses=True, grad=True)
    loss = losses.sum() if weight is None else losses.dot(weight)
    return loss / max(len(triplets), 1) if mean else loss, losses, grad_y


def _angular_losses(y, triplets, alpha):
    y, triplets = _angular_loss_operands(y, triplets)
    return angular_loss_op.run(y, triplets, alpha, None, losses=True, grad=False)[0]


def _angular_losses_backward(grad_losses, y, triplets, alpha):
    y, triplets = _angular_loss_operands(y, triplets)
    return angular_loss_op.run(y, triplets, alpha, arrays.contiguous(grad_losses), losses=False, grad=True)[1]


def _angular_loss_operands(y, triplets):
    y = arrays.contiguous(y)
    arrays.check_finite(y, "z @ L")
    return y, angular_loss_op.as_triplets(triplets, y)


def _angular_loss_context(ctx, inputs, output):
    y, triplets, weight, _, mean = inputs
    _, losses, grad_y = output
    ctx.count = max(triplets.shape[0], 1) if mean else 1
    ctx.mark_non_differentiable(losses, grad_y)
    ctx.save_for_backward(y, grad_y, None if weight is None else losses)


def _angular_loss_backward(ctx, grad_loss, *_):
    y, grad_y, losses = ctx.saved_tensors
    if ctx.count > 1:
        grad_loss = grad_loss / ctx.count
    grads = [grad_loss * grad_y] if losses is None else [grad_loss * grad_y, grad_loss * losses]
    if torch.is_grad_enabled():  # for a second derivative, which then reaches _no_double_backward
        grads = [_DifferentiableOnce.apply(grad, y) for grad in grads]
    return grads[0], None, grads[1] if len(grads) > 1 else None, None, None


def _angular_losses_context(ctx, inputs, output):
    y, triplets, ctx.alpha = inputs
    ctx.save_for_backward(y, triplets)


def _angular_losses_autograd(ctx, grad_losses, backward):
    y, triplets = ctx.saved_tensors
    return backward(grad_losses, y, triplets, ctx.alpha), None, None


def _no_context(ctx, inputs, output):
    pass


def _no_double_backward(ctx, *grads):
    raise RuntimeError("angular_loss cannot be differentiated twice: its gradient is computed by a kernel of its own")


# The same three for calls that are not compiled: torch.func wants Functions with a setup_context of their own.
class _AngularLoss(torch.autograd.Function):
    forward = staticmethod(_angular_loss)
    setup_context = staticmethod(_angular_loss_context)
    backward = staticmethod(_angular_loss_backward)


class _AngularLosses(torch.autograd.Function):
    forward = staticmethod(_angular_losses)
    setup_context = staticmethod(_angular_losses_context)
    backward = staticmethod(lambda ctx, grad: _angular_losses_autograd(ctx, grad, _AngularLossesBackward.apply))


class _AngularLossesBackward(torch.autograd.Function):
    forward = staticmethod(_angular_losses_backward)
    setup_context = staticmethod(_no_context)
    backward = staticmethod(_no_double_backward)


class _EagerAngularLoss(torch.autograd.Function):
    """The whole loss of z and L for plain eager calls, where every node of the graph costs as much as a small kernel.

    No setup_context: calling a Function that has one takes longer still.
    """

    @staticmethod
    def forward(ctx, z, L, triplets, weight, alpha, mean):
        operands = arrays.contiguous(z), triplets, arrays.contiguous(L), alpha
        weight = None if weight is None else arrays.contiguous(weight)
        found = angular_loss_op.evaluate(*operands, weight, losses=ctx.needs_input_grad[3], grad=True)
        ctx.count, ctx.used = max(triplets.shape[0], 1) if mean else 1, found.used
        ctx.save_for_backward(z, L, *found[1:4], found.rows)
        return found.loss / ctx.count if mean else found.loss

    @staticmethod
    def backward(ctx, grad_loss):
        z, L, losses, grad_y, points, rows = ctx.saved_tensors
        scale, wanted = grad_loss.detach(), ctx.needs_input_grad
        if ctx.count > 1:
            scale = scale / ctx.count
        found = angular_loss_op.Found(None, losses, grad_y, arrays.contiguous(points), ctx.used, rows)
        grads = [*angular_loss_op.backproject(found, z.shape[0], arrays.contiguous(L), scale, wanted), None]
        if wanted[3]:
            grads[2] = scale * losses
        if torch.is_grad_enabled():  # for a second derivative, which then reaches _no_double_backward
            grads = [grad if grad is None else _DifferentiableOnce.apply(grad, z, L) for grad in grads]
        return grads[0], grads[1], None, grads[2], None, None


class _DifferentiableOnce(torch.autograd.Function):
    """A gradient as it is, known to depend on the inputs in a way that cannot be differentiated."""

    forward = staticmethod(lambda grad, *inputs: grad.view_as(grad))
    setup_context = staticmethod(_no_context)
    backward = staticmethod(_no_double_backward)


_library.impl("angular_loss", _angular_loss, _KEY)
_library.impl("angular_losses", _angular_losses, _KEY)
_library.impl("angular_losses_backward", _angular_losses_backward, _KEY)
torch.library.register_fake(
    "ssdml_fast::angular_loss",
    lambda y, triplets, weight, alpha, mean: (
        y.new_empty(()),
        y.new_empty((triplets.shape[0],)),
        torch.empty_like(y, memory_format=torch.contiguous_format),
    ),
    lib=_library,
)
torch.library.register_fake(
    "ssdml_fast::angular_losses", lambda y, triplets, alpha: y.new_empty((triplets.shape[0],)), lib=_library
)
torch.library.register_fake(
    "ssdml_fast::angular_losses_backward",
    lambda grad_losses, y, triplets, alpha: torch.empty_like(y, memory_format=torch.contiguous_format),
    lib=_library,
)
torch.library.register_autograd(
    "ssdml_fast::angular_loss", _angular_loss_backward, setup_context=_angular_loss_context, lib=_library
)
torch.library.register_autograd(
    "ssdml_fast::angular_losses",
    lambda ctx, grad: _angular_losses_autograd(ctx, grad, ops.angular_losses_backward),
    setup_context=_angular_losses_context,
    lib=_library,
)
torch.library.register_autograd("ssdml_fast::angular_losses_backward", _no_double_backward, lib=_library)


# ---- stiefel ---------------------------------------------------------------------------------------------------------
_library.define("cayley_update(Tensor L, Tensor grad, float step) -> Tensor")
_library.impl("cayley_update", stiefel_op.compute, _KEY)
torch.library.register_fake(
    "ssdml_fast::cayley_update",
    lambda L, grad, step: torch.empty_like(L, memory_format=torch.contiguous_format),
    lib=_library,
)
