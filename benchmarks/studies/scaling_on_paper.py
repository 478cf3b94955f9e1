"""What graphs, propagation and training of very many points would take, carried on paper from what was measured.

    python benchmarks/studies/scaling_on_paper.py [--points 1e8] [--dimensions 128] [--neighbors 50] [--classes 1000]
        [--processes 1 8 64] [--cores 16] [--partition 10000] [--batch 2048] [--weights 6e6]

Prints the tables of docs/notes/scaling.md: the formula of each figure, and its number for one process and for several.
RATES are what the numbers rest on, each with where it comes from. None of a GPU has been measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

RATES = {
    "graph": (0.93e9, "pairs / s of a core", "measured: `knn_graph`, 60,000 x 128 float16, k = 50"),
    "affinity": (1.6e-8, "s of a core · N²", "measured: `propagate_affinity`, 50,000, k = 50, error ≤ 1e-6"),
    "labels": (3.9e-8, "s of a core · N k C", "measured: `propagate_labels`, 50,000, k = 50, C = 10"),
    "decode": (1.56e-3, "s of a core / image", "measured: JPEG of 500 x 375 to 224 x 224, docs/benchmarks.md"),
    "gpu": (430e12, "operations / s of an H200", "arithmetic in csrc/knn_graph/cuda_filter.h; not run"),
    "nvlink": (450e9, "bytes / s, one way", "data sheet of the H200: 900 GB/s both ways"),
    "network": (50e9, "bytes / s, one way", "data sheet of a 400 Gb/s adapter, one for each GPU"),
    "ethernet": (1.25e9, "bytes / s, one way", "10 Gb/s"),
}


@dataclass(frozen=True)
class Sizes:
    """Of the problem, by the names that the formulas have for them."""

    N: float  # points, or images
    d: int  # dimensions, in float16
    k: int  # neighbours
    C: int  # classes
    P: int  # processes
    n: int  # points of a partition
    B: int  # examples of a mini-batch
    W: float  # weights of the network
    cores: int  # of each process


@dataclass(frozen=True)
class Figure:
    """A row of a table: bytes, or seconds."""

    name: str
    formula: str
    value: Callable[[Sizes], float]
    is_time: bool = False


def rate(name: str) -> float:
    """One of RATES."""
    return RATES[name][0]


def on_cores(name: str, formula: str, seconds: Callable[[Sizes], float]) -> Figure:
    """The time of what takes so many seconds of one core, divided among all of them."""
    return Figure(name, f"{formula} / (P · cores)", lambda s: seconds(s) / (s.P * s.cores), is_time=True)


def by(sent: Figure, link: str, told: str) -> Figure:
    """The time that it takes to send something."""
    return Figure(f"… {told}", "", lambda s: sent.value(s) / rate(link), is_time=True)


def ring(s: Sizes) -> float:
    return s.P // 2 * s.N / s.P * (2 * s.d + 12 * s.k + 4)


def is_shared(s: Sizes) -> bool:
    return s.P > 1


def on_cpu(s: Sizes) -> float:
    shards, lists, own = (3, 5, 2) if is_shared(s) else (1, 1, 1)
    return s.N / s.P * (shards * 2 * s.d + lists * 12 * s.k + own * (16 * s.k + 330))


def on_gpu(s: Sizes) -> float:
    shards, lists, copies = (3, 5, 2) if is_shared(s) else (1, 1, 1)
    return s.N / s.P * (shards * 2 * s.d + lists * 12 * s.k + copies * (2 * s.d + 17) + 8 * (3 * s.k + 320))


SENT = Figure("sent by a process", "⌊P/2⌋ N/P (2 d + 12 k + 4)", ring)
GRAPH = [
    Figure("points of a process", "2 N/P d", lambda s: 2 * s.N / s.P * s.d),
    Figure("their lists", "12 N/P k", lambda s: 12 * s.N / s.P * s.k),
    Figure("most memory, CPU", "N/P (3 · 2 d + 5 · 12 k + 2 (16 k + 330))", on_cpu),
    Figure("most memory, GPU", "N/P (3 · 2 d + 5 · 12 k + 2 (2 d + 17) + 8 (3 k + 320))", on_gpu),
    SENT,
    by(SENT, "nvlink", "by NVLink"),
    by(SENT, "network", "by 400 Gb/s"),
    by(SENT, "ethernet", "by 10 Gb/s"),
    on_cores("time, cores", "N²/2 / 0.93e9", lambda s: s.N**2 / 2 / rate("graph")),
    Figure(
        "time, GPU, expected",
        "(N²/P - N²/(2 P²)) 2 d / 430e12",
        lambda s: (s.N**2 / s.P - s.N**2 / (2 * s.P**2)) * 2 * s.d / rate("gpu"),
        is_time=True,
    ),
]
PROPAGATION = [
    Figure("the graph, in every process", "12 N k", lambda s: 12 * s.N * s.k),
    Figure("class mass or posteriors, float32, in every process", "4 N C", lambda s: 4 * s.N * s.C),
    on_cores("affinity of all points: time, cores", "1.6e-8 N²", lambda s: rate("affinity") * s.N**2),
    on_cores("affinity of partitions of n: time, cores", "1.6e-8 N n", lambda s: rate("affinity") * s.N * s.n),
    Figure(
        "labels of all points: time, cores",
        "3.9e-8 N k · 8 ⌈⌈C/8⌉/P⌉ / cores",
        lambda s: rate("labels") * s.N * s.k * 8 * ceil(ceil(s.C / 8) / s.P) / s.cores,
        is_time=True,
    ),
    Figure("… sent by a process", "2 (P - 1)/P · 8 N C", lambda s: 2 * (s.P - 1) / s.P * 8 * s.N * s.C),
]
STEP = Figure(
    "a step, sent by a process",
    "4 B/P d (P - 1) + 2 (P - 1)/P · 4 W",
    lambda s: 4 * s.B / s.P * s.d * (s.P - 1) + 8 * s.W * (s.P - 1) / s.P,
)
PASS = Figure("a pass, sent by a process", "N/B times that", lambda s: s.N / s.B * STEP.value(s))
TRAINING = [
    STEP,
    by(STEP, "ethernet", "by 10 Gb/s"),
    PASS,
    by(PASS, "nvlink", "by NVLink"),
    by(PASS, "network", "by 400 Gb/s"),
    by(PASS, "ethernet", "by 10 Gb/s"),
    on_cores("a pass, decoding: time, cores", "1.56e-3 N", lambda s: rate("decode") * s.N),
]


def told(figure: Figure, sizes: Sizes) -> str:
    """The number of a figure, with its unit."""
    value = figure.value(sizes)
    units = (
        (("years", 31557600), ("days", 86400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3))
        if figure.is_time
        else (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    )
    if not value:
        return "–"
    unit, length = next(((unit, length) for unit, length in units if value >= length), units[-1])
    return f"{value / length:#.3g}".rstrip(".") + f" {unit}"


def table(figures: list[Figure], sizes: list[Sizes]) -> str:
    """Of all figures, a column for each number of processes."""
    lines = ["| | formula | " + " | ".join(f"P = {s.P}" for s in sizes) + " |", "|---|---|" + "---|" * len(sizes)]
    for figure in figures:
        cells = [figure.name, figure.formula, *(told(figure, s) for s in sizes)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=float, default=1e8, help="N")
    parser.add_argument("--dimensions", type=int, default=128, help="d, float16")
    parser.add_argument("--neighbors", type=int, default=50, help="k; that of affinity is measured for 50")
    parser.add_argument("--classes", type=int, default=1000, help="C")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 8, 64], help="P")
    parser.add_argument("--partition", type=int, default=10_000, help="n")
    parser.add_argument("--batch", type=int, default=2048, help="B")
    parser.add_argument("--weights", type=float, default=6e6, help="W: GoogLeNet without its classifiers by default")
    parser.add_argument("--cores", type=int, default=16, help="of each process")
    given = parser.parse_args()
    sizes = [
        Sizes(
            N=given.points,
            d=given.dimensions,
            k=given.neighbors,
            C=given.classes,
            P=processes,
            n=given.partition,
            B=given.batch,
            W=given.weights,
            cores=given.cores,
        )
        for processes in given.processes
    ]
    for figures in (GRAPH, PROPAGATION, TRAINING):
        print(table(figures, sizes), end="\n\n")
    print("| rate | of | from |\n|---|---|---|")
    for value, of, origin in RATES.values():
        print(f"| {value:.3g} | {of} | {origin} |")


if __name__ == "__main__":
    main()
