"""The records of a run's validations: what they hold, and which is of the model that was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .files import RunError, is_number

MOST = 2**53  # of what counts, validations as seconds: floats tell all whole numbers up to here apart
REQUIRED = ("validation", "planned")
COUNTS = (*REQUIRED, "epoch", "round", "partition", "triplets", "examples")
FIGURES = ("loss", "score", "val_nmi", "val_recall@1", "orthogonality_error")


def check_records(records: Any, path: Path) -> list[dict[str, Any]]:
    """Return records as they were read from a file, where each field that is read by name is what it should be.

    Each has its number and that of the last that is planned. All else may be missing, as the scores of a training
    without validation examples; fields of other names are a method's own.

    Raises
    ------
    RunError
        If one is not, or the records are those of versions before 0.1.0.
    """
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise RunError(f"{path} is damaged: it must hold a list of records")
    if not all("validation" in record for record in records):
        raise RunError(
            f"{path} is of a version of ssdml-fast before 0.1.0, whose records have other names: train again"
        )
    for i, record in enumerate(records):
        wrong = _wrong(record)
        if wrong:
            raise RunError(f"{path} is damaged: record {i} has {wrong}")
    return records


def best_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the best of at least one record: the earliest of the highest score, or the last where none has one.

    Examples
    --------
    >>> best_of([{"validation": 0, "score": 0.5}, {"validation": 1, "score": 0.9}, {"validation": 2, "score": 0.9}])
    {'validation': 1, 'score': 0.9}
    >>> best_of([{"validation": 0}, {"validation": 1}])
    {'validation': 1}
    """
    scored = [record for record in records if record.get("score") is not None]
    return max(scored, key=lambda record: record["score"]) if scored else records[-1]


def _wrong(record: dict[Any, Any]) -> str | None:
    """Describe the first field that is not what it should be."""
    for name in COUNTS:
        value = record.get(name)
        if value is None and name not in REQUIRED:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST:
            return f"a {name} that is no count: {value!r:.60}"
    for name in FIGURES:
        if record.get(name) is not None and not is_number(record[name]):
            return f"a {name} that is no finite number: {record[name]!r:.60}"
    seconds = record.get("seconds")
    if seconds is not None and not (
        isinstance(seconds, dict) and all(is_number(value) and 0 <= value < MOST for value in seconds.values())
    ):
        return f"seconds that are no times of stages: {seconds!r:.60}"
    return None
