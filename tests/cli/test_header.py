"""What is said of data before a training begins."""

import numpy as np
import pytest

from ssdml_fast.cli.header import header, left_out
from ssdml_fast.data import Account, LeftOut, Source


def said(labels, n_classes, account=Account(), **parts):  # noqa: B008  # it cannot be changed
    labels = np.asarray(labels)
    names = tuple(f"c{c}" for c in range(n_classes))
    source = Source(names, np.zeros((len(labels), 3), np.float32), labels, account=account, **parts)
    return header(source.split())


def test_few_classes_are_named_with_their_labels():
    lines = dict(said([0] * 12 + [1] * 3 + [-1] * 5, 2))
    assert lines["classes"] == "2, with labelled examples: 12 c0, 3 c1"
    assert lines["training"] == "15 labelled and 5 unlabelled"
    assert lines["validation"] == lines["test"] == "none" and "too few labelled" in lines["note"]


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([3] * 20, "20, with 3 labelled examples each"),
        ([1] * 2, "2 (c0, c1), with 1 labelled example each"),
        ([2], "1 (c0), with 2 labelled examples"),
        ([3] * 19 + [1200], "20, with 3 to 1,200 labelled examples each"),
    ],
)
def test_the_least_and_the_most_labels_of_a_class_are_said(counts, text):
    labels = np.r_[np.repeat(np.arange(len(counts)), counts), -1]
    assert dict(said(labels, len(counts)))["classes"] == text


def test_no_labels_at_all():
    lines = dict(said([-1] * 7, 0))
    assert lines["classes"] == "none" and lines["training"] == "0 labelled and 7 unlabelled"


@pytest.mark.parametrize(
    ("test_labels", "text"),
    [
        ([0, 1, 1], "3"),
        ([1, 1], "2, of 1 of the 2 classes"),
        ([2, 3, 3], "3 of 2 classes, none of which has training examples"),
        ([0, 2, 2], "3 of 2 classes, 1 of which, with 2 examples, have no training examples"),
    ],
)
def test_test_classes_that_were_not_trained_on_are_counted(test_labels, text):
    test_labels = np.array(test_labels)
    lines = dict(said([0] * 8 + [1] * 8, 4, test_images=np.zeros((len(test_labels), 3)), test_labels=test_labels))
    assert lines["test"] == text


def test_all_that_is_left_out_is_said_by_its_reason():
    entries = [LeftOut(f"{i}.txt", "no image") for i in range(8)] + [LeftOut("a.jpg", "damaged: truncated")]
    lines = said([0] * 8 + [1] * 8, 2, Account("a folder for each class", tuple(entries), ("well",)))
    assert lines[0] == ("layout", "a folder for each class") and ("note", "well") in lines
    assert lines[-2:] == [
        ("left out", "8 (no image): 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 3 more"),
        ("left out", "a.jpg (damaged: truncated)"),
    ]
    assert list(left_out([])) == []
    damaged = [LeftOut(f"{i}.png", "cannot be decoded: it is empty") for i in range(8)]
    assert list(left_out(damaged)) == [
        f"8 (cannot be decoded: it is empty): {', '.join(each.name for each in damaged)}"
    ]
