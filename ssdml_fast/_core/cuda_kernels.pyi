"""Kernels for CUDA devices. Arrays, workspaces and streams are passed by address."""

from collections.abc import Callable

from .baseline import Peers

def device_of(address: int) -> int: ...
def knn_graph_workspace(n: int, d: int, k: int, metric: str, largest: int) -> int: ...
def knn_graph(
    dtype: str,
    x: int,
    n: int,
    d: int,
    k: int,
    metric: str,
    ptr: int,
    segments: int,
    largest: int,
    indices: int,
    distances: int,
    workspace: int,
    stream: int,
    progress: Callable[[float], object] | None,
) -> None: ...
def knn_search_workspace(n_queries: int, n_base: int, d: int, k: int, metric: str) -> int: ...
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
    workspace: int,
    stream: int,
    progress: Callable[[float], object] | None,
) -> None: ...
def propagate_affinity_workspace(n: int, k: int, weighted: bool, classes: int) -> int: ...
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
    workspace: int,
    stream: int,
    progress: Callable[[float], object] | None,
    peers: Peers | None = None,
) -> tuple[int, float]: ...
def propagate_labels_workspace(n: int, k: int, weighted: bool, segments: int, classes: int) -> int: ...
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
    workspace: int,
    stream: int,
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
    stream: int,
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
    stream: int,
) -> None: ...
def projected_loss_workspace(n: int, n_triplets: int) -> int: ...
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
    workspace: int,
    stream: int,
) -> None: ...
def cayley_update_workspace(dtype: str, batch: int, l: int) -> int: ...
def cayley_update(
    dtype: str,
    L: int,
    grad: int,
    batch: int,
    d: int,
    l: int,
    step: float,
    updated: int,
    drift: int,
    workspace: int,
    stream: int,
) -> None: ...
def riemannian_cg_workspace(dtype: str, n: int, d: int, l: int, n_triplets: int) -> int: ...
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
    report: int,
    workspace: int,
    stream: int,
) -> None: ...
