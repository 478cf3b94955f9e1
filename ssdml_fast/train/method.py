"""What a method of training is: the contract between it and the engine, which knows no method.

A method says what its training consists of (:meth:`Method.legs`), what a leg trains on (:meth:`Method.prepare`) and
what is to be lowered (:meth:`Method.loss`). All else is the engine's: seeds, steps, devices, validation, stopping,
saving and resuming.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .._settings import Settings
from ..models.metric import MetricModel
from ..nn import OrthogonalMetric
from ..optim import CayleySGD
from .config import Config

if TYPE_CHECKING:
    from .aid import Aid


class Diverged(ArithmeticError):
    """An embedding or a loss that is not finite; the training stops, and the best model so far is kept.

    The engine raises it where it looks; a method does where it finds that there is no going on.

    Examples
    --------
    >>> raise Diverged
    Traceback (most recent call last):
    ssdml_fast.train.method.Diverged
    """


@dataclass(frozen=True)
class TrainingSet:
    """What a method may know of the examples beforehand: never a hidden label.

    Attributes
    ----------
    labels : (N,) int64 array
        -1 = unlabelled; all of them, maybe, where a method needs no labels.
    shape : tuple of int
        Of one example, before any `prepare`.

    Examples
    --------
    >>> import numpy as np
    >>> data = TrainingSet(np.array([4, -1, 2, 4]), shape=(1, 8, 8))
    >>> len(data), data.labelled, data.classes
    (4, array([0, 2, 3]), array([2, 4]))
    """

    labels: np.ndarray
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def labelled(self) -> np.ndarray:
        """Ascending indices of the labelled examples."""
        return np.flatnonzero(self.labels >= 0)

    @cached_property
    def classes(self) -> np.ndarray:
        """The labels that there are, ascending."""
        return np.unique(self.labels[self.labelled])

    def require_classes(self) -> None:
        """Refuse data of fewer than two labelled classes.

        Raises
        ------
        ValueError
            As a method that learns from labels must.
        """
        if len(self.classes) < 2:
            found = f"class {self.classes[0]} alone" if len(self.classes) else "none"
            raise ValueError(f"train labels must hold at least two classes besides -1, found {found}")


@dataclass(frozen=True)
class Leg:
    """A part of a training that is prepared at once, and again where a training is resumed within it.

    Attributes
    ----------
    kind : str
        Legs of a kind share one schedule of the step.
    position : tuple of int
        Where it is in the training, no two legs alike, none negative; with the seed it decides every random choice of
        the leg.
    passes : int
        How often its mini-batches are gone through, at least 1.
    round, partition : int
        For the record and for telling; counted from 1. Round 0 is before the first: neither patience nor the number of
        passes counts it. Partition 0: the round is not divided.
    rate : float, optional
        Step on the network in place of the setting `learning_rate`.
    weight : float
        How much of the schedule a pass takes, beside the other legs of its kind.
    ramp : float
        Weight at the beginning of its kind over which the step grows to its size.
    validations : int, optional
        Validations per pass, in place of the setting.

    Raises
    ------
    ValueError
        If `position` or `weight` is negative, or `weight` zero.

    Examples
    --------
    >>> [str(leg) for leg in (Leg("pairs", (0,)), Leg("partition", (1, 2), round=2, partition=3))]
    ['round 1', 'partition 3 of round 2']
    """

    kind: str
    position: tuple[int, ...]
    passes: int = 1
    round: int = 1
    partition: int = 0
    rate: float | None = None
    weight: float = 1.0
    ramp: float = 0.0
    validations: int | None = None

    def __post_init__(self) -> None:
        if any(number < 0 for number in self.position):
            raise ValueError(f"position must be of integers from 0, which seed, found {self.position}")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be in (0, inf), found {self.weight}")

    def __str__(self) -> str:
        if self.round == 0:
            return "the warm-up"
        return f"partition {self.partition} of round {self.round}" if self.partition else f"round {self.round}"


@dataclass(frozen=True)
class Batch:
    """A mini-batch, made on the host; what is made of it, on the device, is the loss's.

    Attributes
    ----------
    rows : (B,) int64 tensor on the CPU
        Examples that the loss will ask for, by their number in the training set.
    extra : any
        What else the loss needs to know of it.
    beside : (B',) int64 tensor on the CPU, optional
        More examples that it will ask for.

    Notes
    -----
    The examples of both are fetched ahead, and found again by the tensor: the loss is to ask for `rows` or `beside`
    themselves, not for equal ones.

    Examples
    --------
    >>> import torch
    >>> Batch(torch.tensor([3, 1]), extra="a pair").rows
    tensor([3, 1])
    """

    rows: Tensor
    extra: Any = None
    beside: Tensor | None = None


@dataclass
class Work:
    """What a leg gives to train on.

    Attributes
    ----------
    batches : callable
        Given a random generator (`rng` of :class:`Aid`), yields the mini-batches of one pass: always the same ones by a
        generator of the same state, whatever was trained on since, as a training that is resumed within the pass draws
        them again.
    n_batches : int
        How many it yields; by it parts of a pass are validated and the step is scheduled.
    record : dict
        What joins the records of the leg's validations: numbers and texts. :meth:`Method.begin_pass` may change it.
    propagated : (rows, labels), optional
        Labels that examples got, two int64 arrays; kept for reports by round, but for round 0, and never trained on.
    state : any
        What :meth:`Method.begin_pass` needs to know, and leaves as it is.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> def batches(rng):
    ...     for rows in torch.from_numpy(rng.permutation(6)).split(2):
    ...         yield Batch(rows)
    >>> work = Work(batches, n_batches=3)
    >>> [len(batch.rows) for batch in work.batches(np.random.default_rng(0))]
    [2, 2, 2]
    """

    batches: Callable[[np.random.Generator], Iterator[Batch]]
    n_batches: int
    record: dict[str, Any] = field(default_factory=dict)
    propagated: tuple[np.ndarray, np.ndarray] | None = None
    state: Any = None


class Method(nn.Module):
    """A method of training an embedding.

    Its parameters and buffers (heads, memories, proxies) are optimised with the network's, moved to the device and
    saved by the engine. The model that is trained is not among them: a method works on it through :class:`Aid`.

    Three attributes of the class belong to it. `Settings` is the dataclass of its settings, a subclass of
    :class:`Settings`: they become flags, keys of the table ``[method]`` of a TOML file, and a page's table; no name is
    one of :class:`Config`'s. `Head` maps the network's (B, d) output to the embedding, by default with an orthogonal L;
    it is made by ``Head(d, l, generator=...)`` with l the setting `metric_dim`, and its ``diagnostics()``, where it has
    such, join the records. `needs_labels` says whether it learns from labels: data without any are refused before any
    work then. One that needs none may be given some, or classes without any.

    Parameters
    ----------
    settings : Settings
        An instance of `Settings`.
    model : MetricModel
        The model to be trained, for its dimensions; on the CPU.
    data : TrainingSet
        What is known of the examples.
    seed : int
        Decides the parameters to begin with.

    Raises
    ------
    ValueError
        If the data are not such as it can learn from.

    Examples
    --------
    A softmax on the embeddings of the labelled examples, all at once, twenty times:

    >>> import torch
    >>> from torch import nn
    >>> from ssdml_fast.train import Batch, Leg, Method, Work
    >>> class Softmax(Method):
    ...     def __init__(self, settings, model, data, seed):
    ...         super().__init__(settings, model, data, seed)
    ...         self.directions = nn.Parameter(torch.eye(model.dim, len(data.classes)))
    ...
    ...     def legs(self):
    ...         return [Leg("softmax", (0,), passes=20)]
    ...
    ...     def prepare(self, leg, aid):
    ...         rows = torch.from_numpy(self.data.labelled)
    ...         batch = Batch(rows, torch.from_numpy(self.data.labels)[rows])
    ...         return Work(lambda rng: iter([batch]), n_batches=1)
    ...
    ...     def loss(self, batch, aid):
    ...         y = aid.head(aid.embed(batch.rows))
    ...         return nn.functional.cross_entropy(y @ self.directions, aid.send(batch.extra))
    >>> from ssdml_fast.data import load
    >>> from ssdml_fast.models.digits import DigitsNet
    >>> from ssdml_fast.models.seeded import seeded
    >>> from ssdml_fast.train import fit
    >>> fitted = fit(seeded(DigitsNet, 0), load("digits"), method=Softmax, device="cpu")
    >>> fitted.best["score"] > fitted.history[0]["score"]
    True
    """

    Settings: ClassVar[type[Settings]] = Settings
    Head: ClassVar[type[nn.Module]] = OrthogonalMetric
    needs_labels: ClassVar[bool] = True

    def __init__(self, settings: Any, model: MetricModel, data: TrainingSet, seed: int) -> None:
        super().__init__()
        self.settings, self.data, self.seed = settings, data, seed

    def stages(self) -> Sequence[Method]:
        """Methods whose legs are gone through one after another: by default, itself alone.

        Returns
        -------
        sequence of Method
            Each prepares its own legs and takes their loss. Their parameters are optimised as far as they are this
            method's too, as those of an attribute are.
        """
        return (self,)

    def head_optimizer(self, head: nn.Module, config: Config) -> torch.optim.Optimizer | None:
        """Make what moves the head along a gradient: by default Cayley steps; None where it has no parameters.

        Parameters
        ----------
        head : torch.nn.Module
            An instance of `Head`.
        config : Config
            The engine's settings; `metric_step` is the step.

        Returns
        -------
        torch.optim.Optimizer or None
        """
        return CayleySGD(head.parameters(), config.metric_step) if any(True for _ in head.parameters()) else None

    def check(self, config: Config) -> None:
        """Refuse settings of the engine that nothing can be learnt with; by default none.

        Parameters
        ----------
        config : Config
            The engine's settings.

        Raises
        ------
        ValueError
            With a message that names the setting; nothing has been done or written yet.
        """

    def legs(self) -> Sequence[Leg]:
        """Return the whole plan, which depends on settings and labels alone.

        Returns
        -------
        sequence of Leg
            In the order that they are gone through.
        """
        raise NotImplementedError

    def prepare(self, leg: Leg, aid: Aid) -> Work:
        """Do what a leg begins with: embed, build graphs, cluster, mine.

        Parameters
        ----------
        leg : Leg
            One of :meth:`legs`.
        aid : Aid
            Just seeded by the leg's position.

        Returns
        -------
        Work
        """
        raise NotImplementedError

    def begin_pass(self, work: Work, aid: Aid) -> None:
        """Do what a pass begins with, as solving for the head on all its examples; by default nothing.

        It may change the record of the work, the head, the network, and this method's parameters and buffers, which are
        saved within a leg. The rest of the work stays what :meth:`prepare` makes of it: a training that is resumed in
        the middle of a pass prepares the leg again, and does not begin the pass again.

        Parameters
        ----------
        work : Work
            What :meth:`prepare` returned.
        aid : Aid
            Just seeded by the pass.
        """

    def loss(self, batch: Batch, aid: Aid) -> Tensor | None:
        """Return the loss of a mini-batch. Torch's global generators are just seeded by its place in the training.

        It may move the head first, by :meth:`Aid.move_head`; whatever has a gradient afterwards is moved by the engine.

        Parameters
        ----------
        batch : Batch
            One that the leg's work yielded.
        aid : Aid
            :meth:`Aid.embed` gives the batch's embeddings, to learn from.

        Returns
        -------
        () float32 tensor on `aid.device`, or None
            None where there is nothing to learn from. The mean over the mini-batch, so that the step's size does not
            depend on how much it holds.
        """
        raise NotImplementedError
