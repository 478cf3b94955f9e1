"""The operators of knn_graph and knn_search."""

from __future__ import annotations

import torch

from .._run import knn_graph as run
from .library import KEY, library

library.define("knn_graph(Tensor x, int k, str metric, Tensor? ptr, int? num_threads) -> (Tensor, Tensor)")
library.define("knn_search(Tensor queries, Tensor base, int k, str metric, int? num_threads) -> (Tensor, Tensor)")


def _knn_graph(x, k, metric, ptr, num_threads):
    return run.knn_graph(x, k, metric, ptr, num_threads)[:2]


def _knn_graph_fake(x, k, metric, ptr, num_threads):
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    return x.new_empty((x.shape[0], k), dtype=torch.int64), x.new_empty((x.shape[0], k), dtype=dtype)


def _knn_search_fake(queries, base, k, metric, num_threads):
    return _knn_graph_fake(queries, k, metric, None, num_threads)


library.impl("knn_graph", _knn_graph, KEY)
library.impl("knn_search", run.knn_search, KEY)
torch.library.register_fake("ssdml_fast::knn_graph", _knn_graph_fake, lib=library)
torch.library.register_fake("ssdml_fast::knn_search", _knn_search_fake, lib=library)
