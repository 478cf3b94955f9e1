"""The folder of a run: what lies in it, written so that a crash never leaves half a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from errno import EACCES
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from .._files import TEMPORARY
from ..exceptions import first_line
from .files import RunError, from_json, is_number, to_json, write_atomically
from .lock import locked
from .records import check_records

FORMAT = 2  # of config.json and checkpoint.pt
WITHOUT_WITHIN = "; remove the file to go on from the beginning of the leg that it is of"  # where it is damaged
FLAT = 1  # of config.json before 0.3.0: all settings in one table, the method SSDML


class InUse(RunError):
    """A run folder that another training writes."""


@dataclass(frozen=True)
class Stored:
    """What ``config.json`` says of a training.

    Attributes
    ----------
    method : str
        Name of the method, or ``"package.module:Class"``.
    head : str
        Name of the class of the metric on top of the network.
    settings : dict
        Settings of the method, by name; of a run of a version before 0.3.0 none, they are among those of the training.
    training : dict
        Settings of the training, whatever the method.
    """

    method: str
    head: str
    settings: dict[str, Any]
    training: dict[str, Any]


def new_folder(parent: str | os.PathLike[str]) -> Path:
    """Make a folder that is this call's alone, named by date and time and, where that is taken, a number.

    Parameters
    ----------
    parent : str or path
        Where to make it; made too where it is missing.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    RunError
        If it cannot be made.
    """
    parent, name = Path(parent), datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            path = parent / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()  # or fails, whoever else is making it
            except FileExistsError:
                continue
            break
    except OSError as error:
        raise RunError(f"a run folder in {parent} cannot be made: {error.strerror}") from None
    return path


class RunFolder:
    """The files of one run.

    ``config.json`` (settings), ``metrics.jsonl`` (one line per validation), ``model.safetensors`` (the best model so
    far: network and L), ``propagated.safetensors`` (round by round, what label each unlabelled example got),
    ``checkpoint.pt`` (all that resuming needs, at the beginning of a leg), ``within.pt`` (where the training is in that
    leg), and at the end ``results.json`` (figures on held-out data; null: not defined) and ``embedding.png``; when
    asked for, ``tensorboard/`` and ``report.html``.

    Parameters
    ----------
    path : str or path
        The folder.
    dataset : dict, optional
        What it takes to load the data again; kept in ``config.json`` as given.
    network : dict, optional
        What it takes to make the untrained network again, likewise.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        dataset: dict[str, Any] | None = None,
        network: dict[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.dataset, self.network = dataset or {}, network or {}
        self.picture = self.path / "embedding.png"
        self.report = self.path / "report.html"
        self.tensorboard = self.path / "tensorboard"
        self._config = self.path / "config.json"
        self._metrics = self.path / "metrics.jsonl"
        self._model = self.path / "model.safetensors"
        self._propagated = self.path / "propagated.safetensors"
        self._checkpoint = self.path / "checkpoint.pt"
        self.within = self.path / "within.pt"
        self._results = self.path / "results.json"
        self._locked = False  # by this object

    def refuse_used(self) -> None:
        """Refuse a folder in which no training can begin; nothing is made.

        One can where there is no folder, or an empty one, or one that a training left which was stopped before it
        saved anything.

        Raises
        ------
        RunError
            If the folder holds anything else, a training is beginning in it, or it cannot be made.
        """
        at = self.path
        try:
            while not _exists(at):
                at = at.parent
            if at == self.path:
                if not all(self._is_left_over(path) for path in at.iterdir()):
                    found = "a training, which can be resumed" if self.resumable else "other files"
                    raise RunError(f"run folder {self.path} must be new or empty, found {found}")
                with self.lock():
                    pass
            if not os.access(at, os.W_OK | os.X_OK):
                raise PermissionError(EACCES, os.strerror(EACCES))
        except OSError as error:
            raise RunError(f"run folder {self.path} cannot be made: {error.strerror}") from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other trainings out of the folder, which is made if there is none, and goes again if it stays empty.

        The system releases it when the process dies. Within one that this object holds, another does nothing.

        Raises
        ------
        InUse
            If a training holds it.
        RunError
            If the folder cannot be made or opened.
        """
        if self._locked:
            yield
            return
        with ExitStack() as stack:
            try:
                is_new = not self.path.is_dir()
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.path))
                if is_new:
                    stack.callback(self._remove_empty)
            except BlockingIOError:
                raise InUse(f"run folder {self.path} is in use by another training") from None
            except OSError as error:
                raise RunError(f"run folder {self.path} cannot be made: {error.strerror}") from None
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def create(self, stored: Stored) -> None:
        """Make the folder and write what is trained, all under :meth:`lock`.

        Parameters
        ----------
        stored : Stored
            The method and all settings.

        Raises
        ------
        RunError
            As :meth:`refuse_used`, or if ``config.json`` cannot be written.
        """
        with self.lock():
            self.refuse_used()
            self.tidy()
            content = {"format": FORMAT, "dataset": self.dataset, "network": self.network} | asdict(stored)
            self._write_text(self._config, to_json(content, 2))

    def read_stored(self) -> Stored:
        """Return what is trained, and set `dataset` and `network` to what they were when that was written.

        Raises
        ------
        RunError
            If there is no such run, ``config.json`` is damaged, or it is of a newer version.
        """
        try:
            if not self.path.is_dir():
                raise RunError(f"there is no run folder {self.path}")
        except OSError as error:  # a name that is too long, a folder that may not be entered
            raise RunError(f"run folder {self.path} cannot be looked at: {error.strerror}") from None
        text = self._read(self._config, lambda path: path.read_text(encoding="utf-8"))
        try:
            content = from_json(text)
            number = content["format"]
            if type(number) is not int or number < FLAT:
                raise ValueError(f"format {number!r:.60} is none")
            if number > FORMAT:
                raise RunError(
                    f"{self._config} is of format {number}, which a newer version of ssdml-fast wrote: upgrade "
                    f"ssdml-fast, as this version reads formats up to {FORMAT}"
                )
            if number == FLAT:
                content |= {"method": "ssdml", "head": "OrthogonalMetric", "settings": {}}
            content = {"network": {}} | content  # folders from before there was a choice
            kinds = {"dataset": dict, "network": dict, "method": str, "head": str, "settings": dict, "training": dict}
            for name, kind in kinds.items():
                if not isinstance(content.get(name), kind):
                    raise ValueError(f"{name} is no {'text' if kind is str else 'table'}: {content.get(name)!r:.60}")
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{self._config} is damaged or not of a run: {error}") from None
        self.dataset, self.network = content["dataset"], content["network"]
        return Stored(content["method"], content["head"], content["settings"], content["training"])

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to resume from, as far as that can be seen."""
        try:
            return self._checkpoint.is_file()
        except OSError:
            return False

    def tidy(self) -> None:
        """Remove what processes that were killed left half written; under :meth:`lock`, so that no one is at it."""
        for path in self.path.iterdir():
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def write_progress(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of a training; all else in the folder follows from it, so a crash in between is harmless.

        Parameters
        ----------
        checkpoint : dict
            Under ``best_model`` the tensors of the model to keep, by name, under ``propagated`` a list of (N,) tensors
            of labels, one per round, under ``history`` the records of the validations, and under ``fingerprint`` that
            of the data, if it is known. What else it holds is the training's own.
        """
        self._write_state(self._checkpoint, {**checkpoint, "format": FORMAT})
        with suppress(OSError):  # it is another checkpoint's, and known by that
            self.within.unlink()

    def write_within(self, within: dict[str, Any]) -> None:
        """Save where a training is within a leg, beside the checkpoint of its beginning.

        Parameters
        ----------
        within : dict
            Under ``checkpoint`` the ``id`` of that; ``best_model``, ``propagated`` and ``history`` as there.
        """
        self._write_state(self.within, within)

    def read_checkpoint(self) -> dict[str, Any]:
        """Return the state that :meth:`write_progress` saved last, its tensors in the memory of the host.

        Raises
        ------
        RunError
            If it is missing or damaged, or of another version whose trainings this one cannot continue.
        """
        checkpoint = self._read(self._checkpoint, _table_of_tensors)
        if "format" not in checkpoint:
            raise RunError(
                f"{self._checkpoint} is of a version of ssdml-fast before 0.3.0, whose trainings cannot be continued "
                "by this one: train again, or continue it with that version"
            )
        if checkpoint["format"] != FORMAT:
            raise RunError(
                f"{self._checkpoint} is of format {checkpoint['format']!r:.60}, not {FORMAT}: continue the training "
                "with the version of ssdml-fast that began it"
            )
        _check_state(checkpoint, self._checkpoint)
        return checkpoint

    def read_within(self, checkpoint: str) -> dict[str, Any] | None:
        """Return what :meth:`write_within` saved last, if it was beside this checkpoint.

        Parameters
        ----------
        checkpoint : str
            The ``id`` of the one that is gone on from.

        Returns
        -------
        dict or None
            None if there is none, or one of another leg, as a process leaves that was killed as it began the next.

        Raises
        ------
        RunError
            If it is damaged; the training can go on without it.
        """
        if not self.within.is_file():
            return None
        try:
            within = self._read(self.within, _table_of_tensors)
            if within.get("checkpoint") != checkpoint:
                return None
            _check_state(within, self.within)
        except RunError as error:
            raise RunError(f"{error}{WITHOUT_WITHIN}") from None
        return within

    def read_fingerprint(self) -> dict[str, str]:
        """Return what tells the data of the training from others, by part; empty where no checkpoint says it."""
        import torch

        try:
            checkpoint = torch.load(self._checkpoint, map_location="cpu", mmap=True, weights_only=True)
            return {str(part): str(digest) for part, digest in checkpoint["fingerprint"].items()}
        except Exception:  # none, or one of a former version, or damaged: a run is evaluated without
            return {}

    def read_history(self) -> list[dict[str, Any]]:
        """Return the records of the validations that :meth:`write_progress` saved last.

        Raises
        ------
        RunError
            If they are missing, damaged or of a version before 0.1.0.
        """
        lines = self._read(self._metrics, lambda path: path.read_text(encoding="utf-8").splitlines())
        try:
            records = [from_json(line) for line in lines]
        except ValueError as error:
            raise RunError(f"{self._metrics} is damaged: {first_line(error)}") from None
        return check_records(records, self._metrics)

    def read_propagated(self) -> np.ndarray:
        """Return the label that each training example got in each round.

        Returns
        -------
        (rounds, N) int64 array
            -1 where the example is labelled, or was in no partition of the round yet.

        Raises
        ------
        RunError
            If they are missing, as before the first partition is done, or damaged.
        """
        from safetensors.numpy import load_file

        labels = self._read(self._propagated, lambda path: load_file(path)["propagated"])
        if labels.ndim != 2 or labels.dtype.kind != "i" or (labels < -1).any():
            raise RunError(f"{self._propagated} is damaged: it must hold rounds of integers from -1")
        return labels.astype(np.int64, copy=False)

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
        results = self._read(self._results, lambda path: from_json(path.read_text(encoding="utf-8")))
        test = results.get("test") if isinstance(results, dict) else None
        rows = list(test.values()) if isinstance(test, dict) else [None]
        if not all(isinstance(row, dict) and all(v is None or is_number(v) for v in row.values()) for row in rows):
            raise RunError(f"{self._results} is damaged: it must hold under test the figures of each embedding")
        notes = results.setdefault("notes", [])
        if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
            raise RunError(f"{self._results} is damaged: it must hold under notes a list of sentences")
        return results

    def write_results(self, results: dict[str, Any]) -> None:
        """Write the final figures.

        Parameters
        ----------
        results : dict
            Under ``test``, for each embedding by name its figures by name, None where one is not defined or could not
            be computed, which sentences under ``notes`` tell, if there are any; under ``stopped`` why the training
            ended, under ``best_validation`` which model was kept.
        """
        self._write_text(self._results, to_json(results, 2))

    def _remove_empty(self) -> None:
        with suppress(OSError):  # it is not empty
            self.path.rmdir()

    def _is_left_over(self, path: Path) -> bool:
        """Whether a file of the folder is nothing that a training saved, and of no one else."""
        if path == self._config and not self.resumable:
            try:
                RunFolder(self.path).read_stored()
            except RunError:  # not of a run
                return False
            return True
        return bool(TEMPORARY.fullmatch(path.name)) or (path == self.tensorboard and self._config.is_file())

    def _write_state(self, path: Path, state: dict[str, Any]) -> None:
        """Write a state, and then what follows from it."""
        import torch
        from safetensors.torch import save

        write_atomically(path, lambda file: torch.save(state, file))
        write_atomically(self._model, lambda file: file.write(save(state["best_model"])))
        if state["propagated"]:
            propagated = save({"propagated": torch.stack(state["propagated"]).long()})
            write_atomically(self._propagated, lambda file: file.write(propagated))
        self._write_text(self._metrics, "".join(to_json(record) + "\n" for record in state["history"]))

    def _write_text(self, path: Path, text: str) -> None:
        write_atomically(path, lambda file: file.write(text.encode()))

    def _read(self, path: Path, read: Callable[[Path], Any]) -> Any:
        try:
            if not path.is_file():
                raise RunError(f"run folder {self.path} has no {path.name}")
            return read(path)
        except RunError:
            raise
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror or first_line(error)}") from None
        except Exception as error:  # the readers raise whatever a damaged file makes them stumble over
            raise RunError(f"{path} is damaged: {first_line(error)}") from None


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def _table_of_tensors(path: Path) -> dict[str, Any]:
    """Read what torch saved, its tensors in the memory of the host."""
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError("it must hold a table")
    return content


def _check_state(state: dict[str, Any], path: Path) -> None:
    """Refuse the state of a training whose history or tensors cannot be."""
    from .tensors import wrong_tensors

    if not check_records(state.get("history"), path):
        raise RunError(f"{path} is damaged: it has no validation")
    wrong = wrong_tensors(state)
    if wrong:
        raise RunError(f"{path} is damaged: {wrong}")
