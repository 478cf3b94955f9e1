"""Examples as a trainer reads them, by their rows: from an array in memory, or from a map-style Dataset of torch."""

from __future__ import annotations

import hashlib
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from .. import _arrays as arrays
from .. import _scalars as scalars
from .cache import Cache
from .dataset import CACHE_GB, DataError
from .example import Form, read_example
from .workers import Job, Workers

AHEAD = 64 << 20  # bytes of mini-batches that workers are asked for before they are, where those are no fewer than
LEAST_AHEAD, MOST_AHEAD = 2, 16  # mini-batches, nor more: enough for a step of the training, and for a busy machine
HASHED = 256  # examples of a Dataset whose bytes are in its fingerprint
HASHED_WHOLE = 256 << 20  # bytes of an array up to which all of them are


class Examples(Protocol):
    """A number of examples of one shape and type.

    Attributes
    ----------
    shape : tuple of int
        Of one example.
    dtype : torch.dtype
        float32, or uint8: bytes, of which a module makes what a network takes.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Tensor:
        """Copy examples.

        Parameters
        ----------
        rows : (B,) int64 tensor
            Which, on the CPU; any order, each as often as wished.

        Returns
        -------
        (B, *shape) tensor
            On the CPU, in the order of `rows`.

        Raises
        ------
        DataError
            If an example cannot be read; the message names it.
        """
        ...

    def stream(self, batches: Iterable[Tensor], pin: bool = False) -> Iterator[Tensor]:
        """Copy the examples of one mini-batch after another: :meth:`take` of each, in order.

        Parameters
        ----------
        batches : iterable of (B,) int64 tensors
            The rows of each mini-batch. Read by whoever asks for the next mini-batch, in that thread; where there are
            workers a few are read ahead, so what is drawn in them should depend on nothing done in between.
        pin : bool
            Whether to put the copies in pinned memory, which a CUDA device reads while the program goes on.
        """
        ...

    def fingerprint(self) -> str:
        """Hash the examples, the same in every process and on every machine.

        Returns
        -------
        str
            128 bits in hexadecimal, of the number, shape and type of the examples, and of their bytes: all of an array
            of up to 256 MiB; else those of up to 256 examples, the first, the last and evenly spaced between. So two
            data sets of other numbers, shapes or types have other fingerprints, as have small arrays that differ
            anywhere; large ones that differ in a few examples alone may go unnoticed.
        """
        ...

    def close(self) -> None:
        """End the workers, if there are any; they start again when they are needed."""
        ...


class ArrayExamples:
    """Examples of an array, which is not copied unless it runs backwards, as no tensor can."""

    def __init__(self, array: np.ndarray) -> None:
        if any(stride < 0 for stride in array.strides):
            array = array.copy()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing is written here
            self.array = torch.from_numpy(array)
        self.shape = tuple(array.shape[1:])
        self.dtype = self.array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: Tensor) -> Tensor:
        return self.array.index_select(0, rows)

    def stream(self, batches: Iterable[Tensor], pin: bool = False) -> Iterator[Tensor]:
        """Nothing is made ahead: copying takes no longer than handing over what another thread copies."""
        for rows in batches:
            if pin:
                yield torch.index_select(self.array, 0, rows, out=_empty(self, len(rows), pin=True))
            else:
                yield self.take(rows)

    def fingerprint(self) -> str:
        n_bytes = self.array.numel() * self.array.element_size()
        return _fingerprint(self, range(len(self)) if n_bytes <= HASHED_WHOLE else _spaced(len(self)))

    def close(self) -> None:
        pass


class DatasetExamples:
    """Examples of a map-style Dataset, decoded when they are asked for.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        ``dataset[i]`` is an example or a tuple that begins with one: a tensor, an array or a PIL image, always the same
        for the same `i`, all of one shape and type.
    name : str
        What to call it in messages.
    workers : int
        Processes that decode; 0: none but this one.
    cache_gb : float
        The most 10⁹ bytes of decoded examples to keep.

    Notes
    -----
    In memory, beside the mini-batch that was asked for last: the examples that are kept; where there are workers, up to
    64 MiB of mini-batches and one more (two, if these are larger; at most 16), and up to 64 MiB (or two examples of
    each worker, if that is more) that these share with this process.
    """

    def __init__(self, dataset: torch_data.Dataset, name: str, workers: int = 0, cache_gb: float = CACHE_GB) -> None:
        self.dataset, self.name, self.n_workers = dataset, name, workers
        if not len(self):
            raise DataError(f"{name} must hold at least one example, found none")
        first = read_example(dataset, 0, name)
        self.form = Form(first.shape, first.dtype)
        self.shape = first.shape
        self.dtype = getattr(torch, first.dtype.name)
        self.cache = Cache(len(self), self.form, int(cache_gb * 1e9))
        self.workers: Workers | None = None

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def take(self, rows: Tensor) -> Tensor:
        return self._finish(self._begin(rows, pin=False))

    def stream(self, batches: Iterable[Tensor], pin: bool = False) -> Iterator[Tensor]:
        begun: deque[_Reading] = deque()
        try:
            for rows in batches:
                begun.append(self._begin(rows, pin))
                while self._are_enough(begun):
                    yield self._finish(begun.popleft())
            while begun:
                yield self._finish(begun.popleft())
        finally:
            for reading in begun:
                if reading.job:
                    reading.job.cancelled = True

    def fingerprint(self) -> str:
        return _fingerprint(self, _spaced(len(self)))

    def close(self) -> None:
        if self.workers:
            self.workers.close()
            self.workers = None

    def _are_enough(self, begun: Sequence[_Reading]) -> bool:
        """Whether these are as many as may be begun, the one that is wanted now among them."""
        ahead = len(begun) - 1
        n_bytes = sum(len(reading.rows) for reading in begun) * self.form.n_bytes
        return ahead >= (LEAST_AHEAD if n_bytes >= AHEAD else MOST_AHEAD) or (ahead >= 0 and not self.n_workers)

    def _begin(self, rows: Tensor, pin: bool) -> _Reading:
        """Order what is not kept."""
        reading = _Reading(rows.numpy(), self.cache.places(rows.numpy()), _empty(self, len(rows), pin))
        new = reading.new
        if self.n_workers and len(new):
            if not (self.workers and self.workers.processes):
                self.workers = Workers(self.dataset, self.form, self.name, self.n_workers)
            reading.workers = self.workers  # which others may have replaced when it ends
            reading.job = self.workers.order(reading.rows[new], reading.out.numpy(), new)
        return reading

    def _finish(self, reading: _Reading) -> Tensor:
        """Wait for what was ordered or decode it here, keep it, and add what was kept."""
        out, new = reading.out.numpy(), reading.new
        if len(new) < len(out):
            kept = np.flatnonzero(reading.places >= 0)
            out[kept] = self.cache.examples[reading.places[kept]]
        if reading.workers and reading.job:
            reading.workers.finish(reading.job)
        else:
            for i in new:
                out[i] = read_example(self.dataset, int(reading.rows[i]), self.name, self.form)
        self.cache.store(reading.rows, out)
        return reading.out


@dataclass
class _Reading:
    """A mini-batch on its way."""

    rows: np.ndarray
    places: np.ndarray  # in the cache; -1: not there when it began
    out: Tensor
    workers: Workers | None = None
    job: Job | None = None

    @property
    def new(self) -> np.ndarray:
        return np.flatnonzero(self.places < 0)


def as_examples(images: Any, name: str, workers: int = 0, cache_gb: float = CACHE_GB) -> Examples:
    """Make examples of an array or a map-style Dataset.

    Parameters
    ----------
    images : (N, ...) float32 or uint8 array, or torch.utils.data.Dataset
        An array is not copied, and its numbers are checked here. Of a Dataset, ``images[i]`` is an example or a tuple
        that begins with one: a tensor, an array or a PIL image, of floats or bytes, always the same for the same `i`,
        all of one shape and type.
    name : str
        What to call it in messages.
    workers : int
        Processes that decode examples of a Dataset, at least 0; 0: none but this one. An array needs none.
    cache_gb : float
        The most 10⁹ bytes of decoded examples of a Dataset to keep, at least 0.

    Returns
    -------
    Examples

    Raises
    ------
    DataError
        If the first example of a Dataset cannot be read.
    TypeError, ValueError
        If `images` is neither, an array of other numbers, or one that holds NaN or infinity; if `workers` or `cache_gb`
        is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> examples = as_examples(np.eye(3, dtype=np.float32), "images")
    >>> examples.take(torch.tensor([2, 0]))
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    >>> dataset = torch.utils.data.TensorDataset(torch.zeros(7, 1, 8, 8))
    >>> [len(batch) for batch in as_examples(dataset, "images").stream(torch.arange(7).split(3))]
    [3, 3, 1]
    """
    workers = scalars.as_int(workers, "workers", 0)
    cache_gb = scalars.as_float(cache_gb, "cache_gb")
    if not cache_gb >= 0:
        raise ValueError(f"cache_gb must be at least 0, found {cache_gb}")
    arrays.check_not_masked(images, name)
    is_iterable = isinstance(images, torch_data.IterableDataset) or not hasattr(images, "__len__")
    if isinstance(images, torch_data.Dataset) and not is_iterable:
        return DatasetExamples(images, name, workers, cache_gb)
    if not isinstance(images, np.ndarray) or images.dtype not in (np.float32, np.uint8) or not images.dtype.isnative:
        found = getattr(images, "dtype", type(images).__name__)
        raise TypeError(
            f"{name} must be a NumPy array of type float32 in native byte order, found {found}; arrays of uint8 and "
            "map-style Datasets of torch are taken too"
        )
    if images.ndim == 0:
        raise ValueError(f"{name} must have an example per row, found an array without rows")
    if images.dtype == np.float32:
        arrays.check_finite(images, name)
    return ArrayExamples(images)


def labels_of(dataset: Any) -> np.ndarray | None:
    """Find the labels of a map-style Dataset.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        One with the labels of all examples as its ``labels`` or ``targets``, the names that torchvision uses: a tensor,
        an array or a list. Or a Subset of such.

    Returns
    -------
    (N,) int64 array, or None if it has neither

    Raises
    ------
    TypeError, ValueError
        If they are not integers, or not one-dimensional.

    Examples
    --------
    >>> import torch
    >>> dataset = torch.utils.data.TensorDataset(torch.zeros(4, 3))
    >>> labels_of(dataset) is None
    True
    >>> dataset.targets = [5, 6, 7, 8]
    >>> labels_of(torch.utils.data.Subset(dataset, [2, 0]))
    array([7, 5])
    """
    for name in ("labels", "targets"):
        labels = getattr(dataset, name, None)
        if labels is not None:
            labels = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
            return arrays.as_integers(labels, name, ndim=1)
    if isinstance(dataset, torch_data.Subset):
        labels = labels_of(dataset.dataset)
        return None if labels is None else labels[np.asarray(dataset.indices, np.int64)]
    return None


def _empty(examples: Examples, n: int, pin: bool) -> Tensor:
    return torch.empty((n, *examples.shape), dtype=examples.dtype, device="cpu", pin_memory=pin)


def _spaced(n: int) -> np.ndarray:
    """Up to HASHED rows, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, max(n - 1, 0), min(n, HASHED)).round().astype(np.int64))


def _fingerprint(examples: Examples, rows: Iterable[int]) -> str:
    digest = hashlib.blake2b(f"{len(examples)} {examples.shape} {examples.dtype}".encode(), digest_size=16)
    for part in torch.as_tensor(np.asarray(rows), dtype=torch.int64, device="cpu").split(HASHED):
        digest.update(examples.take(part).numpy().tobytes())
    return digest.hexdigest()
