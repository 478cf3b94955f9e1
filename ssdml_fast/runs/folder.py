"""The folder of a run: what lies in it, written so that a crash never leaves half a file."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FORMAT = 1


class RunError(Exception):
    """A run folder that cannot be read or written; the message says which file and why."""


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a new file, then put it in the place of `path` in one step.

    Whatever lies in the folder, nothing outside is written: the new file has a name that nobody can foresee and is made
    by this call or not at all, and where `path` is a link, the link is replaced.

    Raises
    ------
    RunError
        If the file cannot be written, as on a full disk; what was at `path` is still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:  # x: by O_EXCL, which follows no link
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's, of a full disk
        raise RunError(f"{path} cannot be written: {getattr(error, 'strerror', None) or _first_line(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


class RunFolder:
    """The files of one run.

    ``config.json`` (settings), ``metrics.jsonl`` (one line per validation), ``model.safetensors`` (the best model so
    far: network and L), ``propagated.safetensors`` (round by round, what label each unlabelled example got),
    ``checkpoint.pt`` (all that resuming needs), and at the end ``results.json`` (figures on held-out data; null: not
    defined) and ``embedding.png``; when asked for, ``tensorboard/`` and ``report.html``.

    Parameters
    ----------
    path : str or path
        The folder.
    dataset : dict, optional
        What it takes to load the data again; kept in ``config.json`` as given.
    """

    def __init__(self, path: str | os.PathLike[str], dataset: dict[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.dataset = dataset or {}
        self.picture = self.path / "embedding.png"
        self.report = self.path / "report.html"
        self.tensorboard = self.path / "tensorboard"
        self._config = self.path / "config.json"
        self._metrics = self.path / "metrics.jsonl"
        self._model = self.path / "model.safetensors"
        self._propagated = self.path / "propagated.safetensors"
        self._checkpoint = self.path / "checkpoint.pt"
        self._results = self.path / "results.json"

    def create(self, settings: dict[str, Any]) -> None:
        """Make the folder, which must be new or empty, and write the settings.

        Parameters
        ----------
        settings : dict
            Settings of the training, by name.

        Raises
        ------
        RunError
            If the folder holds something already or cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise RunError(f"run folder {self.path} must be new or empty; it already holds files")
        except OSError as error:
            raise RunError(f"run folder {self.path} cannot be made: {error.strerror}") from None
        content = {"format": FORMAT, "dataset": self.dataset, "training": settings}
        self._write_text(self._config, _json(content, 2))

    def read_settings(self) -> dict[str, Any]:
        """Return the settings of the training, and set `dataset` to what it was when they were written.

        Raises
        ------
        RunError
            If there is no such run, or ``config.json`` is damaged.
        """
        if not self.path.is_dir():
            raise RunError(f"there is no run folder {self.path}")
        text = self._read(self._config, lambda path: path.read_text(encoding="utf-8"))
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']} is not {FORMAT}, the one this version reads")
            self.dataset = dict(content["dataset"])
            return dict(content["training"])
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{self._config} is damaged or not of a run: {error}") from None

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self._checkpoint.is_file()

    def write_progress(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of a training; all else in the folder follows from it, so a crash in between is harmless."""
        import torch
        from safetensors.torch import save

        write_atomically(self._checkpoint, lambda file: torch.save(checkpoint, file))
        write_atomically(self._model, lambda file: file.write(save(checkpoint["best_model"])))
        if checkpoint["propagated"]:
            propagated = save({"propagated": torch.stack(checkpoint["propagated"])})
            write_atomically(self._propagated, lambda file: file.write(propagated))
        self._write_text(self._metrics, "".join(_json(record) + "\n" for record in checkpoint["history"]))

    def read_checkpoint(self) -> dict[str, Any]:
        """Return the state that :meth:`write_progress` saved last.

        Raises
        ------
        RunError
            If it is missing or damaged.
        """
        import torch

        return self._read(self._checkpoint, lambda path: torch.load(path, weights_only=True))

    def read_history(self) -> list[dict[str, Any]]:
        """Return the records of the validations that :meth:`write_progress` saved last.

        Raises
        ------
        RunError
            If they are missing, damaged or of a version before 0.1.0.
        """
        lines = self._read(self._metrics, lambda path: path.read_text(encoding="utf-8").splitlines())
        try:
            records = [dict(json.loads(line)) for line in lines]
        except (ValueError, TypeError) as error:
            raise RunError(f"{self._metrics} is damaged: {_first_line(error)}") from None
        check_records(records, self._metrics)
        return records

    def read_propagated(self) -> np.ndarray:
        """Return the label that each training example got in each round.

        Returns
        -------
        (rounds, N) int32 array
            -1 where the example is labelled, or was in no partition of the round yet.

        Raises
        ------
        RunError
            If they are missing, as before the first partition is done, or damaged.
        """
        from safetensors.numpy import load_file

        return self._read(self._propagated, lambda path: load_file(path)["propagated"])

    def read_model(self) -> dict[str, Any]:
        """Return the tensors of the best model by name.

        Raises
        ------
        RunError
            If they are missing or damaged.
        """
        from safetensors.torch import load_file

        return self._read(self._model, load_file)

    def read_results(self) -> dict[str, Any]:
        """Return the final figures, as :meth:`write_results` took them.

        Raises
        ------
        RunError
            If they are missing, as before a training ends, or damaged.
        """
        return self._read(self._results, lambda path: json.loads(path.read_text(encoding="utf-8")))

    def write_results(self, results: dict[str, Any]) -> None:
        """Write the final figures."""
        self._write_text(self._results, _json(results, 2))

    def _write_text(self, path: Path, text: str) -> None:
        write_atomically(path, lambda file: file.write(text.encode()))

    def _read(self, path: Path, read: Callable[[Path], Any]) -> Any:
        if not path.is_file():
            raise RunError(f"run folder {self.path} has no {path.name}")
        try:
            return read(path)
        except Exception as error:  # the readers raise whatever a damaged file makes them stumble over
            raise RunError(f"{path} is damaged: {_first_line(error)}") from None


def check_records(records: list[dict[str, Any]], path: Path) -> None:
    """Refuse records of validations whose names are those of versions before 0.1.0."""
    if not all("validation" in record for record in records):
        raise RunError(
            f"{path} is of a version of ssdml-fast before 0.1.0, whose records have other names: train again"
        )


def _json(content: Any, indent: int | None = None) -> str:
    return json.dumps(content, indent=indent, allow_nan=False)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
