"""Data sets, split for semi-supervised metric learning: :func:`load` reads one by name and path."""

from __future__ import annotations

from .dataset import DataError, Dataset, Source, hide_labels, stratified_split
from .load import load

__all__ = ["DataError", "Dataset", "Source", "hide_labels", "load", "stratified_split"]
