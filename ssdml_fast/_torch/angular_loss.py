"""The operators of angular_loss and its gradients."""

from __future__ import annotations

import torch

from .. import _arrays as arrays
from .. import _scalars as scalars
from .._run import angular_loss as run
from .library import KEY, library

ops = torch.ops.ssdml_fast

# Operators see projected points only: autograd's own backward of z @ L is the two matrix products that remain.
# `angular_loss` finds the sum and its gradient in one pass; `angular_losses` are for those who want the loss of each
# triplet, whose gradient waits for that of the losses, and for those who want no gradient. Eager calls need no
# operator: _EagerAngularLoss takes them from z and L to their gradients, products included.
library.define(
    "angular_loss(Tensor y, Tensor triplets, Tensor? weight, float alpha, bool mean) "
    "-> (Tensor loss, Tensor losses, Tensor grad_y)"
)
library.define("angular_losses(Tensor y, Tensor triplets, float alpha) -> Tensor")
library.define("angular_losses_backward(Tensor grad_losses, Tensor y, Tensor triplets, float alpha) -> Tensor")


def angular_loss(z, triplets, L, alpha, reduction, weight):
    """Angular loss as a differentiable function of z, L and weight; see `ssdml_fast.angular_loss`."""
    is_compiling, is_transformed = arrays.is_compiling(z), torch._C._are_functorch_transforms_active()
    is_autocast = torch.is_autocast_enabled(z.device.type)
    is_plain = not (is_compiling or is_transformed or is_autocast)
    is_differentiated = torch.is_grad_enabled() and any(arrays.is_torch(x) and x.requires_grad for x in (z, L, weight))
    if is_plain and not is_differentiated:
        return run.compute(z, triplets, L, alpha, reduction, weight, grad=False)[0]
    scalars.as_choice(reduction, "reduction", run.REDUCTIONS)
    z, L = arrays.check_floats(z, "z", ndim=2), arrays.check_floats(L, "L", ndim=2, like=z)
    if not is_autocast:
        z, L = arrays.at_least_float32(z), arrays.at_least_float32(L)
        run.check_operands(z, L)
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
    alpha = scalars.as_float(alpha, "alpha", 0, 90)
    y = arrays.at_least_float32(z @ L)
    if is_reduced:
        total = ops.angular_loss if is_compiling else _AngularLoss.apply
        return total(y, triplets, weight, alpha, mean)[0]
    losses = (ops.angular_losses if is_compiling else _AngularLosses.apply)(y, triplets, alpha)
    if weight is not None:
        losses = losses * weight
    return run.reduce(losses, reduction)


def _angular_loss(y, triplets, weight, alpha, mean):
    y, triplets = _angular_loss_operands(y, triplets)
    weight = None if weight is None else arrays.contiguous(weight)
    losses, grad_y = run.run(y, triplets, alpha, weight, losses=True, grad=True)
    loss = losses.sum() if weight is None else losses.dot(weight)
    return loss / max(len(triplets), 1) if mean else loss, losses, grad_y


def _angular_losses(y, triplets, alpha):
    y, triplets = _angular_loss_operands(y, triplets)
    return run.run(y, triplets, alpha, None, losses=True, grad=False)[0]


def _angular_losses_backward(grad_losses, y, triplets, alpha):
    y, triplets = _angular_loss_operands(y, triplets)
    return run.run(y, triplets, alpha, arrays.contiguous(grad_losses), losses=False, grad=True)[1]


def _angular_loss_operands(y, triplets):
    y = arrays.contiguous(y)
    arrays.check_finite(y, "z @ L")
    return y, run.as_triplets(triplets, y)


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
        found = run.evaluate(*operands, weight, losses=ctx.needs_input_grad[3], grad=True)
        ctx.count, ctx.used = max(triplets.shape[0], 1) if mean else 1, found.used
        ctx.save_for_backward(z, L, *found[1:4], found.rows)
        return found.loss / ctx.count if mean else found.loss

    @staticmethod
    def backward(ctx, grad_loss):
        z, L, losses, grad_y, points, rows = ctx.saved_tensors
        scale, wanted = grad_loss.detach(), ctx.needs_input_grad
        if ctx.count > 1:
            scale = scale / ctx.count
        found = run.Found(None, losses, grad_y, arrays.contiguous(points), ctx.used, rows)
        grads = [*run.backproject(found, z.shape[0], arrays.contiguous(L), scale, wanted), None]
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


library.impl("angular_loss", _angular_loss, KEY)
library.impl("angular_losses", _angular_losses, KEY)
library.impl("angular_losses_backward", _angular_losses_backward, KEY)
torch.library.register_fake(
    "ssdml_fast::angular_loss",
    lambda y, triplets, weight, alpha, mean: (
        y.new_empty(()),
        y.new_empty((triplets.shape[0],)),
        torch.empty_like(y, memory_format=torch.contiguous_format),
    ),
    lib=library,
)
torch.library.register_fake(
    "ssdml_fast::angular_losses", lambda y, triplets, alpha: y.new_empty((triplets.shape[0],)), lib=library
)
torch.library.register_fake(
    "ssdml_fast::angular_losses_backward",
    lambda grad_losses, y, triplets, alpha: torch.empty_like(y, memory_format=torch.contiguous_format),
    lib=library,
)
torch.library.register_autograd(
    "ssdml_fast::angular_loss", _angular_loss_backward, setup_context=_angular_loss_context, lib=library
)
torch.library.register_autograd(
    "ssdml_fast::angular_losses",
    lambda ctx, grad: _angular_losses_autograd(ctx, grad, ops.angular_losses_backward),
    setup_context=_angular_losses_context,
    lib=library,
)
torch.library.register_autograd("ssdml_fast::angular_losses_backward", _no_double_backward, lib=library)
