"""The loss as autograd sees it, and the operators for calls that are compiled.

Plain eager calls need no operator: :class:`_AngularLoss` takes them from z and L to their gradients, products included.
Others see projected points only: autograd's own backward of z @ L is the two matrix products that remain. There
``projected_loss`` finds the sum and its gradient in one pass; ``projected_losses`` are for those who want the loss of
each triplet, whose gradient waits for that of the losses, and for those who want no gradient.
"""

from __future__ import annotations

import torch

from .. import _arrays as arrays
from .._run import angular_loss as run
from .library import KEY, library

ops = torch.ops.ssdml_fast

# Whether torch.func transforms the call: then autograd wants Functions that have a setup_context. torch has no public
# name for this; without the one it uses itself, all calls take the way that is right for either.
_is_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def angular_loss(z, triplets, L, alpha, reduction, weight, num_threads):
    """Angular loss as a differentiable function of z, L and weight; see :func:`ssdml_fast.angular_loss`."""
    is_compiling, is_transformed = arrays.is_compiling(z), _is_transformed()
    is_autocast = arrays.is_autocast(z)
    z, triplets, L, alpha, weight, num_threads = run.check(
        z, triplets, L, alpha, reduction, weight, num_threads, is_autocast, not (is_compiling or is_transformed)
    )
    is_plain = not (is_compiling or is_transformed or is_autocast)
    is_differentiated = torch.is_grad_enabled() and (
        z.requires_grad or L.requires_grad or (weight is not None and weight.requires_grad)
    )
    if is_plain and not is_differentiated:
        found = run.forward(z, triplets, L, alpha, weight, num_threads, losses=reduction == "none", grad=False)
        return run.reduced(found, triplets, weight, reduction)
    is_reduced, mean = reduction != "none" and is_differentiated, reduction == "mean"
    if is_plain and is_reduced:
        return _AngularLoss.apply(z, L, triplets, weight, alpha, mean, num_threads)
    y = arrays.at_least_float32(z @ L)
    if is_reduced:
        total = ops.projected_loss if is_compiling else _ProjectedLoss.apply
        return total(y, triplets, weight, alpha, mean, num_threads)[0]
    losses = (ops.projected_losses if is_compiling else _ProjectedLosses.apply)(y, triplets, alpha, num_threads)
    if weight is not None:
        losses = losses * weight
    if reduction == "none":
        return losses
    return losses.sum() / max(losses.shape[0], 1) if mean else losses.sum()


class _AngularLoss(torch.autograd.Function):
    """The whole loss of z and L for plain eager calls, where every node of the graph costs as much as a small kernel.

    No setup_context: calling a Function that has one takes longer still.
    """

    @staticmethod
    def forward(ctx, z, L, triplets, weight, alpha, mean, num_threads):
        found = run.forward(z, triplets, L, alpha, weight, num_threads, losses=ctx.needs_input_grad[3], grad=True)
        ctx.count, ctx.used, ctx.num_threads = max(triplets.shape[0], 1) if mean else 1, found.used, num_threads
        ctx.save_for_backward(z, L, found.losses, found.grad_y, found.points, found.rows)
        return found.loss / ctx.count if mean else found.loss

    @staticmethod
    def backward(ctx, grad_loss):
        z, L, losses, grad_y, points, rows = ctx.saved_tensors
        scale, wanted = grad_loss.detach(), ctx.needs_input_grad
        if ctx.count > 1:
            scale = scale / ctx.count
        found = run.Forward(None, losses, grad_y, arrays.contiguous(points), ctx.used, rows)
        grad_z, grad_L = run.backward(found, z.shape[0], L, scale, ctx.num_threads, wanted)
        grads = [grad_z, grad_L, scale * losses if wanted[3] else None]
        if torch.is_grad_enabled():  # for a second derivative, which then reaches _no_double_backward
            grads = [grad if grad is None else _DifferentiableOnce.apply(grad, z, L) for grad in grads]
        return grads[0], grads[1], None, grads[2], None, None, None


def _projected_loss(y, triplets, weight, alpha, mean, num_threads):
    y, triplets = _operands(y, triplets)
    weight = None if weight is None else arrays.contiguous(weight)
    losses, grad_y = run.projected_loss(y, triplets, alpha, weight, num_threads, losses=True, grad=True)
    loss = losses.sum() if weight is None else losses.dot(weight)
    return loss / max(len(triplets), 1) if mean else loss, losses, grad_y


def _projected_losses(y, triplets, alpha, num_threads):
    y, triplets = _operands(y, triplets)
    return run.projected_loss(y, triplets, alpha, None, num_threads, losses=True, grad=False)[0]


def _projected_losses_backward(grad_losses, y, triplets, alpha, num_threads):
    y, triplets = _operands(y, triplets)
    weight = arrays.contiguous(grad_losses)
    return run.projected_loss(y, triplets, alpha, weight, num_threads, losses=False, grad=True)[1]


def _operands(y, triplets):
    y = arrays.as_floats(y, "z @ L", ndim=2)
    arrays.check_finite(y, "z @ L")
    return y, run.as_triplets(triplets, y)


def _projected_loss_context(ctx, inputs, output):
    y, triplets, weight, _, mean, _ = inputs
    _, losses, grad_y = output
    ctx.count = max(triplets.shape[0], 1) if mean else 1
    ctx.mark_non_differentiable(losses, grad_y)
    ctx.save_for_backward(y, grad_y, None if weight is None else losses)


def _projected_loss_autograd(ctx, grad_loss, *_):
    y, grad_y, losses = ctx.saved_tensors
    if ctx.count > 1:
        grad_loss = grad_loss / ctx.count
    grads = [grad_loss * grad_y] if losses is None else [grad_loss * grad_y, grad_loss * losses]
    if torch.is_grad_enabled():  # for a second derivative, which then reaches _no_double_backward
        grads = [_DifferentiableOnce.apply(grad, y) for grad in grads]
    return grads[0], None, grads[1] if len(grads) > 1 else None, None, None, None


def _projected_losses_context(ctx, inputs, output):
    y, triplets, ctx.alpha, ctx.num_threads = inputs
    ctx.save_for_backward(y, triplets)


def _projected_losses_autograd(ctx, grad_losses, backward):
    y, triplets = ctx.saved_tensors
    return backward(grad_losses, y, triplets, ctx.alpha, ctx.num_threads), None, None, None


def _no_context(ctx, inputs, output):
    pass


def _no_double_backward(ctx, *grads):
    raise RuntimeError("angular_loss cannot be differentiated twice: its gradient is computed by a kernel of its own")


# The same three for calls that are not compiled: torch.func wants Functions with a setup_context of their own.
class _ProjectedLoss(torch.autograd.Function):
    forward = staticmethod(_projected_loss)
    setup_context = staticmethod(_projected_loss_context)
    backward = staticmethod(_projected_loss_autograd)


class _ProjectedLosses(torch.autograd.Function):
    forward = staticmethod(_projected_losses)
    setup_context = staticmethod(_projected_losses_context)

    @staticmethod
    def backward(ctx, grad_losses):
        with arrays.trusted():  # points and triplets, which the forward pass has looked at, in a thread of its own
            return _projected_losses_autograd(ctx, grad_losses, _ProjectedLossesBackward.apply)


class _ProjectedLossesBackward(torch.autograd.Function):
    forward = staticmethod(_projected_losses_backward)
    setup_context = staticmethod(_no_context)
    backward = staticmethod(_no_double_backward)


class _DifferentiableOnce(torch.autograd.Function):
    """A gradient as it is, known to depend on the inputs in a way that cannot be differentiated."""

    forward = staticmethod(lambda grad, *inputs: grad.view_as(grad))
    setup_context = staticmethod(_no_context)
    backward = staticmethod(_no_double_backward)


library.define(
    "projected_loss(Tensor y, Tensor triplets, Tensor? weight, float alpha, bool mean, int? num_threads) "
    "-> (Tensor loss, Tensor losses, Tensor grad_y)"
)
library.define("projected_losses(Tensor y, Tensor triplets, float alpha, int? num_threads) -> Tensor")
library.define(
    "projected_losses_backward(Tensor grad_losses, Tensor y, Tensor triplets, float alpha, int? num_threads) -> Tensor"
)
library.impl("projected_loss", _projected_loss, KEY)
library.impl("projected_losses", _projected_losses, KEY)
library.impl("projected_losses_backward", _projected_losses_backward, KEY)
torch.library.register_fake(
    "ssdml_fast::projected_loss",
    lambda y, triplets, weight, alpha, mean, num_threads: (
        y.new_empty(()),
        y.new_empty((triplets.shape[0],)),
        torch.empty_like(y, memory_format=torch.contiguous_format),
    ),
    lib=library,
)
torch.library.register_fake(
    "ssdml_fast::projected_losses",
    lambda y, triplets, alpha, num_threads: y.new_empty((triplets.shape[0],)),
    lib=library,
)
torch.library.register_fake(
    "ssdml_fast::projected_losses_backward",
    lambda grad_losses, y, triplets, alpha, num_threads: torch.empty_like(y, memory_format=torch.contiguous_format),
    lib=library,
)
torch.library.register_autograd(
    "ssdml_fast::projected_loss", _projected_loss_autograd, setup_context=_projected_loss_context, lib=library
)
torch.library.register_autograd(
    "ssdml_fast::projected_losses",
    lambda ctx, grad: _projected_losses_autograd(ctx, grad, ops.projected_losses_backward),
    setup_context=_projected_losses_context,
    lib=library,
)
torch.library.register_autograd("ssdml_fast::projected_losses_backward", _no_double_backward, lib=library)
