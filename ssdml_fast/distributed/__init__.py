"""The operations on points that several processes hold, exactly as one process would answer them.

Every process calls the same function, each with its own part of the rows, which follow those of the processes before
it. What connects them is a group of ``torch.distributed``, by default the one that has been initialised; without any,
the part is the whole. Propagation takes the whole graph on every process, and divides the work. Loaded when first used,
as it needs torch.
"""

from .neighbors import knn_graph, knn_search
from .propagation import propagate_affinity, propagate_labels
from .shard import GraphShard

__all__ = ["GraphShard", "knn_graph", "knn_search", "propagate_affinity", "propagate_labels"]
