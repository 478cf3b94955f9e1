"""The data sets of zero-shot retrieval, in their published folders: no class of the test part is trained on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from .dataset import Account, DataError
from .files import existing, some_lines
from .images import ImageFiles


def cub200(path: str | os.PathLike[str]) -> ImageFiles:
    """Find the images of CUB-200-2011: the first 100 species for training, the others for testing.

    Parameters
    ----------
    path : str or path
        The folder ``CUB_200_2011`` or one that holds it, with ``images.txt``, ``image_class_labels.txt``,
        ``classes.txt`` and ``images/``.

    Returns
    -------
    ImageFiles
        Not decoded: ``cub200(path).decode(size)`` does so.

    Raises
    ------
    DataError
        If a list is missing or damaged, or images are missing.
    """
    root = _root(path, "CUB_200_2011", "images.txt")
    names = _table(root / "images.txt")
    classes = _table(root / "classes.txt")
    of_image = _table(root / "image_class_labels.txt")
    if set(names) != set(of_image) or not set(of_image.values()) <= set(classes):
        raise DataError(f"image_class_labels.txt in {root} must give one class of classes.txt to each of images.txt")
    entries = [(f"images/{name}", int(of_image[i]) - 1) for i, name in names.items()]
    return _split(root, entries, tuple(classes.values()), len(classes) // 2)


def cars196(path: str | os.PathLike[str]) -> ImageFiles:
    """Find the images of Cars-196: the first 98 models for training, the others for testing.

    Parameters
    ----------
    path : str or path
        A folder with ``cars_annos.mat`` and ``car_ims/``; or with ``devkit/``, ``cars_train/`` and ``cars_test/``,
        the devkit's ``cars_test_annos_withlabels.mat`` included (there or beside it).

    Returns
    -------
    ImageFiles
        Not decoded: ``cars196(path).decode(size)`` does so.

    Raises
    ------
    DataError
        If a list is missing or damaged, or images are missing.
    """
    root = Path(path)
    if (root / "devkit").is_dir():
        withlabels = "cars_test_annos_withlabels.mat"
        test = next((p for p in (root / "devkit" / withlabels, root / withlabels) if p.is_file()), root / withlabels)
        sources = [(root / "devkit/cars_train_annos.mat", "cars_train/", "fname"), (test, "cars_test/", "fname")]
        names = root / "devkit/cars_meta.mat"
    else:
        names = root / "cars_annos.mat"
        sources = [(names, "", "relative_im_path")]
    entries = []
    for mat, folder, field in sources:
        annotations = _mat(mat, "annotations")
        try:
            entries += [(folder + str(a[field].item()), int(a["class"].item()) - 1) for a in annotations.ravel()]
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise DataError(f"{mat} must hold annotations with {field} and class, found {error}") from None
    classes = tuple(str(name.item()) for name in _mat(names, "class_names").ravel())
    if {c for _, c in entries} != set(range(len(classes))):
        raise DataError(f"{root} must hold images of each of its {len(classes)} classes and of no other")
    return _split(root, entries, classes, len(classes) // 2)


def stanford_online_products(path: str | os.PathLike[str]) -> ImageFiles:
    """Find the images of Stanford Online Products: 11,318 products for training, 11,316 for testing.

    Parameters
    ----------
    path : str or path
        The folder ``Stanford_Online_Products`` or one that holds it, with ``Ebay_train.txt``, ``Ebay_test.txt`` and the
        image folders.

    Returns
    -------
    ImageFiles
        Not decoded: ``stanford_online_products(path).decode(size)`` does so.

    Raises
    ------
    DataError
        If a list is missing or damaged, or images are missing.
    """
    root = _root(path, "Stanford_Online_Products", "Ebay_train.txt")
    entries = []
    n_train_classes = 0
    for part in ("Ebay_train.txt", "Ebay_test.txt"):
        lines = existing(root / part, "the list of images").read_text(encoding="utf-8").splitlines()[1:]
        try:
            rows = [line.split(maxsplit=3) for line in lines if line]
            entries += [(name, int(c) - 1) for _, c, _, name in rows]
        except ValueError:
            raise DataError(
                f"{root / part} must list image_id, class_id, super_class_id and path on each line"
            ) from None
        n_train_classes = n_train_classes or max((c for _, c in entries), default=-1) + 1
    n_classes = max(c for _, c in entries) + 1
    return _split(root, entries, tuple(str(c + 1) for c in range(n_classes)), n_train_classes)


def _split(root: Path, entries: list[tuple[str, int]], classes: tuple[str, ...], n_train: int) -> ImageFiles:
    """Classes below `n_train` train, the others test."""
    missing = [name for name, _ in entries if not os.path.isfile(f"{root}/{name}")]
    if missing:
        raise DataError(
            f"{root} must hold the {len(entries)} images that it lists, found {len(missing)} missing:"
            f"{some_lines(missing)}"
        )
    parts: list = []
    for chosen in ([e for e in entries if e[1] < n_train], [e for e in entries if e[1] >= n_train]):
        if not chosen:
            raise DataError(f"{root} must list images of training and of test classes")
        names = [name for name, _ in chosen]
        parts += [names, [root / name for name in names], np.array([c for _, c in chosen], np.int64)]
    layout = f"the published lists: {n_train} classes for training, others for testing"
    return replace(ImageFiles(classes, *parts), account=Account(layout))


def _root(path: str | os.PathLike[str], name: str, mark: str) -> Path:
    root = Path(path)
    return root / name if not (root / mark).exists() and (root / name).is_dir() else root


def _table(path: Path) -> dict[str, str]:
    """Read lines of a number and a text."""
    lines = existing(path, "a list").read_text(encoding="utf-8").splitlines()
    try:
        return dict(line.split(maxsplit=1) for line in lines if line)  # type: ignore[misc]
    except ValueError:
        raise DataError(f"{path} must hold a number and a text on each line") from None


def _mat(path: Path, name: str) -> np.ndarray:
    from scipy.io import loadmat

    existing(path, "annotations")
    try:
        return loadmat(path, variable_names=[name])[name]
    except Exception as error:  # loadmat raises whatever a damaged file makes it stumble over
        raise DataError(f"{path} must be a MATLAB file with {name!r}, found {error}") from None
