"""How examples are cut into mini-batches."""

from __future__ import annotations


def batch_sizes(n: int, size: int) -> list[int]:
    """Sizes of the mini-batches of one pass over examples.

    A single example that would be left over joins the mini-batch before it: batch normalisation cannot learn from one.

    Parameters
    ----------
    n : int
        Examples, at least 0.
    size : int
        Per mini-batch, at least 1; the last may be smaller.

    Returns
    -------
    list of int

    Examples
    --------
    >>> batch_sizes(25, 10), batch_sizes(21, 10)
    ([10, 10, 5], [10, 11])
    """
    full, rest = divmod(n, size)
    if full and rest == 1:
        return [size] * (full - 1) + [size + 1]
    return [size] * full + [rest] * (rest > 0)
