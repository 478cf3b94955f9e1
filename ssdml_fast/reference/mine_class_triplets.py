"""Twin of :mod:`ssdml_fast.ops.mine_class_triplets`."""

from __future__ import annotations

import numpy as np

from .knn_graph import knn_search


def mine_class_triplets(posteriors, n_triplets, min_confidence=0.0, seed=0, balanced=False, z=None, n_nearest=10):
    """Draw triplets one after the other; see :func:`ssdml_fast.mine_class_triplets`."""
    classes, confidence = posteriors.argmax(1), posteriors.max(1).astype(np.float64)
    groups = [np.flatnonzero((classes == c) & (confidence >= min_confidence)) for c in range(posteriors.shape[1])]
    alone = [group for group in groups if len(group) == 1]
    groups = [group for group in groups if len(group) > 1]
    anchors = [(g, i) for g, group in enumerate(groups) for i in range(len(group))]
    n_anchor_groups = len(groups)
    groups += alone
    triplets = []
    for t in range(n_triplets if n_anchor_groups and len(groups) > 1 else 0):

        def below(n, number):
            return random_bits(seed, 5 * t + number) * n >> 64  # noqa: B023 - used within this iteration only

        if balanced:
            g = below(n_anchor_groups, 0)
            i = below(len(groups[g]), 1)
        else:
            g, i = anchors[below(len(anchors), 1)]
        own = groups[g]
        following = [*own[i + 1 :], *own[:i]]
        others = groups[g + 1 :] + groups[:g]
        if z is not None:
            outside = np.sort(np.concatenate(others))
            row = knn_search(z[own[i : i + 1]], z[outside], min(n_nearest, len(outside))).indices[0]
            negatives = outside[row]
        elif balanced:
            negatives = others[below(len(others), 3)]
        else:
            negatives = np.concatenate(others)
        triplets.append((own[i], following[below(len(following), 2)], negatives[below(len(negatives), 4)]))
    return np.array(triplets, np.int64).reshape(-1, 3)


def random_bits(seed: int, i: int) -> int:
    """Number i of the SplitMix64 sequence that starts at the mixed seed."""
    return mix(mix(seed) + (i + 1) * 0x9E3779B97F4A7C15)


def mix(z: int) -> int:
    """The output function of SplitMix64, on 64 bits."""
    z %= 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)
