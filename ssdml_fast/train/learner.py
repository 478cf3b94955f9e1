"""A model as it learns: its steps, and the running mean of its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from .._world import World
from ..models.metric import MetricModel, at_once
from .config import Config
from .device import kernel_device, why_not_compiled
from .feed import Feed
from .method import Diverged, Method

MOMENTUM = 0.9  # of SGD


class Learner:
    """A model, what moves it along a loss, and its running mean.

    Parameters
    ----------
    model : MetricModel
        The untrained model, on the CPU.
    method : Method
        Whose parameters learn with it, and which says what moves the head.
    config : Config
        Settings.
    device : torch.device
        Where the network learns.
    """

    def __init__(self, model: MetricModel, method: Method, config: Config, device: torch.device) -> None:
        _check_apart(method, model)
        self.world, self.config = World.here(), config
        self.network_device, self.device = device, kernel_device(device)
        self.method = method.to(self.device)
        self.model = model.to(self.network_device).eval()
        self.model.metric.to(self.device)
        self.average = copy.deepcopy(model) if config.average else model  # embeds, is validated and kept
        self.network: Callable[[Tensor], Tensor] = torch.compile(model.network) if config.compile else model.network
        self.optimizer = self._optimizer([*model.network.parameters(), *method.parameters()])
        self.head_optimizer = method.head_optimizer(model.metric, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        # at what each step computes, where that costs no waiting; several processes look together, at validations
        self.looks = self.device.type == "cpu" and self.world.size == 1
        self.steps = 0  # on the network
        self.examples = 0  # trained on since the last validation

    def move(self, loss: Tensor, rate: float) -> None:
        """Take one step on what a loss depends on: the network, the method's parameters, the head."""
        head = list(self.model.metric.parameters())
        for parameter in head:
            parameter.grad = None
        if self.optimizer is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if self.optimizer is not None and _has_gradient(self.optimizer):
            self.scaler.step(self.optimizer)
        if self.head_optimizer is not None and _has_gradient(self.head_optimizer):
            self.scaler.unscale_(self.head_optimizer)
            if self.scaler.is_enabled():  # it would ask the host whether to step
                for gradient in (parameter.grad for parameter in head):
                    if gradient is not None:
                        gradient.copy_(torch.where(gradient.isfinite().all(), gradient, 0.0))
            self.head_optimizer.step()
        self.scaler.update()
        self.steps += 1

    def move_head(self, gradients: Iterable[Tensor]) -> None:
        """Take one step of the head's optimiser along gradients of its parameters."""
        if self.head_optimizer is None:
            raise TypeError(f"head must have parameters to be moved, found {type(self.model.metric).__name__}")
        parameters, gradients = list(self.model.metric.parameters()), list(gradients)
        self.world.mean_(gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.head_optimizer.step()
        for parameter in parameters:
            parameter.grad = None

    def learnt(self, images: Tensor) -> Tensor:
        """Embed images to learn from, on the kernels' device."""
        self.model.network.train()
        self.examples += len(images)
        kind, precision = self.network_device.type, self.config.precision
        # no cache: it would outlive the step, and its weights, within the one that switches a caller's autocast off
        with torch.autocast(kind, getattr(torch, precision), precision != "float32", cache_enabled=False):
            z = self._through_network(images)
        z = z.float().to(self.device)
        if self.looks and not torch.isfinite(z).all():
            raise Diverged
        return z

    def _through_network(self, images: Tensor) -> Tensor:
        """What the network makes of images in training mode, or by what torch compiled of it."""
        try:
            return self.network(images)
        except RuntimeError as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise ValueError(f"compile must be False for this network: {why_not_compiled(error)}") from error
            raise

    @torch.no_grad()
    def taught(self, images: Tensor) -> Tensor:
        """Embed images by the running mean, to learn from what it says of them, on the kernels' device."""
        self.average.network.eval()
        return self.average.network(images).float().to(self.device)

    @torch.no_grad()
    def embedded(self, model: MetricModel, feed: Feed, rows: Tensor) -> Tensor:
        """Embed any number of examples by a network in evaluation mode, on the kernels' device."""
        model.network.eval()
        part = rows[self.world.shard(len(rows))]
        size = at_once(feed.examples.shape, self.network_device.type)
        z = torch.cat([model.network(images).float() for images in feed.parts(part, size)])
        return self.world.gather(z, len(rows)).to(self.device)

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the running mean towards the weights: fast at first, as it began with untrained ones."""
        if self.average is self.model:
            return
        decay = min(self.config.average, self.steps / (self.steps + 9))
        now, mean = self.model.network.state_dict(), self.average.network.state_dict()
        done: set[int] = set()
        for name, tensor in mean.items():
            if tensor.data_ptr() in done:
                continue  # layers share it
            done.add(tensor.data_ptr())
            if tensor.is_floating_point():
                tensor.lerp_(now[name], 1 - decay)
            else:
                tensor.copy_(now[name])  # counters
        self.average.metric.load_state_dict(self.model.metric.state_dict())  # a mean would not be orthogonal

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer | None:
        """What moves the network and the method's parameters; None where there are none."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if not trained:
            return None
        decay = self.config.weight_decay
        fused = True if trained[0].is_cuda else None  # one kernel for all, and the scaler's check stays on the device
        if self.config.optimizer == "sgd":
            return torch.optim.SGD(trained, momentum=MOMENTUM, weight_decay=decay, fused=fused)
        return torch.optim.AdamW(trained, weight_decay=decay, fused=fused)


def _check_apart(method: Method, model: MetricModel) -> None:
    """Refuse a method that holds the model's parameters as its own, which would move them twice."""
    of_model = {id(parameter) for parameter in model.parameters()}
    for name, parameter in method.named_parameters():
        if id(parameter) in of_model:
            raise ValueError(
                f"{type(method).__name__} must hold no parameter of the model, which aid lends, found {name}"
            )


def _has_gradient(optimizer: torch.optim.Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
