"""Time, memory and traffic of work that several processes share, on this machine, beside one process.

    python benchmarks/studies/scaling.py [knn_graph ...] [--processes 1 2 3] [--points 20000] [--dimensions 128]
        [--neighbors 50] [--repeats 9] [--threads 1]

One process calls ``sf.knn_graph`` and the like; several, connected by gloo, call ``sf.distributed.knn_graph`` and the
like, each with its part of the rows. What they answer is compared with what one process answers, before the clock
starts; then calls are timed, each from when all are ready until the last has its answer. Prints a table:

- time: median and 95th percentile of the calls; processor time: of all threads of the process that took most, median;
- memory: the most by which a call raised the resident memory of a process (VmHWM, set back before the first call),
  its answer included, what it was given not;
- sent: bytes that left a process by its TCP sockets during a call, whatever sent them (TCP_INFO of Linux);
- answer: whether it has the same bits as that of one process, or how far it is from that.

Training takes steps of the network for MNIST on 2,000 random images; its time and traffic are those of a step of the
first process, its memory that of the whole training, and its answer the losses of the first 20 steps. The models of all
processes must have the same bits. An answer that is another ends the study.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

import ssdml_fast as sf
from ssdml_fast._world import World
from ssdml_fast.models.networks import choose
from ssdml_fast.models.seeded import seeded
from ssdml_fast.train import fit

Answer = dict[str, np.ndarray]
Work = Callable[[], Answer]  # a call, and what comes of it on this process
APART = 1e-5  # that losses may be: sums over a mini-batch are taken in another order
BYTES_SENT = 200  # offset of tcpi_bytes_sent in Linux's struct tcp_info


# --- the work ---------------------------------------------------------------------------------------------------------


def points(n: int, d: int, seed: int = 0) -> np.ndarray:
    """(n, d) float32 unit vectors in ten clusters of intrinsic dimension 16 with some noise, like an embedding."""
    rng = np.random.default_rng(0)
    centres, axes = 1.5 * rng.standard_normal((10, 16)), rng.standard_normal((16, d))
    rng = np.random.default_rng(seed)
    x = centres[rng.integers(0, 10, n)] + rng.standard_normal((n, 16))
    x = x @ axes + 0.05 * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def labels(n: int) -> np.ndarray:
    """(n,) labels: ten points of each of ten classes, -1 elsewhere."""
    y = np.full(n, -1)
    y[np.random.default_rng(1).permutation(n)[:100]] = np.arange(100) % 10
    return y


def knn_graph(world: World, n: int, d: int, k: int) -> Work:
    x = points(n, d)[world.shard(n)].copy()

    def work() -> Answer:
        graph = sf.knn_graph(x, k) if world.size == 1 else sf.distributed.knn_graph(x, k)
        return {"indices": graph.indices, "distances": graph.distances}

    return work


def knn_search(world: World, n: int, d: int, k: int) -> Work:
    """As many queries as base points."""
    rows = world.shard(n)
    base, queries = points(n, d)[rows].copy(), points(n, d, seed=1)[rows].copy()

    def work() -> Answer:
        search = sf.knn_search if world.size == 1 else sf.distributed.knn_search
        found = search(queries, base, k)
        return {"indices": found.indices, "distances": found.distances}

    return work


def propagate_affinity(world: World, n: int, d: int, k: int) -> Work:
    """Along the graph that every process has."""
    graph, y = sf.knn_graph(points(n, d), k), labels(n)

    def work() -> Answer:
        found = sf.propagate_affinity(graph, y) if world.size == 1 else sf.distributed.propagate_affinity(graph, y)
        return {"values": found.values, "class_mass": found.class_mass, "error_bound": np.array(found.error_bound)}

    return work


def propagate_labels(world: World, n: int, d: int, k: int) -> Work:
    """Along the graph that every process has, of ten classes."""
    graph, y = sf.knn_graph(points(n, d), k), labels(n)

    def work() -> Answer:
        found = sf.propagate_labels(graph, y) if world.size == 1 else sf.distributed.propagate_labels(graph, y)
        return {"posteriors": found.posteriors, "error_bound": np.array(found.error_bound)}

    return work


WORK = {
    "knn_graph": knn_graph,
    "knn_search": knn_search,
    "propagate_affinity": propagate_affinity,
    "propagate_labels": propagate_labels,
}
NAMES = (*WORK, "training")


# --- measuring, in each process ---------------------------------------------------------------------------------------


def sent() -> int:
    """Bytes that this process has sent by the TCP sockets that it has."""
    total = 0
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # of the descriptor that listed them
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as peer:
                    if peer.type == socket.SOCK_STREAM and peer.family in (socket.AF_INET, socket.AF_INET6):
                        info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                        total += struct.unpack_from("Q", info, BYTES_SENT)[0]
    return total


def memory(field: str) -> int:
    """Resident memory of this process in bytes: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(name: str, shape: tuple[int, int, int], repeats: int, reference: Path) -> dict[str, Any]:
    """What some calls take on this process, after one whose answer is compared with that of one process."""
    world = World.here()
    WORK[name](world, 200 * world.size, shape[1], 2)()  # loads what is loaded at first
    work = WORK[name](world, *shape)

    def ready() -> None:
        if world.size > 1:
            distributed.barrier()

    ready()
    Path("/proc/self/clear_refs").write_text("5")
    before, sent_before = memory("VmRSS"), sent()
    answer = work()
    sent_then, peak = sent() - sent_before, memory("VmHWM") - before
    if world.size == 1:
        np.savez(reference, **answer)
    elif apart := difference(answer, np.load(reference), world):
        sys.exit(f"{name}: {world} is {apart} from what one process answers")
    seconds, processor = [], []
    for _ in range(repeats):
        ready()
        wall, own = time.perf_counter(), time.process_time()
        work()
        seconds.append(time.perf_counter() - wall)
        processor.append(time.process_time() - own)
    return {"sent": sent_then, "memory": peak, "apart": 0.0, "seconds": seconds, "processor": processor}


def difference(answer: Answer, expected: Any, world: World) -> float:
    """How far an answer, or its rows of this process, is from that of one process: 0 where all bits are the same."""
    largest = 0.0
    for name, found in answer.items():
        whole = expected[name]
        rows = whole if whole.shape == found.shape else whole[world.shard(len(whole))]
        if found.dtype != rows.dtype or found.shape != rows.shape:
            return np.inf
        if found.tobytes() != rows.tobytes():
            largest = max(largest, float(np.abs(found - rows).max()), np.finfo(float).tiny)
    return largest


def measure_training(repeats: int, reference: Path) -> dict[str, Any]:
    """What steps of a training take on this process: a warm-up, and a round of partitions."""
    world, steps = World.here(), []

    def on_batch(told: dict[str, Any]) -> None:
        steps.append((time.perf_counter(), time.process_time(), sent(), told["loss"], told["done"]))

    images = points(2000, 28 * 28).reshape(-1, 1, 28, 28)
    network, y = seeded(choose(images.shape[1:]).network, 0), labels(len(images))
    settings = {"rounds": 1, "warmup": 20 + repeats}
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    config = {"select": "last", "device": "cpu"}
    fitted = fit(network, (images, y), settings=settings, config=config, on_batch=on_batch)
    moved = b"".join(value.numpy().tobytes() for value in fitted.model.state_dict().values())
    if any(each != moved for each in world.every(moved)):
        sys.exit("the processes went apart")
    result: dict[str, Any] = {"memory": memory("VmHWM") - before}
    if not world.is_main:
        return result | {"sent": 0, "apart": 0.0, "seconds": [0.0], "processor": [0.0]}  # the first tells of steps
    found = np.array(steps)
    answer = {"losses": found[:20, 3]}
    if world.size == 1:
        np.savez(reference, **answer)
    if (apart := difference(answer, np.load(reference), world)) > APART:
        sys.exit(f"training: losses are {apart} from those of one process")
    taken = np.diff(found[:, :3], axis=0)[found[1:, 4] > found[:-1, 4]]  # but what validation and graphs lie between
    return result | {
        "apart": apart,
        "sent": float(np.median(taken[:, 2])),
        "seconds": taken[:, 0].tolist(),
        "processor": taken[:, 1].tolist(),
    }


# --- starting processes, and the table --------------------------------------------------------------------------------


def run(size: int, threads: int, *arguments: Any) -> list[dict[str, Any]]:
    """What each of so many processes finds by :func:`measure`."""
    with tempfile.TemporaryDirectory() as folder:
        call = json.dumps(arguments)
        children = [
            subprocess.Popen(
                [sys.executable, __file__, "--as", f"{rank}", f"{size}", f"{folder}/meeting", call],
                env=os.environ | {"OMP_NUM_THREADS": f"{threads}"},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        told = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        sys.exit(f"one of {size} processes failed")
    return [json.loads(each) for each in told]


def as_one_of(rank: int, size: int, meeting: str, call: str) -> None:
    """Measure as one of several processes, and print what was found."""
    name, shape, repeats, reference = json.loads(call)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if size > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    if name == "training":
        found = measure_training(repeats, Path(reference))
    else:
        found = measure(name, tuple(shape), repeats, Path(reference))
    print(json.dumps(found), flush=True)
    if size > 1:
        distributed.destroy_process_group()


def row(name: str, size: int, found: list[dict[str, Any]], alone: float) -> str:
    """A line of the table."""
    seconds = np.max(np.broadcast_arrays(*(each["seconds"] for each in found)), 0)
    processor = max(np.median(each["processor"]) for each in found)
    apart = max(each["apart"] for each in found)
    cells = [
        f"`{name}`",
        f"{size}",
        f"{np.median(seconds):.3g} ({np.percentile(seconds, 95):.3g}) s",
        f"{processor:.3g} s ({processor / alone:.2f} of one's)",
        f"{max(each['memory'] for each in found) / 2**20:.1f} MiB",
        f"{max(each['sent'] for each in found) / 2**20:.2f} MiB",
        "of one" if size == 1 else "same bits" if apart == 0 else f"{apart:.1e} apart",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 3], help="1, which is compared with, first")
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--neighbors", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--as", dest="part", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        rank, size, meeting, call = arguments.part
        as_one_of(int(rank), int(size), meeting, call)
        return
    if unknown := [name for name in arguments.work if name not in NAMES]:
        parser.error(f"work must be of {', '.join(NAMES)}, found {unknown[0]}")
    if arguments.processes[0] != 1:
        parser.error(f"--processes must begin with 1, found {arguments.processes[0]}")
    shape = arguments.points, arguments.dimensions, arguments.neighbors
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}, {arguments.threads} threads a process")
    print("{:,} points of {} dimensions, k = {}, {} calls\n".format(*shape, arguments.repeats))
    print("| work | processes | time (95th percentile) | processor time | memory | sent | answer |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.work or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            reference = f"{folder}/answer.npz"
            for size in arguments.processes:
                found = run(size, arguments.threads, name, shape, arguments.repeats, reference)
                if size == 1:
                    alone = float(np.median(found[0]["processor"]))
                print(row(name, size, found, alone), flush=True)


if __name__ == "__main__":
    main()
