"""Trains by every method on a device, as on the CPU: what agrees, what waits, how fast, and what moves between the two.

    python benchmarks/tools/train_on_device.py --device cuda [--tiny]

Digits (where scikit-learn is installed) and images of CIFAR-10's size, which are made here. Prints one line per check,
and examples per second by precision and batch size; fails if a check does. Needs no more than the kernels do; what an
extra would allow is left out with a sentence.
"""

from __future__ import annotations

import argparse
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssdml_fast._extras import require
from ssdml_fast.data import hide_labels
from ssdml_fast.data.digits import load_digits
from ssdml_fast.evaluate import recall_at_k
from ssdml_fast.methods import METHODS, settings_of
from ssdml_fast.methods.recipes import settings as recipe_settings
from ssdml_fast.models.networks import choose
from ssdml_fast.models.seeded import seeded
from ssdml_fast.runs.folder import RunFolder
from ssdml_fast.train import Config, Fitted, fit
from ssdml_fast.train.engine import Engine

Images = tuple[np.ndarray, np.ndarray, np.ndarray]  # as the network takes them, the labels that are known, all labels

FEW = {  # steps of any method; nothing random on the device, whose generator is another
    "rounds": 1, "partition_size": 1000, "epochs": 1, "warmup": 10, "confident": 1.0, "confident_last": 1.0,
    "neighbors": 8,
}  # fmt: skip
VARIANTS = {  # settings with which a method takes another path
    "ssdml": ({"softmax_weight": 1.0}, {"mining": "neighborhood", "metric_update": "partition"},
              {"metric_update": "conjugate"}),
}  # fmt: skip
FIRST, LATER = 0.01, 0.05  # relative differences of losses: of the first record, and of all
SCORES = 0.05  # difference of Recall@1 at the end
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {}, "TF32": {"tf32": True}, "bfloat16": {"precision": "bfloat16"}, "float16": {"precision": "float16"},
}  # fmt: skip
LIMITED = 64 << 20  # bytes, for a training that needs more


def digits() -> Images:
    """scikit-learn's digits."""
    data = load_digits()
    return data.images, data.labels, data.truth


def coloured(n: int) -> Images:
    """Images of CIFAR-10's size in ten classes: a pattern each, moved, dimmed and covered by noise."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, n)
    patterns = np.kron(rng.standard_normal((10, 3, 8, 8)), np.ones((4, 4)))
    images = 0.5 * rng.standard_normal((n, 3, 32, 32))
    for image, c in zip(images, truth, strict=True):
        image += rng.uniform(0.2, 1) * np.roll(patterns[c], rng.integers(-4, 5, 2), (1, 2))
    return images.astype(np.float32), hide_labels(truth, 10, rng), truth


def train(images: Images, method: str, settings: dict[str, Any], device: str, **engine: Any) -> Fitted:
    """Train without validation."""
    arguments = {name: engine.pop(name) for name in ("run", "resume", "on_validation") if name in engine}
    config = Config(**{"select": "last", "metric_dim": 16} | engine)
    network = seeded(choose(images[0].shape[1:]).network, 0)
    known = settings_of(method).__dataclass_fields__
    own = {name: value for name, value in settings.items() if name in known}
    return fit(network, images[:2], method=method, settings=own, config=config, device=device, **arguments)


def score(fitted: Fitted, images: Images) -> float:
    """Recall@1 of the training images by all their labels."""
    return recall_at_k(fitted.model.embed(images[0]), images[2], (1,))[1]


def agrees(images: Images, method: str, settings: dict[str, Any], device: str, batch_size: int) -> str:
    """A few steps reach on the device what they reach on the CPU."""
    found = {}
    for where in ("cpu", device):
        fitted = train(images, method, FEW | settings, where, batch_size=batch_size, validations=4)
        losses = [record["loss"] for record in fitted.history[1:]]
        found[where] = np.array(losses), score(fitted, images)
    (losses, near), (others, far) = found["cpu"], found[device]
    apart = np.abs(others / losses - 1)
    text = f"loss {losses[0]:.4f} … {losses[-1]:.4f}, {apart.max():.1e} apart; R@1 {near:.3f}, {far:.3f}"
    assert apart[0] < FIRST and apart.max() < LATER and abs(near - far) < SCORES, text
    return text


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Count, by place, what waits for the device within the steps of a training."""
    step, found = Engine.step, Counter[str]()

    def watched(self: Engine, *arguments: Any) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                return step(self, *arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")
                for each in caught:
                    if "synchroniz" in str(each.message):
                        found[f"{Path(each.filename).name}:{each.lineno}"] += 1

    Engine.step = watched  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Engine.step = step  # type: ignore[method-assign]


def does_not_wait(images: Images, method: str, settings: dict[str, Any], device: str) -> str:
    """Steps queue their work; nothing in them reads what is on the device."""
    texts = []
    for name, precision in PRECISIONS.items():
        if name != "TF32":
            with waits() as found:
                train(images, method, FEW | settings | {"mixup": 0.2}, device, augment="strong", **precision)
            # with losses scaled, an optimiser that is not fused, the head's, reads whether a gradient is finite
            assert not found or name == "float16", f"{name}: {found.most_common(3)}"
            texts.append(f"{name} {found.total()}")
    return ", ".join(texts)


def speed(images: Images, device: str, batch_sizes: tuple[int, ...]) -> None:
    """Print a table of examples per second, in steps of the default recipe for CIFAR-10 after those of a first pass."""
    print("examples/s" + "".join(f"{size:>10}" for size in batch_sizes) + "  per mini-batch")
    settings = {"rounds": 1, "partition_size": len(images[0]), "epochs": 3, "confident": 1.0, "warmup": 0}
    recipe = recipe_settings("ssdml", "default", images[0].shape[1:]) | settings
    engine = {name: recipe[name] for name in Config.__dataclass_fields__ if name in recipe}
    for name, precision in PRECISIONS.items():
        if device == "cpu" and name not in ("float32", "bfloat16"):
            continue
        rates = []
        for size in batch_sizes:
            changed = engine | precision | {"batch_size": size}
            history = train(images, "ssdml", recipe, device, **changed).history[2:]
            seconds = sum(record["seconds"]["train"] + record["seconds"]["mine"] for record in history)
            rates.append(sum(record["examples"] for record in history) / seconds)
        print(f"{name:10}" + "".join(f"{rate:10.0f}" for rate in rates), flush=True)


def too_little_memory(images: Images, device: str) -> str:
    """What does not fit is one error that says what to lower."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + LIMITED) / total, device)
    try:
        train(images, "ssdml", FEW, device, batch_size=len(images[0]))
    except MemoryError as error:
        assert "lower batch_size" in str(error), str(error)
        return str(error)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    raise AssertionError("it fitted")


class Stop(Exception):
    """What ends a training that is to be resumed elsewhere."""


def moves(images: Images, method: str, device: str) -> str:
    """A training that is stopped on the device goes on on the CPU, and then on the device again."""
    try:
        require("a checkpoint", "safetensors")
    except ImportError as error:
        return f"not checked: {error}"
    settings = FEW | {"rounds": 3, "partition_size": len(images[0])}

    def stop(record: dict[str, Any]) -> None:
        if record["validation"] > 0 and record["round"] == at:
            raise Stop

    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        for at, where in ((2, device), (3, "cpu"), (4, device)):
            try:
                fitted = train(images, method, settings, where, run=run, resume=run.resumable, on_validation=stop)
            except Stop:
                assert at < 4
    whole = train(images, method, settings, device)
    near, far = score(whole, images), score(fitted, images)
    assert fitted.stopped == "finished" and len(fitted.history) == len(whole.history), fitted.history
    assert abs(near - far) < SCORES, f"R@1 {near:.3f} without a stop, {far:.3f} with two"
    return f"R@1 {near:.3f} without a stop, {far:.3f} with two"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="only see whether this program works")
    arguments = parser.parse_args()
    device = arguments.device
    sets = {"coloured": coloured(200 if arguments.tiny else 2000)}
    try:
        sets["digits"] = digits()
    except ImportError as error:
        print(f"no digits: {error}")
    failed = []

    def check(name: str, call: Callable[..., str], *given: Any) -> None:
        try:
            print(f"{name}: {call(*given)}", flush=True)
        except Exception:
            failed.append(name)
            print(f"FAILED {name}: {traceback.format_exc().strip().splitlines()[-1]}", flush=True)
            traceback.print_exc()

    for method in METHODS:
        for data, images in sets.items():
            for settings in ({}, *VARIANTS.get(method, ())):
                name = ", ".join([data, method, *(f"{key} {value}" for key, value in settings.items())])
                check(f"agrees, {name}", agrees, images, method, settings, device, 20 if arguments.tiny else 100)
                if device != "cpu" and data == "coloured":
                    some: Images = tuple(part[:300] for part in images)  # type: ignore[assignment]
                    check(f"waits, {name}", does_not_wait, some, method, settings, device)
        check(f"moves, {method}", moves, images, method, device)
    if device != "cpu":
        check("too little memory", too_little_memory, sets["coloured"], device)
    speed(
        coloured(200) if arguments.tiny else coloured(10_000), device, (10, 20) if arguments.tiny else (100, 250, 1000)
    )
    if failed:
        raise SystemExit(f"{len(failed)} checks failed")


if __name__ == "__main__":
    main()
