"""A model as it learns: its steps, and the running mean of its weights."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._world import World
from ..models.metric import MetricModel, at_once
from .batch_norm import Synchronized
from .config import Config
from .device import kernel_device, why_not_compiled
from .feed import Feed
from .method import Diverged, Method
from .parts import is_divided, part_of, whole_of
from .seeds import seed_torch

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
        self.network: Callable[[Tensor], Tensor] | None = None  # what learns: made when there are images to learn from
        self.optimizer = self._optimizer([*model.network.parameters(), *method.parameters()])
        self.head_optimizer = method.head_optimizer(model.metric, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.looks = self.device.type == "cpu"  # at what each step computes, where that costs no waiting
        self.steps = 0  # on the network
        self.forwards = 0  # of the network in this step
        self.examples = 0  # trained on since the last validation

    def agree(self) -> None:
        """Learn on from the first process's weights in all of them.

        Each moves its own copy, along the same gradients of the network. The losses are the same, and with them the
        gradients of the head and of the method's parameters: bit for bit where processors and threads are alike, and
        else but for rounding, which is not to add up.
        """
        modules = dict.fromkeys([self.model, self.average, self.method])  # each once: the mean may be the model
        self.world.same_([tensor for module in modules for tensor in module.state_dict().values()])

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
        parameters = list(self.model.metric.parameters())
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.head_optimizer.step()
        for parameter in parameters:
            parameter.grad = None

    def learnt(self, images: Tensor, n: int) -> Tensor:
        """Embed this process's part of n images to learn from; return all embeddings, on the kernels' device."""
        self.model.network.train()
        self.examples += n
        kind, precision = self.network_device.type, self.config.precision
        # no cache: it would outlive the step, and its weights, within the one that switches a caller's autocast off
        with torch.autocast(kind, getattr(torch, precision), precision != "float32", cache_enabled=False):
            if self.network is None:
                self.network = self._parallel(images)
                if self.config.compile:
                    self.network = torch.compile(self.network)
            with self._apart() if is_divided(self.world, n) else nullcontext():
                z = self._through(self.network, images)
        self.forwards += 1
        z = whole_of(self.world, z.float().to(self.device), n)
        if self.looks and not torch.isfinite(z).all():
            raise Diverged
        return z

    def _parallel(self, images: Tensor) -> nn.Module:
        """The network, with gradients that are the mean over the processes; what it makes of images tells of which."""
        network: nn.Module = self.model.network
        trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        if self.world.size == 1 or not trained:
            return network
        probe = copy.deepcopy(network)  # of which no statistics are kept
        parameters = [probe.get_parameter(name) for name in trained]
        with self._apart():
            found = torch.autograd.grad(probe(images).sum(), parameters, allow_unused=True)
        has_idle = any(self.world.every(any(gradient is None for gradient in found)))
        parallel: Any = nn.parallel.DistributedDataParallel
        is_new = "forward_sync_buffers" in inspect.signature(parallel).parameters  # torch 2.13 or newer
        no_buffers = {"forward_sync_buffers" if is_new else "broadcast_buffers": False}  # they are the same everywhere
        made = parallel(network, process_group=self.world.group, find_unused_parameters=has_idle, **no_buffers)
        if not has_idle:
            self._settle(made, images)
        return made

    def _settle(self, parallel: nn.Module, images: Tensor) -> None:
        """Let DistributedDataParallel see gradients come, in whose order it sends them from the second time on.

        Sums over three processes or more are rounded by that order, which is to be the same from the first step on:
        that of a training which goes on is no first one.
        """
        buffers = [(buffer, buffer.clone()) for buffer in parallel.buffers()]
        with self._apart():
            parallel(images).sum().backward()
        for parameter in parallel.parameters():
            parameter.grad = None
        with torch.no_grad():
            for buffer, was in buffers:
                buffer.copy_(was)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Have layers draw other numbers than in other processes, and normalise by what all of them hold.

        Generators are left as they were, the same everywhere, as methods and augmentation draw from them.
        """
        place = [torch.initial_seed(), self.forwards, self.world.rank]  # the first is another for each step
        device = self.network_device
        with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
            seed_torch(int(np.random.default_rng(place).integers(2**63)), device)
            with self._synchronized():
                yield

    def _synchronized(self) -> AbstractContextManager[None]:
        """Within it, batch norms normalise by what all processes hold; networks that are compiled have none."""
        return nullcontext() if self.world.size == 1 or self.config.compile else Synchronized(self.world)

    def _through(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """What a network makes of images, or what torch compiled of it."""
        try:
            return network(images)
        except RuntimeError as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise ValueError(f"compile must be False for this network: {why_not_compiled(error)}") from error
            if "Expected to have finished reduction" in str(error):
                raise ValueError(
                    "network must use the same parameters whenever it is called, where several processes train "
                    "together, found some that the last step left out"
                ) from error
            raise

    @torch.no_grad()
    def taught(self, images: Tensor) -> Tensor:
        """Embed images by the running mean, to learn from what it says of them, on the kernels' device."""
        self.average.network.eval()
        n = len(images)
        z = self.average.network(images[part_of(self.world, n)])
        return whole_of(self.world, z.float().to(self.device), n)

    @torch.no_grad()
    def embedded(self, model: MetricModel, feed: Feed, rows: Tensor) -> Tensor:
        """Embed any number of examples by a network in evaluation mode, on the kernels' device.

        Each as often as one process would embed at once, so that the bits are the same by any number of processes.
        """
        model.network.eval()
        size = at_once(feed.examples.shape, self.network_device.type)
        part = rows[self.world.shard(len(rows), size)]
        none = torch.empty(0, model.d, device=self.network_device)
        images = feed.parts(part, size) if len(part) else ()  # a network may not be able to embed none
        z = torch.cat([none, *(model.network(each).float() for each in images)])
        return self.world.gather(z, len(rows), size).to(self.device)

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
