"""Decoded examples that are kept in memory, as many as fit."""

from __future__ import annotations

import numpy as np

from .example import Form


class Cache:
    """The decoded examples that came first, up to a number of bytes.

    First come, first served: a pass reads every example once, in an order drawn anew, so the next to be asked for may
    be any. No rule for replacing them hits more often then, and one that replaces the oldest hits less: it has just
    given up what the new pass still lacks.

    Parameters
    ----------
    n : int
        Examples of the data set.
    form : Form
        Their shape and type.
    n_bytes : int
        The most to use: for the examples, and 8 bytes for each of the data set to find them by.

    Examples
    --------
    >>> import numpy as np
    >>> cache = Cache(100, Form((4,), np.dtype(np.uint8)), n_bytes=809)
    >>> cache.store(np.array([7, 8, 9]), np.arange(12, dtype=np.uint8).reshape(3, 4))
    >>> cache.places(np.array([6, 7, 8, 9]))
    array([-1,  0,  1, -1])
    """

    def __init__(self, n: int, form: Form, n_bytes: int) -> None:
        capacity = min(n, max(0, n_bytes - 8 * n) // max(form.n_bytes, 1))
        self.examples = np.empty((capacity, *form.shape), form.dtype)  # takes memory as it is written to
        self.used = 0
        self._places = np.full(n if capacity else 0, -1, np.int64)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Find where in `examples` those of `rows` are; -1: not kept."""
        return self._places[rows] if len(self._places) else np.full(len(rows), -1, np.int64)

    def store(self, rows: np.ndarray, examples: np.ndarray) -> None:
        """Keep those of the examples that are new, while there is room."""
        if self.used == len(self.examples):
            return
        rows, first = np.unique(rows, return_index=True)
        new = np.flatnonzero(self._places[rows] < 0)[: len(self.examples) - self.used]
        rows, first = rows[new], first[new]
        places = np.arange(self.used, self.used + len(rows))
        self.examples[places] = examples[first]
        self._places[rows] = places
        self.used += len(rows)
