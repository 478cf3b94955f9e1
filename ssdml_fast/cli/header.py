"""What is said of the data before a training begins: what was understood, and what is not used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..data.damage import UNDECODED
from ..data.dataset import Dataset, LeftOut

LISTED = 12  # classes that are named with their numbers; of more, the least and the most
EXAMPLES = 5  # names of what is left out for one reason


def header(data: Dataset) -> list[tuple[str, str]]:
    """Describe data in a few lines.

    Parameters
    ----------
    data : Dataset
        As they were decoded.

    Returns
    -------
    list of (str, str)
        What each line is about, and what it says.

    Examples
    --------
    >>> import numpy as np
    >>> from ssdml_fast.data import Account, Source
    >>> labels = np.r_[np.arange(20) % 2, -1, -1]
    >>> source = Source(("cat", "dog"), np.zeros((22, 3)), labels, account=Account("arrays x and y"))
    >>> for name, text in header(source.split()):
    ...     print(f"{name:<11} {text}")
    layout      arrays x and y
    classes     2 (cat, dog), with 8 labelled examples each
    training    16 labelled and 2 unlabelled
    validation  4
    test        none
    """
    return list(_lines(data))


def _lines(data: Dataset) -> Iterator[tuple[str, str]]:
    account = data.account
    if account.layout:
        yield "layout", account.layout
    known = data.labels[data.labels >= 0]
    yield "classes", _classes(data, known)
    yield "training", f"{len(known):,} labelled and {len(data.labels) - len(known):,} unlabelled"
    yield "validation", "none" if data.val_labels is None else f"{len(data.val_labels):,}"
    yield "test", _test(data)
    for text in account.notes:
        yield "note", text
    for text in left_out(account.left_out):
        yield "left out", text


def _classes(data: Dataset, known: np.ndarray) -> str:
    """How many there are, and how many examples of each have a label."""
    if not len(known):
        return f"{len(data.classes)}, none with a label" if data.classes else "none"
    counts = np.bincount(known, minlength=len(data.classes))
    named = [(data.classes[c], n) for c, n in enumerate(counts.tolist()) if n]
    least, most = min(n for _, n in named), max(n for _, n in named)
    if least == most:
        names = f" ({', '.join(name for name, _ in named)})" if len(named) <= LISTED else ""
        return f"{len(named)}{names}, with {counted(least, 'labelled example')}" + " each" * (len(named) > 1)
    if len(named) <= LISTED:
        return f"{len(named)}, with labelled examples: {', '.join(f'{n:,} {name}' for name, n in named)}"
    return f"{len(named)}, with {least:,} to {most:,} labelled examples each"


def counted(n: int, what: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> counted(1, "image"), counted(2000, "image")
    ('1 image', '2,000 images')
    """
    return f"{n:,} {what}" + "s" * (n != 1)


def _test(data: Dataset) -> str:
    """How many test examples there are, and of which classes: a model may be judged on others than it has seen."""
    if data.test_labels is None:
        return "none"
    trained = set(data.truth[data.truth >= 0].tolist())
    if not trained:
        return f"{len(data.test_labels):,}"
    new = ~np.isin(data.test_labels, sorted(trained))
    n_new, n_classes = len(np.unique(data.test_labels[new])), len(np.unique(data.test_labels))
    if not n_new:
        without = len(trained) - n_classes
        return f"{len(data.test_labels):,}" + (f", of {n_classes} of the {len(trained)} classes" if without else "")
    of = "none of which has" if n_new == n_classes else f"{n_new} of which, with {int(new.sum()):,} examples, have no"
    return f"{len(data.test_labels):,} of {n_classes} classes, {of} training examples"


def left_out(entries: Sequence[LeftOut]) -> Iterator[str]:
    """Say what is not used, one line for each reason; of images that cannot be decoded, every name."""
    by_reason: dict[str, list[str]] = {}
    for each in entries:
        by_reason.setdefault(each.why, []).append(each.name)
    for why, names in by_reason.items():
        n = len(names) if why.startswith(UNDECODED) else EXAMPLES
        shown = ", ".join(names[:n]) + f" and {len(names) - n:,} more" * (len(names) > n)
        yield f"{len(names):,} ({why}): {shown}" if len(names) > 1 else f"{names[0]} ({why})"
