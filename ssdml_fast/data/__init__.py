"""Data sets, split for semi-supervised metric learning: :func:`load` reads one by name and path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .dataset import Account, DataError, Dataset, LeftOut, Source, hide_labels, stratified_split
from .images import ImageFiles, image_folder
from .load import load

if TYPE_CHECKING:
    from .image_dataset import ImageFileDataset

__all__ = [
    "Account",
    "DataError",
    "Dataset",
    "ImageFileDataset",
    "ImageFiles",
    "LeftOut",
    "Source",
    "hide_labels",
    "image_folder",
    "load",
    "stratified_split",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for: the rest does without."""
    if name == "ImageFileDataset":
        from .image_dataset import ImageFileDataset

        return ImageFileDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
