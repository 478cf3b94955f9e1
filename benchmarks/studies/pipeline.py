"""Images per second of what reads a Dataset for the trainer, beside torch's DataLoader of as many workers.

    python benchmarks/studies/pipeline.py [--workers 2] [--images 4096] [--repeats 7]

Both decode the same JPEG files, made here, in the same random order: ours an ``ImageFileDataset``; the DataLoader
torchvision's ``ImageFolder`` where that can be imported, else a Dataset that does as it does (open, convert), with the
same crop and resizing. First all their pixels are compared; then passes are timed in turn, after one each that starts
the workers. Prints the medians, and that of passes over what ours has kept; and, as the ratio of wall times wanders on
a machine that does other things too, the processor time of an image, that of all processes. Where ours decodes large
files at a fraction of their size, the last row, pixels differ; it prints by how much.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssdml_fast.data import ImageFileDataset, image_folder
from ssdml_fast.data.examples import DatasetExamples

DISTINCT, CLASSES, BATCH = 512, 8, 128
ROWS = (
    (48, 40, 32),
    (72, 64, 64),
    (500, 375, 224),
    (500, 375, 64),
)  # width and height of the files, side of what is read


class SquareTensor:
    """The largest central square of an image at a size, as a tensor of bytes."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Image.Image) -> Tensor:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        square = square.resize((self.side, self.side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


class PlainFolder(Dataset):
    """As torchvision's ImageFolder."""

    def __init__(self, root: str, transform: Callable[[Image.Image], Tensor]) -> None:
        classes = sorted(os.listdir(root))
        self.samples = [
            (os.path.join(root, name, file), label)
            for label, name in enumerate(classes)
            for file in sorted(os.listdir(os.path.join(root, name)))
        ]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        path, label = self.samples[i]
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        return self.transform(image), label


try:
    from torchvision.datasets import ImageFolder
except ImportError:
    ImageFolder = PlainFolder


def make_files(root: Path, n: int, size: tuple[int, int]) -> None:
    """Smooth random pictures, a few hundred of them, each linked to as often as it takes."""
    rng = np.random.default_rng(0)
    sources = []
    for i in range(DISTINCT):
        colours = rng.integers(0, 256, (12, 12, 3), np.uint8)
        sources.append(root / f"{i}.jpg")
        Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).save(sources[-1], quality=90)
    for c in range(CLASSES):
        (root / "files" / f"class{c}").mkdir(parents=True)
    for i in range(n):
        os.link(sources[i % DISTINCT], root / "files" / f"class{i % CLASSES}" / f"{i:06}.jpg")


def seconds(batches: Iterable[Tensor]) -> float:
    """Wall time of reading them all."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def processor_seconds(processes: Iterable[Any]) -> float:
    """Processor time of this process and of others that still run, as Linux tells it."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def compare(root: Path, n: int, size: tuple[int, int], side: int, workers: int, repeats: int) -> None:
    """Print a row."""
    make_files(root, n, size)
    order = torch.from_numpy(np.random.default_rng(1).permutation(n)).split(BATCH)
    dataset = ImageFileDataset(image_folder(root / "files"), side)
    ours = DatasetExamples(dataset, "images", workers, cache_gb=0)
    kept = DatasetExamples(dataset, "images", workers, cache_gb=100)
    plain = DataLoader(
        ImageFolder(str(root / "files"), transform=SquareTensor(side)),
        batch_sampler=[rows.tolist() for rows in order],
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    differ = 0.0
    for found, again, (expected, _) in zip(ours.stream(order), kept.stream(order), plain, strict=True):
        if min(size) < 4 * side and not torch.equal(found, expected):
            raise SystemExit(f"other pixels of {size[0]}x{size[1]} at {side}")
        if not torch.equal(found, again):
            raise SystemExit("other pixels from the cache")
        differ += float((found.float() - expected.float()).abs().mean()) / len(order)
    times: dict[str, list[float]] = {"ours": [], "plain": [], "kept": []}
    assert ours.workers and plain._iterator
    workers_of: dict[str, Any] = {"ours": ours.workers.processes, "plain": plain._iterator._workers, "kept": ()}
    passes = {
        "ours": lambda: ours.stream(order),
        "plain": lambda: (images for images, _ in plain),
        "kept": lambda: kept.stream(order),
    }
    processor = dict.fromkeys(times, 0.0)
    for _ in range(repeats):
        for name, batches in passes.items():
            before = processor_seconds(workers_of[name])
            times[name].append(seconds(batches()))
            processor[name] += (processor_seconds(workers_of[name]) - before) / repeats / n * 1e6
    ours.close()
    kept.close()
    rates = {name: n / statistics.median(took) for name, took in times.items()}
    ratios = sorted(plain / ours for ours, plain in zip(times["ours"], times["plain"], strict=True))
    print(
        f"{size[0]}x{size[1]} to {side}x{side}, {workers} workers:  ours {rates['ours']:,.0f}/s  "
        f"{ImageFolder.__name__} {rates['plain']:,.0f}/s  ratio {rates['ours'] / rates['plain']:.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})  processor {processor['ours']:.0f} and {processor['plain']:.0f} us  "
        f"kept {rates['kept']:,.0f}/s  mean difference of a pixel {differ:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="of each, at least 1")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    for width, height, side in ROWS:
        n = max(BATCH, arguments.images * 48 * 40 // (width * height) * (1 + (width > 100) * 15))
        with tempfile.TemporaryDirectory() as root:
            compare(Path(root), n, (width, height), side, arguments.workers, arguments.repeats)


if __name__ == "__main__":
    main()
