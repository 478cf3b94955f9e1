"""Kernels built for one instruction set; the modules avx2 and avx512 have the same. Arrays are passed by address."""

from collections.abc import Callable
from typing import Protocol

isa: str
compiler: str
cuda_build: str

class Peers(Protocol):
    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def sum(self, numbers: memoryview) -> None: ...
    def max(self, numbers: memoryview) -> None: ...

def default_threads() -> int: ...
def supported_isas() -> tuple[str, ...]: ...
def largest_magnitude(dtype: str, x: int, count: int) -> float: ...
def all_indices(x: int, count: int, n: int) -> bool: ...
def knn_graph(
    dtype: str,
    x: int,
    n: int,
    d: int,
    k: int,
    metric: str,
    ptr: int,
    segments: int,
    indices: int,
    distances: int,
    num_threads: int,
    block_bytes: int,
    progress: Callable[[float], object] | None,
) -> bool: ...
def knn_search(
    dtype: str,
    queries: int,
    n_queries: int,
    base: int,
    n_base: int,
    d: int,
    k: int,
    metric: str,
    indices: int,
    distances: int,
    num_threads: int,
    block_bytes: int,
    progress: Callable[[float], object] | None,
) -> bool: ...
def knn_between(
    dtype: str,
    a: int,
    n_a: int,
    b: int,
    n_b: int,
    d: int,
    k: int,
    metric: str,
    limits_a: int,
    indices_a: int,
    distances_a: int,
    limits_b: int,
    indices_b: int,
    distances_b: int,
    num_threads: int,
    block_bytes: int,
    progress: Callable[[float], object] | None,
) -> bool: ...
def merge_neighbors(
    dtype: str,
    n: int,
    k: int,
    indices: int,
    distances: int,
    m: int,
    further: int,
    further_distances: int,
    first: int,
    num_threads: int,
) -> None: ...
def propagate_affinity(
    dtype: str,
    indices: int,
    weights: int,
    n: int,
    k: int,
    labels: int,
    classes: int,
    gamma: float,
    tol: float,
    values: int,
    class_mass: int,
    num_threads: int,
    progress: Callable[[float], object] | None,
    peers: Peers | None = None,
) -> tuple[int, float]: ...
def propagate_labels(
    dtype: str,
    indices: int,
    weights: int,
    n: int,
    k: int,
    ptr: int,
    segments: int,
    labels: int,
    classes: int,
    gamma: float,
    tol: float,
    posteriors: int,
    num_threads: int,
    progress: Callable[[float], object] | None,
    peers: Peers | None = None,
) -> tuple[int, float]: ...
def mine_triplets(
    dtype: str,
    indices: int,
    distances: int,
    affinity: int,
    k: int,
    anchors: int,
    n_anchors: int,
    triplets: int,
    num_threads: int,
) -> None: ...
def mine_class_triplets(
    points: int,
    starts: int,
    n_groups: int,
    n_anchor_groups: int,
    nearest: int,
    width: int,
    seed: int,
    balanced: bool,
    n_triplets: int,
    triplets: int,
    num_threads: int,
) -> None: ...
def angular_loss(
    dtype: str,
    z: int,
    n: int,
    d: int,
    L: int,
    l: int,
    triplets: int,
    n_triplets: int,
    tan2_alpha: float,
    weight: int,
    losses: int,
    grad_y: int,
    x: int,
    rows: int,
    num_threads: int,
) -> tuple[float, int, bool, bool]: ...
def angular_loss_backward(
    dtype: str,
    x: int,
    used: int,
    d: int,
    L: int,
    l: int,
    grad_y: int,
    scale: float,
    rows: int,
    n: int,
    grad_z: int,
    grad_L: int,
    num_threads: int,
) -> None: ...
def projected_loss(
    dtype: str,
    y: int,
    n: int,
    l: int,
    triplets: int,
    n_triplets: int,
    tan2_alpha: float,
    weight: int,
    losses: int,
    grad_y: int,
    num_threads: int,
) -> float: ...
def cayley_update(
    dtype: str, L: int, grad: int, batch: int, d: int, l: int, step: float, updated: int, num_threads: int
) -> tuple[float, float]: ...
def qr_retraction(
    dtype: str, L: int, direction: int, batch: int, d: int, l: int, q: int, num_threads: int
) -> tuple[float, bool]: ...
def riemannian_cg(
    dtype: str,
    z: int,
    n: int,
    d: int,
    l: int,
    triplets: int,
    n_triplets: int,
    tan2_alpha: float,
    weight: int,
    iterations: int,
    L: int,
    num_threads: int,
) -> tuple[float, float, int, int, float]: ...
