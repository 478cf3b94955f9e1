"""Training a network by a method, on whatever data and device."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import data as torch_data

from .. import _arrays as arrays
from .._extras import require
from .._settings import Settings
from .._world import World
from ..data.dataset import Dataset
from ..data.examples import Examples, as_examples, labels_of
from ..exceptions import RangeError, is_of_memory
from ..methods import METHODS, load_method, name_of, settings_of
from ..models.metric import MetricModel, untrained
from ..runs.fingerprint import difference, fingerprint
from ..runs.folder import RunFolder, Stored
from .config import ELSEWHERE, Config
from .device import check_compiles, network_device, surroundings
from .engine import Engine, Fitted
from .method import Diverged, Method, TrainingSet
from .stored import read_run


def fit(
    network: nn.Module,
    train: Any,
    val: Any = None,
    method: str | type[Method] | None = None,
    settings: Settings | dict[str, Any] | None = None,
    config: Config | dict[str, Any] | None = None,
    *,
    device: str | torch.device | None = None,
    prepare: nn.Module | None = None,
    run: str | os.PathLike[str] | RunFolder | None = None,
    resume: bool = False,
    on_validation: Callable[[dict[str, Any]], None] | None = None,
    on_batch: Callable[[dict[str, Any]], None] | None = None,
) -> Fitted:
    """Train a network and the head that follows it by a method, and keep the model that validates best.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (B, ...) float32 images to (B, d) l2-normalised rows. Trained in place; afterwards it holds the best
        weights, on the device that it was trained on. One without parameters that require gradients stays as it is: the
        head alone is trained.
    train : (images, labels), torch.utils.data.Dataset or ssdml_fast.data.Dataset
        Training examples. Images are an (N, ...) array of float32, or with `prepare` of uint8, or any map-style
        Dataset, whose items are examples or tuples that begin with one; labels are (N,) integers, -1 = unlabelled. A
        Dataset alone has its labels as ``labels`` or ``targets``. For a method that needs no labels they may be None or
        missing. One of :func:`ssdml_fast.data.load` holds the validation examples too, if there are any.
    val : (images, labels) or torch.utils.data.Dataset, optional
        Validation examples and all their labels, for choosing the model; needed unless `select` is ``"last"``. At least
        two classes and two examples of one of them, as all models score alike otherwise.
    method : str or type
        The name of a method (``ssdml-fast methods`` lists them), ``"package.module:Class"``, or a subclass of
        :class:`Method`; ``"ssdml"`` by default.
    settings : Settings or dict, optional
        Settings of the method, by name; its defaults if not given.
    config : Config or dict, optional
        Settings of the training that are the same for every method.
    device : str or torch.device, optional
        In place of that setting of `config`.
    prepare : torch.nn.Module, optional
        Makes of examples what the network takes, on the device, as of bytes that a Dataset decodes.
    run : str, path or RunFolder, optional
        Folder to write to: metrics, the best model, and what resuming needs, after every leg of the training (a
        partition, or 250 mini-batches of a warm-up), every 50 seconds within one, and where SIGINT, SIGTERM or SIGHUP
        end it, which wait for the end of a step.
    resume : bool
        Continue from the checkpoint in `run`; `method`, `settings` and `config` are the run's if not given. The result
        is the same as without the interruption. The device, `workers` and `cache_gb` may be others.
    on_validation : callable, optional
        Called after each validation with its record: a dict of its number ``validation`` and of how many are
        ``planned``; ``epoch``, ``round`` and ``partition``; ``loss`` (mean since the one before), ``examples`` (trained
        on since), ``score``, ``val_nmi``, ``val_recall@1``, ``seconds`` (by stage), and what the method and the head
        add. The first is of the untrained model, then there is one after each pass or, where the setting `validations`
        is more than 1, each such part of it. Of several processes the first alone is called back.
    on_batch : callable, optional
        Called after mini-batches with ``validation`` (number of the next), ``planned``, ``done`` (mini-batches since
        the one before), ``batches`` (between the two), ``examples`` (since the one before), ``loss`` (of the
        mini-batch). After each on the CPU; after every 25th where reading the loss waits for a device.

    Returns
    -------
    Fitted

    Raises
    ------
    TypeError, ValueError
        If an argument does not have the form above, as a network that embeds validation examples by NaN or infinity
        before it is trained; the message names it.
    RunError
        If the folder of `run` holds files already; if `resume` is set and the checkpoint is missing, damaged, or of
        other settings or data.
    ImportError
        If the extra ``train`` is not installed, which validation and run folders need.
    MemoryError
        If the device has too little memory; a run can go on from its last checkpoint.
    ssdml_fast.exceptions.ProcessError
        If another process of the group fails, whose message it has, or ends.

    Notes
    -----
    Called in every process of the default group of ``torch.distributed``, with the same arguments, it trains them
    together: `batch_size` is of all of them, each embeds its part, and all return the same. The numbers are those of
    one process but for rounding, unless layers of the network draw at random, as dropout, which draws others in each.
    Only the first process touches `run`, which any number of processes goes on with.

    Random choices depend only on the seed and the position in the training. The caller's global generators are left as
    they were, and what he has set for torch (default type and device, autocast, gradients) changes nothing.

    Examples
    --------
    >>> from ssdml_fast.data.digits import load_digits
    >>> from ssdml_fast.models.digits import DigitsNet
    >>> from ssdml_fast.models.seeded import seeded
    >>> fitted = fit(seeded(DigitsNet, 0), load_digits(), settings={"rounds": 1}, device="cpu")
    >>> fitted.best["score"] > fitted.history[0]["score"]
    True
    """
    world = World.here()
    with world.together():
        if len(set(world.every((run is None, resume)))) > 1:
            raise ValueError("run and resume must be given in every process or in none")
        run = RunFolder(run) if isinstance(run, str | os.PathLike) else run
        was_decoded = None
        if isinstance(train, Dataset) and val is None:
            was_decoded = train.decoded
            val = None if train.val_images is None else (train.val_images, train.val_labels)
            train = train.images, train.labels
        if val is not None:
            require("validation", "sklearn", "threadpoolctl")
        if run is not None:
            require("a run folder", "safetensors")
        if resume:
            if run is None:
                raise ValueError("run must be given to resume from")
            was = world.once(lambda: read_run(run, method))
            method = was.method if method is None else method
            settings = was.settings if settings is None else settings
            config = was.config if config is None else config
        kind = load_method("ssdml" if method is None else method)
        own: Settings = _as_settings(settings_of(kind), settings, "settings")
        shared: Config = _as_settings(Config, config, "config")
        if device is not None:
            shared = replace(shared, device=str(device) if isinstance(device, torch.device) else device)
        where = network_device(shared)
        if run and not resume:
            world.once(run.refuse_used)  # before any work
        decoded = None if was_decoded is None else _decoded(was_decoded)
        with surroundings(where, shared.tf32), ExitStack() as opened:
            if shared.compile:
                check_compiles(where)
            kept, val_kept = _cache_shares(shared.cache_gb, train, val)
            examples, labels = _part(train, "train", shared.workers, kept, kind.needs_labels)
            opened.callback(examples.close)
            val_examples, val_labels = (None, None) if val is None else _part(val, "val", shared.workers, val_kept)
            if val_examples is not None:
                opened.callback(val_examples.close)
            _check(examples, labels, val_examples, val_labels, shared, prepare)
            _check_labelled(labels, kind)
            one = examples.take(torch.tensor([0]))
            try:
                model = untrained(network, one, shared.metric_dim, shared.seed, kind.Head, prepare)
                data = TrainingSet(labels, examples.shape)
                trained = kind(own, model, data, shared.seed)
                if world.size > 1:
                    _check_not_compiled(model, shared)
                    read, val_read = decoded or (examples, val_examples)
                    given = fingerprint(read, labels, val_read, val_labels)
                    _check_alike(world, trained, shared, model, given)
                engine = Engine(model, trained, examples, data, val_examples, val_labels, shared, where, decoded)
                stored = Stored(name_of(kind), kind.Head.__name__, asdict(own), asdict(shared))
                _train(engine, run, stored, resume, on_validation, on_batch)
                return engine.result()
            except (MemoryError, RuntimeError) as error:
                if not is_of_memory(error):
                    raise
                raise MemoryError(_too_little(where, shared, run)) from error


def _train(
    engine: Engine, run: RunFolder | None, stored: Stored, resume: bool, on_validation: Any, on_batch: Any
) -> None:
    """Begin or resume, and go on to the end."""
    engine.agree()
    if not resume:
        try:
            engine.validate({"validation": 0, "epoch": 0})
        except (Diverged, RangeError):
            part = "val" if engine.val_feed else "train"
            raise ValueError(
                f"network must embed {part} by finite numbers, found NaN, inf or such as are too large before training"
            ) from None
    world = engine.world
    if not world.is_main:
        on_validation = on_batch = None
    with ExitStack() as stack:
        if run:
            world.once(lambda: stack.enter_context(run.lock()))
        if resume:
            assert run is not None
            world.once(run.tidy)
            engine.load(run)
        else:
            if run:
                world.once(lambda: run.create(stored))
            if on_validation:
                on_validation(engine.history[0])
        engine.to_the_end(run, on_validation, on_batch)


def _check_not_compiled(model: MetricModel, config: Config) -> None:
    """Refuse to compile what exchanges numbers with other processes halfway."""
    norms = [
        name for name, module in model.network.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    if config.compile and norms:
        raise ValueError(
            f"compile must be False where several processes train a network with batch normalisation, found {norms[0]}"
        )


def _check_alike(world: World, method: Method, config: Config, model: MetricModel, given: dict[str, str]) -> None:
    """Refuse, in every process, what is not the same in all of them."""
    own = asdict(method.settings) | {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}
    own |= {"method": name_of(type(method))}
    own |= {"network": {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}}
    told = world.every((own, given))
    for rank, (other, found) in enumerate(told):
        first, held = told[0]
        different = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
        if different:
            raise ValueError(f"{', '.join(different)} must be the same in every process, found others on rank {rank}")
        what = difference(held, found)
        if what:
            raise ValueError(f"{what} must be the same in every process, found others on rank {rank}")


def _as_settings(kind: type[Any], settings: Any, name: str) -> Any:
    """Settings as an instance of their dataclass, from whatever form the caller gave."""
    if settings is None or isinstance(settings, dict):
        known = kind.__dataclass_fields__.keys()
        if unknown := sorted(map(str, (settings or {}).keys() - known)):
            raise ValueError(f"{name} must be those of {kind.__name__}, found also {', '.join(unknown)}")
        return kind(**(settings or {}))
    if type(settings) is not kind:
        raise TypeError(f"{name} must be a dict or {kind.__name__}, found {type(settings).__name__}")
    return settings


def _decoded(data: Dataset) -> tuple[Examples, Examples | None]:
    """Training and validation examples as they were decoded: for their fingerprint alone, so that none is kept."""
    train, val = (
        None if images is None else as_examples(images, "images", cache_gb=0)
        for images in (data.images, data.val_images)
    )
    assert train is not None
    return train, val


def _cache_shares(cache_gb: float, *parts: Any) -> list[float]:
    """Divide the cache between parts by their examples, as each is read in whole, again and again; arrays need none."""
    images = [part[0] if isinstance(part, tuple | list) and part else part for part in parts]
    sizes = [len(i) if isinstance(i, torch_data.Dataset) and hasattr(i, "__len__") else 0 for i in images]
    return [cache_gb * size / max(sum(sizes), 1) for size in sizes]


def _part(
    part: Any, name: str, workers: int, cache_gb: float, needs_labels: bool = True
) -> tuple[Examples, np.ndarray]:
    """Examples and labels, int64, of the training or validation part."""
    if isinstance(part, torch_data.Dataset):
        images, labels = part, labels_of(part)
        if labels is None and needs_labels:
            raise TypeError(
                f"{name} must be (images, labels), or a Dataset with its labels as .labels or .targets, found a "
                f"{type(part).__name__} with neither"
            )
    elif isinstance(part, tuple | list) and len(part) == 2:
        images, labels = part
    else:
        raise TypeError(f"{name} must be (images, labels) or a map-style Dataset, found {type(part).__name__}")
    examples = as_examples(images, f"{name} images", workers, cache_gb)
    if labels is None and not needs_labels:
        labels = np.full(len(examples), -1)
    labels = arrays.to_numpy(arrays.as_integers(labels, f"{name} labels", ndim=1))
    arrays.check_shape(labels, (len(examples),), f"{name} labels", "one per image")
    return examples, labels.astype(np.int64)


def _check(
    examples: Examples,
    labels: np.ndarray,
    val_examples: Examples | None,
    val_labels: np.ndarray | None,
    config: Config,
    prepare: nn.Module | None,
) -> None:
    """Refuse data that do not go together, or with the settings."""
    if labels.min(initial=-1) < -1:
        raise ValueError(f"train labels must be at least 0, or -1 where unlabelled, found {labels.min()}")
    if not len(labels):
        raise ValueError("train images must hold at least one example, found none")
    if prepare is None and examples.dtype != torch.float32:
        raise TypeError(
            f"train images must be float32 where there is no `prepare` that makes them so, found {examples.dtype}"
        )
    if config.augment != "none" and len(examples.shape) != 3:
        raise ValueError(
            f"augment must be 'none' for examples that are no images, found {config.augment!r} for examples of shape "
            f"{examples.shape}"
        )
    if val_examples is None or val_labels is None:
        if config.select == "validation":
            raise ValueError("val must be given to choose a model by; with select='last' there need be none")
        return
    if len(val_labels) < 2:
        raise ValueError(f"val must hold at least two examples, to find neighbours of, found {len(val_labels)}")
    if val_labels.min() < 0:
        raise ValueError(f"val labels must all be known (at least 0), found {val_labels.min()}")
    n_classes = len(np.unique(val_labels))
    if config.select == "validation" and not 2 <= n_classes < len(val_labels):
        found = "one class" if n_classes == 1 else f"a class of its own for each of its {n_classes} examples"
        raise ValueError(
            "val must hold at least two classes, and two examples of some class, as every model has the same score "
            f"otherwise, found {found}; with select='last' none is needed"
        )
    if (val_examples.shape, val_examples.dtype) != (examples.shape, examples.dtype):
        raise ValueError(
            f"val must hold examples as train does, {examples.shape} of {examples.dtype}, found "
            f"{val_examples.shape} of {val_examples.dtype}"
        )


def _check_labelled(labels: np.ndarray, kind: type[Method]) -> None:
    """Refuse data without a label where the method learns from labels."""
    if kind.needs_labels and not (labels >= 0).any():
        others = [name for name in METHODS if not load_method(name).needs_labels]
        hint = f"; methods that need none: {', '.join(others)}" if others else ""
        raise ValueError(
            f"train labels must be known of some examples, as the method {name_of(kind)} learns from them, found none "
            f"of at least 0{hint}"
        )


def _too_little(where: torch.device, config: Config, run: RunFolder | None) -> str:
    """What to do about a device that has too little memory."""
    text = f"{where} has too little memory: lower batch_size (now {config.batch_size})"
    if config.precision == "float32":
        text += ", or set precision to 'bfloat16'"
    if run is None or not run.resumable:
        return text
    return f"{text}; or go on from the checkpoint in {run.path} where there is more, by resume and another device"
