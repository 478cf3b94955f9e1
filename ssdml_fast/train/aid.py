"""What the engine lends a method: the model, the examples, chance, and the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from .._world import World
from ..data.augment import Part, cut_out, mix_channels, random_affine
from .config import Config
from .method import Diverged, TrainingSet
from .parts import part_of

if TYPE_CHECKING:
    from .engine import Engine

AUGMENTATION: dict[str, Callable[[Tensor, Part | None], Tensor]] = {  # by a little for the side of the images
    "none": lambda images, part: images,
    "affine": lambda images, part: random_affine(images, shift=images.shape[-1] / 14, part=part),
    "strong": lambda images, part: cut_out(
        mix_channels(
            random_affine(images, scale=0.2, shift=images.shape[-1] / 8, flip=True, padding="reflection", part=part),
            part=part,
        ),
        side=images.shape[-1] * 3 // 8,
        part=part,
    ),
}


class Aid:
    """What a method works with. Rows are CPU tensors or arrays of int64; all else is on `device`.

    Attributes
    ----------
    device : torch.device
        Where features, embeddings, the head and the method's own tensors are.
    config : Config
        The engine's settings.
    data : TrainingSet
        What is known of the examples.
    world : World
        The processes that train together.
    rng : numpy.random.Generator
        For choices on the host in :meth:`Method.prepare` and :meth:`Method.begin_pass`, and for making mini-batches,
        which may run ahead of their losses; seeded anew for each of these, by the leg's position and the pass. Torch's
        global generators, of the CPU and of the device, are seeded by leg, pass and step, so that what draws without a
        generator, as in a loss, repeats too.
    through : float
        How far the legs of this kind are, in [0, 1].

    Examples
    --------
    What a method's ``loss`` does with it, for a mini-batch whose `extra` are targets of the embedding:

    >>> def loss(self, batch, aid):
    ...     y = aid.head(aid.embed(batch.rows))
    ...     return (y - aid.send(batch.extra)).square().sum(1).mean()
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.device: torch.device = engine.device
        self.config: Config = engine.config
        self.data: TrainingSet = engine.data
        self.world: World = engine.world
        self.rng = np.random.default_rng(0)
        self.through = 0.0

    @property
    def head(self) -> nn.Module:
        """What maps the network's output to the embedding, as it is now."""
        return self._engine.model.metric

    def features(self, rows: Tensor | np.ndarray, average: bool = True) -> Tensor:
        """Embed examples by the network, as they are, in evaluation mode: (N,) rows to (N, d).

        Parameters
        ----------
        rows : (N,) int64 array or tensor
            Which examples.
        average : bool
            By the running mean of the weights, or by the weights of now.

        Returns
        -------
        (N, d) float32 tensor on `device`
            Without a gradient.

        Raises
        ------
        Diverged
            If the result is not finite.
        """
        engine = self._engine
        with self.stage("embed"):
            z = engine.embedded(engine.average if average else engine.model, engine.feed, torch.as_tensor(rows))
        if not torch.isfinite(z).all():
            raise Diverged
        return z

    def images(self, rows: Tensor) -> Tensor:
        """Examples as the network takes them, (B,) rows to (B, ...), on the network's device.

        Parameters
        ----------
        rows : (B,) int64 tensor on the CPU
            Which examples; those of the mini-batch at hand have been fetched ahead.

        Returns
        -------
        (B, ...) tensor
            As `prepare` makes them, not augmented.
        """
        return self._engine.feed.images(rows)

    def raw(self, rows: Tensor) -> Tensor:
        """Examples as they are held, (B,) rows to (B, ...), on the network's device.

        For methods that change pixels, or want them again; :meth:`prepare` makes of them what the network takes.

        Parameters
        ----------
        rows : (B,) int64 tensor on the CPU
            As :meth:`images`.

        Returns
        -------
        (B, ...) float32 or uint8 tensor
        """
        return self._engine.feed.raw(rows)

    def prepare(self, images: Tensor) -> Tensor:
        """Make of examples what the network takes; where there is no `prepare`, that is what they are.

        Parameters
        ----------
        images : (B, ...) tensor on the network's device
            As :meth:`raw` gives them, or as they were changed.

        Returns
        -------
        (B, ...) tensor
            Without a gradient.
        """
        return self._engine.feed.prepared(images)

    def augment(self, images: Tensor) -> Tensor:
        """Change images at random, as the setting `augment` says.

        Parameters
        ----------
        images : (B, channels, height, width) float32 tensor
            Anything where the setting is ``"none"``.

        Returns
        -------
        tensor
            Of the same shape; the images themselves where the setting is ``"none"``.
        """
        return AUGMENTATION[self.config.augment](images, None)

    def forward(self, images: Tensor, average: bool = False) -> Tensor:
        """Embed images by the network in training mode, at the precision that is set: (B, ...) to (B, d), float32.

        For methods of several views of an example, or with a teacher; :meth:`embed` serves the others.

        Parameters
        ----------
        images : (B, ...) tensor on the network's device
            As the network takes them.
        average : bool
            By the running mean of the weights instead, in evaluation mode, in float32 and without a gradient, as a
            teacher says what the network is to learn.

        Returns
        -------
        (B, d) float32 tensor on `device`
            With a gradient, unless it is the running mean's.

        Raises
        ------
        Diverged
            If the network's result is not finite and to look costs no waiting; on a device, a validation finds it.
        """
        if average:
            return self._engine.taught(images)
        return self._engine.learnt(images[part_of(self.world, len(images))], len(images))

    def embed(self, rows: Tensor) -> Tensor:
        """Embed a mini-batch of examples, augmented, to learn from: (B,) rows to (B, d).

        Parameters
        ----------
        rows : (B,) int64 tensor on the CPU
            The batch's `rows` or `beside`.

        Returns
        -------
        (B, d) float32 tensor on `device`
            With a gradient.

        Raises
        ------
        Diverged
            As :meth:`forward`.
        """
        part = Part(part_of(self.world, len(rows)), len(rows))
        images = AUGMENTATION[self.config.augment](self._engine.feed.part(rows), part)
        return self._engine.learnt(images, len(rows))

    def move_head(self, gradients: Iterable[Tensor]) -> None:
        """Take one step of the head's optimiser along gradients of its parameters.

        Parameters
        ----------
        gradients : iterable of tensors
            One per parameter of the head, in their order.

        Raises
        ------
        TypeError
            If the head has no parameters.
        """
        self._engine.move_head(gradients)

    def forget(self, parameters: Iterable[nn.Parameter]) -> None:
        """Drop what the optimiser remembers of parameters, as of a classifier that begins anew.

        Parameters
        ----------
        parameters : iterable of torch.nn.Parameter
            Of the network or of the method.
        """
        if self._engine.optimizer is not None:
            for parameter in parameters:
                self._engine.optimizer.state.pop(parameter, None)

    def send(self, tensor: Tensor) -> Tensor:
        """Bring a tensor of the host to the device, without waiting for it.

        Parameters
        ----------
        tensor : tensor on the CPU
            Not to be changed afterwards.

        Returns
        -------
        tensor on `device`
        """
        return tensor.to(self.device, non_blocking=True)

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time a block as a stage of the record: its seconds join those of that name.

        Parameters
        ----------
        name : str
            ``"embed"``, ``"graph"``, ``"propagate"``, ``"mine"``, ``"train"``, or one of the method's own.

        Returns
        -------
        context manager
        """
        return self._engine.times.stage(name)
