"""TensorBoard logs of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SCALARS = ("loss", "val_nmi", "val_recall@1", "triplets", "examples", "orthogonality_error")


class TensorBoard:
    """Logs the records of :func:`ssdml_fast.train.fit`, as its `on_validation`.

    Parameters
    ----------
    path : path
        Folder of the logs. A resumed training goes on in it: what was logged of validations that are made again
        is dropped.

    Raises
    ------
    ImportError
        If TensorBoard is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError(
                "tensorboard logs need the package tensorboard: pip install 'ssdml-fast[tensorboard]'"
            ) from None
        self._open, self._path = SummaryWriter, path
        self._writer: Any = None  # opened by the first record: a run folder must be empty before

    def __call__(self, record: dict[str, Any]) -> None:
        """Log one validation."""
        step = record["validation"]
        if self._writer is None:
            self._writer = self._open(str(self._path), purge_step=step)
        for name in SCALARS:
            if name in record:
                self._writer.add_scalar(name.replace("val_", "validation/"), record[name], step)
        for stage, seconds in record["seconds"].items():
            self._writer.add_scalar(f"seconds/{stage}", seconds, step)
        self._writer.flush()

    def close(self) -> None:
        """Finish the logs."""
        if self._writer is not None:
            self._writer.close()
