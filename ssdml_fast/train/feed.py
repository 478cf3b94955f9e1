"""How examples reach the device: from memory that is on it, or from the host, ahead of their mini-batch.

Where several processes train together, each decodes its part of a mini-batch alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from .._world import World
from ..data.examples import ArrayExamples, Examples
from .method import Batch
from .parts import part_of, whole_of

RESIDENT = 0.4  # share of a device's free memory that examples may take


class Feed:
    """Gives the examples of given rows as the network takes them, on its device.

    Parameters
    ----------
    examples : Examples
        Where they come from.
    device : torch.device
        Where they go. On CUDA, arrays that take at most RESIDENT of its free memory, in every process, are put there
        once.
    prepare : nn.Module, optional
        Makes of examples what the network takes, on the device.
    world : World
        The processes that train together, each with all examples to read from.
    """

    def __init__(
        self, examples: Examples, device: torch.device, prepare: nn.Module | None, world: World | None = None
    ) -> None:
        self.examples, self.device, self.prepare = examples, device, prepare
        self.world = world or World()
        self._resident = self._put_there() if device.type == "cuda" else None
        # rows of the mini-batch that is trained on, and of this process's part of them the examples
        self._at_hand: list[tuple[Tensor, Tensor]] = []

    def _put_there(self) -> Tensor | None:
        if not isinstance(self.examples, ArrayExamples):
            return None
        free, _ = torch.cuda.mem_get_info(self.device)
        array = self.examples.array
        fits = all(self.world.every(array.nbytes <= RESIDENT * free))  # those that read a part wait for the others
        return array.to(self.device) if fits else None

    def images(self, rows: Tensor) -> Tensor:
        """Examples of (B,) rows, a CPU tensor, as the network takes them."""
        return self.prepared(self.raw(rows))

    def raw(self, rows: Tensor) -> Tensor:
        """Examples of (B,) rows, not yet prepared; those of the mini-batch at hand have been fetched ahead."""
        if self._needs_no_reading:
            return self._read(rows)
        return whole_of(self.world, self._read(rows, self._own(rows)), len(rows))

    def part(self, rows: Tensor) -> Tensor:
        """As :meth:`images`, of those of (B,) rows that this process embeds."""
        return self.prepared(self._read(rows, self._own(rows)))

    def _read(self, rows: Tensor, part: slice = slice(None)) -> Tensor:
        for asked, images in self._at_hand:
            if asked is rows:
                return images.clone()  # as a network may change its input, and another view of them is to follow
        if self._resident is not None:
            return self._resident[rows[part].to(self.device, non_blocking=True)]
        return self._sent(self.examples.take(rows[part]))

    def prepared(self, images: Tensor) -> Tensor:
        """What `prepare` makes of examples, without a gradient."""
        if self.prepare is None:
            return images
        with torch.no_grad():
            return self.prepare(images)

    def parts(self, rows: Tensor, size: int) -> Iterator[Tensor]:
        """Examples of any number of rows, `size` at a time."""
        if self._resident is not None:
            return map(self.images, rows.split(size))
        streamed = self.examples.stream(rows.split(size), pin=self._pinned)
        return (self.prepared(self._sent(images)) for images in streamed)

    def ahead(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield mini-batches, the examples of each fetched while those before are trained on."""
        if self._needs_no_reading:
            yield from batches
            return
        waiting: deque[tuple[Batch, list[Tensor]]] = deque()

        def rows() -> Iterator[Tensor]:
            for batch in batches:
                asked = [batch.rows] if batch.beside is None else [batch.rows, batch.beside]
                waiting.append((batch, asked))
                yield torch.cat([rows[self._own(rows)] for rows in asked])

        try:
            for images in self.examples.stream(rows(), pin=self._pinned):
                batch, asked = waiting.popleft()
                parts = self._sent(images).split([len(rows[self._own(rows)]) for rows in asked])
                self._at_hand = list(zip(asked, parts, strict=True))
                yield batch
        finally:
            self._at_hand = []

    def _own(self, rows: Tensor) -> slice:
        return part_of(self.world, len(rows))

    @property
    def _needs_no_reading(self) -> bool:
        """Whether examples are there when they are asked for."""
        return self._resident is not None or (isinstance(self.examples, ArrayExamples) and not self._pinned)

    @property
    def _pinned(self) -> bool:
        return self.device.type == "cuda"

    def _sent(self, images: Tensor) -> Tensor:
        return images.to(self.device, non_blocking=True)
