"""What folders of images mean: which are classes, which are parts of a data set, and which hold unlabelled images.

The rules, for folders below the one that is given, in any letter case:

- A folder that is the only one is stepped through, however many of them lie in each other.
- ``train`` or ``training``, ``val``, ``valid`` or ``validation``, and ``test`` or ``testing`` are parts. But without
  folders in it, and with folders of classes beside it, such a folder is a class as these are.
- ``val`` and ``test`` with folders in them may lie beside the classes that are trained on, too.
- ``unlabelled``, ``unsup``, ``unsupervised`` and ``unknown`` (either spelling) hold unlabelled images for training,
  whatever lies in them; beside them, or in ``train`` beside them, ``labelled`` may hold the folders of classes.
- Any other folder is a class, and those in it belong to it; a class that holds nothing but parts is divided by them.
- Images without any of these, and those of a training part without folders, are unlabelled.
- What none of these rules reaches is left out, each with the reason; what two of them could mean is an error.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from .dataset import DataError, LeftOut
from .files import some_names
from .labels import PARTS, alike

TRAIN, VAL, TEST, LABELLED, UNLABELLED = "train", "val", "test", "labelled", "unlabelled"

ROLES = {
    **PARTS,
    **dict.fromkeys(("labelled", "labeled"), LABELLED),
    **dict.fromkeys(("unlabelled", "unlabeled", "unsup", "unsupervised", "unknown"), UNLABELLED),
}


@dataclass
class Layout:
    """The class of each image, by part.

    Attributes
    ----------
    text : str
        What the folders were taken for.
    train : dict
        Class of each training image by its name; None for an unlabelled one.
    val, test : dict
        Class of each validation and test image.
    left_out : list of LeftOut
        Images and folders that are not used.
    notes : list of str
        What was decided by a rule, or looks odd.
    """

    text: str = ""
    train: dict[str, str | None] = field(default_factory=dict)
    val: dict[str, str | None] = field(default_factory=dict)
    test: dict[str, str | None] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def understand(images: Iterable[str], others: Iterable[str] = (), where: object = "the data") -> Layout:
    """Tell classes, parts and unlabelled images by the folders that they lie in; the rules are those of the module.

    Parameters
    ----------
    images : iterable of str
        Names of the images: their paths, with forward slashes.
    others : iterable of str
        Names of what else is there: files that are no images, and empty folders with a slash behind them.
    where : object
        Where they are, for messages.

    Returns
    -------
    Layout
        Every image is in exactly one of its parts, or left out; as are folders without images where classes lie.

    Raises
    ------
    DataError
        If the folders can mean more than one thing, or leave nothing to train from.

    Examples
    --------
    >>> layout = understand(["data/Train/cat/1.jpg", "data/Train/unlabeled/2.jpg", "data/Test/cat/3.jpg"])
    >>> layout.text
    'in data/: Train/ and Test/ with a folder for each class, unlabelled images in Train/unlabeled/'
    >>> layout.train
    {'data/Train/cat/1.jpg': 'cat', 'data/Train/unlabeled/2.jpg': None}
    """
    return _Understanding(where).of(_Folder("", sorted(images), sorted(others)))


class _Folder:
    """A folder with images."""

    def __init__(self, path: str, names: list[str], others: list[str]) -> None:
        self.path, self.names, self.others = path, names, others  # all names from the root on

    @cached_property
    def direct(self) -> list[str]:
        """The images that lie in no folder in it."""
        return self._divided[0]

    @cached_property
    def folders(self) -> dict[str, _Folder]:
        """The folders with images in it."""
        return self._divided[1]

    @cached_property
    def _divided(self) -> tuple[list[str], dict[str, _Folder]]:
        direct, inner = self._by_folder(self.names)
        _, others = self._by_folder(self.others)
        folders = {name: _Folder(f"{self.path}{name}/", inner[name], others.get(name, [])) for name in inner}
        return direct, folders

    @cached_property
    def barren(self) -> dict[str, bool]:
        """The folders without images in it, and whether no file at all lies in them."""
        _, others = self._by_folder(self.others)
        return {
            name: all(other.endswith("/") for other in found)
            for name, found in others.items()
            if name not in self.folders
        }

    def _by_folder(self, names: list[str]) -> tuple[list[str], dict[str, list[str]]]:
        direct: list[str] = []
        inner: dict[str, list[str]] = defaultdict(list)
        start = len(self.path)
        for name in names:
            folder, slash, _ = name[start:].partition("/")
            (inner[folder] if slash else direct).append(name)
        return direct, inner

    def only(self) -> _Folder | None:
        """The folder that wraps all that is in it: there is no image beside it, and no folder where nothing lies."""
        if self.direct or len(self.folders) != 1 or any(self.barren.values()):
            return None
        return next(iter(self.folders.values()))

    @property
    def name(self) -> str:
        return self.path[:-1].rpartition("/")[2]

    @property
    def role(self) -> str | None:
        return ROLES.get(self.name.lower())


class _Understanding:
    """A layout as it comes to be understood."""

    def __init__(self, where: object) -> None:
        self.where = where
        self.layout = Layout()
        self.start = 0  # of names below the folders that wrap all
        self.classes_in: list[str] = []  # folders of parts that hold those of classes
        self.unlabelled_in: list[str] = []
        self.without_images: list[str] = []  # folders
        self.by_class = False  # whether the parts lie in the folders of classes

    def of(self, root: _Folder) -> Layout:
        top = root
        while (only := top.only()) and only.role != UNLABELLED:
            if only.role in (VAL, TEST):
                raise self._error(f"images for training beside {only.path}, or a folder that is no part", [only])
            self._note_barren(top)
            top = only
        self.start = len(top.path)
        if top.role == LABELLED and not top.folders:
            raise self._error(f"a folder for each class in {top.path}", [top])
        if len(top.folders) == 1 and top.direct and not any(top.barren.values()) and not self._roles(top):
            (inner,) = top.folders.values()
            if inner.folders:
                raise self._error(f"all images in folders, or none but in {inner.path}", [inner])
            self.layout.notes.append(f"{self._short(inner)}, which lies beside images, is not taken for a class")
            self._unlabelled(top)
        elif self._is_divided_by_class(top):
            self._parts_of_classes(top)
        else:
            self._parts(top)
        self._finish(root, top)
        return self.layout

    def _parts(self, top: _Folder) -> None:
        self._note_barren(top)
        roles = self._roles(top)
        classes = [folder for folder in top.folders.values() if not folder.role]
        train, evaluated = roles[TRAIN], [*roles[VAL], *roles[TEST]]
        if classes:
            classes += [folder for folder in train if not folder.folders]
            train = [folder for folder in train if folder.folders]
        if classes and not train:
            known, are_flat = {folder.name for folder in classes}, not any(folder.folders for folder in classes)
            unlike = [folder for folder in evaluated if not known & set(folder.folders)]
            if found := [folder for folder in unlike if folder.folders and not are_flat]:
                raise self._error("classes of the training part in train/", [*found, *classes])
            classes += [folder for folder in unlike if not folder.folders]
            evaluated = [folder for folder in evaluated if folder.folders]
        for folder in classes:
            if folder.role:
                self.layout.notes.append(f"{self._short(folder)} is taken for a class, as those beside it")
        self._check_classes(classes)
        if classes and train and not any(folder.folders for folder in evaluated):
            raise self._error("only val/, test/ and unlabelled/ beside the folder of the training part", classes)
        if train and roles[LABELLED]:
            raise self._error("labelled images in one folder", [*train, *roles[LABELLED]])
        for role in (TRAIN, VAL, TEST):
            if len(same := [folder for folder in (*train, *evaluated) if folder.role == role]) > 1:
                raise self._error(f"one folder of the {role} part", same)
        if train:
            for folder in classes:
                self._leave_out(folder.names, f"beside {self._short(train[0])} and no part")
            self._leave_out(top.direct, "in no folder of a part")
            self._training(self._stepped_through(train[0]))
            for folder in roles[UNLABELLED]:
                self._unlabelled(folder)
        else:
            self._training(top, [*classes, *roles[LABELLED], *roles[UNLABELLED]])
        for folder in evaluated:
            self._evaluated(folder, self.layout.val if folder.role == VAL else self.layout.test)
        if not self.layout.train:
            raise self._error("images for training", evaluated)

    def _check_classes(self, classes: list[_Folder]) -> None:
        """Refuse folders called much as parts are, such as training_set and test_set, that all hold the same ones."""
        words = {word for folder in classes for word in re.split(r"[^a-z]+", folder.name.lower())}
        if len(classes) > 1 and words & set(PARTS):
            same = set.intersection(*(set(folder.folders) for folder in classes))
            if same and not any(folder.direct for folder in classes):
                raise self._error("parts to be called train/, val/ and test/", classes)

    def _training(self, top: _Folder, folders: list[_Folder] | None = None) -> None:
        """Sort out the training part: the folders of classes, if need be in one for what is labelled."""
        folders = [*top.folders.values()] if folders is None else folders
        unlabelled = [folder for folder in folders if folder.role == UNLABELLED]
        labelled = [folder for folder in folders if folder.role == LABELLED]
        classes = [folder for folder in folders if folder.role not in (LABELLED, UNLABELLED)]
        if classes and all(not folder.folders for folder in labelled):
            classes, labelled = [*classes, *labelled], []
        if len(labelled) > 1 or (labelled and classes):
            raise self._error("labelled images in one folder", [*labelled, *classes])
        for folder in labelled:
            if not folder.folders:
                raise self._error(f"a folder for each class in {self._short(folder)}", [folder])
            self._check_no_parts(folder)
            self._note_barren(folder)
            self._leave_out(folder.direct, "in no folder of a class")
            classes = [*folder.folders.values()]
        for folder in classes:
            self.layout.train.update(dict.fromkeys(folder.names, folder.name))
        for folder in unlabelled:
            self._unlabelled(folder)
        if classes:
            self._leave_out(top.direct, "in no folder of a class")
            self.classes_in.append((labelled or [top])[0].path)
        elif top.direct:
            self.layout.train.update(dict.fromkeys(top.direct))
            self.unlabelled_in.append(top.path)

    def _evaluated(self, folder: _Folder, part: dict[str, str | None]) -> None:
        """Sort out the validation or test part, where every image needs a class."""
        known = {*self.layout.train.values()}
        folder = self._stepped_through(folder, known)
        self._leave_out(folder.direct, f"in no folder of a class, which those in {self._short(folder)} need")
        for inner in folder.folders.values():
            if inner.role == UNLABELLED and inner.name not in known:
                self._leave_out(inner.names, f"unlabelled, in {self._short(folder)}")
            else:
                part.update(dict.fromkeys(inner.names, inner.name))
        if part:
            self.classes_in.append(folder.path)

    def _stepped_through(self, folder: _Folder, known: Collection[str | None] = ()) -> _Folder:
        """Step through folders that wrap all of a part, and are called as it is or hold nothing but folders."""
        self._note_barren(folder)
        while (only := folder.only()) and only.name not in known:
            if only.role in (LABELLED, UNLABELLED) or not (
                only.role == folder.role or (only.folders and not only.direct)
            ):
                break
            folder = only
            self._note_barren(folder)
        self._check_no_parts(folder)
        return folder

    def _check_no_parts(self, folder: _Folder) -> None:
        """Refuse what looks like parts where the folders of classes are to be."""
        parts = [inner for inner in folder.folders.values() if inner.role in (TRAIN, VAL, TEST) and inner.folders]
        if len(parts) == len(folder.folders) > 1 or any(set(inner.folders) & set(folder.folders) for inner in parts):
            raise self._error(f"no parts in {self._short(folder)}", parts)

    def _is_divided_by_class(self, top: _Folder) -> bool:
        classes = [folder for folder in top.folders.values() if folder.role != UNLABELLED]
        return bool(classes) and all(
            not folder.role
            and not folder.direct
            and all(inner.role in (TRAIN, VAL, TEST) for inner in folder.folders.values())
            for folder in classes
        )

    def _parts_of_classes(self, top: _Folder) -> None:
        self._note_barren(top)
        self._leave_out(top.direct, "in no folder of a class")
        parts: dict[str | None, dict[str, str | None]] = {TRAIN: self.layout.train, VAL: self.layout.val}
        for folder in top.folders.values():
            if folder.role == UNLABELLED:
                self._unlabelled(folder)
                continue
            self._note_barren(folder)
            for inner in folder.folders.values():
                parts.get(inner.role, self.layout.test).update(dict.fromkeys(inner.names, folder.name))
        self.by_class = True
        if not self.layout.train:
            raise self._error("train/ in the folders of classes", [*top.folders.values()])

    def _unlabelled(self, folder: _Folder) -> None:
        self.layout.train.update(dict.fromkeys(folder.names))
        self.unlabelled_in.append(folder.path)

    def _leave_out(self, names: Iterable[str], why: str) -> None:
        self.layout.left_out += [LeftOut(name, why) for name in names]

    def _note_barren(self, folder: _Folder) -> None:
        self.without_images += [f"{folder.path}{name}/" for name in folder.barren]

    def _roles(self, top: _Folder) -> dict[str | None, list[_Folder]]:
        roles: dict[str | None, list[_Folder]] = defaultdict(list)
        for folder in top.folders.values():
            if folder.role:
                roles[folder.role].append(folder)
        return roles

    def _short(self, folder: _Folder) -> str:
        return folder.path[self.start :] or "it"

    def _error(self, expected: str, found: Iterable[_Folder]) -> DataError:
        names = [folder.path[:-1] + "/" for folder in found]
        return DataError(f"expected {expected} in {self.where}, found {some_names(names)}")

    def _finish(self, root: _Folder, top: _Folder) -> None:
        self._leave_out(self.without_images, "no image in it")
        accounted = (*self.without_images,)
        empty = (name for name in root.others if name.endswith("/"))
        self._leave_out((name for name in empty if not name.startswith(accounted)), "an empty folder")
        self.layout.text = self._text(top)
        parts = (self.layout.train, self.layout.val, self.layout.test)
        self.layout.notes += alike({name for part in parts for name in part.values() if name is not None})

    def _text(self, top: _Folder) -> str:
        """Say what the folders were taken for."""
        here, start = top.path, len(top.path)
        said = []
        if self.by_class:
            said.append("a folder for each class, the parts in each")
        elif here in self.classes_in:
            said.append("a folder for each class")
        elif self.unlabelled_in == [here]:
            said.append("images without classes")
        elif here in self.unlabelled_in:
            said.append("images without classes beside the folders")
        if parts := [path[start:] for path in self.classes_in if path != here]:
            said.append(f"{_listed(parts)} with a folder for each class")
        if unlabelled := [path[start:] for path in self.unlabelled_in if path != here]:
            said.append(f"unlabelled images in {_listed(unlabelled)}")
        return (f"in {here}: " if here else "") + ", ".join(said)


def _listed(names: list[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])
