"""Tells the data of a training from others."""

from __future__ import annotations

import hashlib

import numpy as np

from ..data.examples import Examples

PARTS = {
    "train": "the training examples",
    "labels": "their labels",
    "val": "the validation examples",
    "val_labels": "the labels of the validation examples",
}
"""What has a fingerprint, and what to call it."""


def fingerprint(
    train: Examples, labels: np.ndarray, val: Examples | None = None, val_labels: np.ndarray | None = None
) -> dict[str, str]:
    """Hash the examples and labels that a training is given, each part for itself.

    Parameters
    ----------
    train, val : Examples
        Training and validation examples, as they are given; see :meth:`ssdml_fast.data.examples.Examples.fingerprint`.
    labels, val_labels : (N,) integer arrays
        Their labels; -1 = unlabelled.

    Returns
    -------
    dict
        By name of the part (:data:`PARTS`) 128 bits in hexadecimal.

    Examples
    --------
    >>> import numpy as np
    >>> from ssdml_fast.data.examples import as_examples
    >>> sorted(fingerprint(as_examples(np.zeros((2, 3), np.float32), "images"), np.array([0, -1])))
    ['labels', 'train']
    """
    found = {"train": train.fingerprint(), "labels": _digest(labels)}
    if val is not None and val_labels is not None:
        found |= {"val": val.fingerprint(), "val_labels": _digest(val_labels)}
    return found


def difference(was: dict[str, str], now: dict[str, str]) -> str | None:
    """Name what differs between the parts of two fingerprints, or None; a part that one lacks differs.

    Examples
    --------
    >>> difference({"train": "0a", "labels": "1b"}, {"train": "0a", "labels": "1c"})
    'their labels'
    """
    return next((what for part, what in PARTS.items() if was.get(part) != now.get(part)), None)


def _digest(labels: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(labels, np.int64).tobytes(), digest_size=16).hexdigest()
