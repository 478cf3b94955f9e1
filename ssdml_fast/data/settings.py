"""The settings of the data; torch is not imported for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .._settings import Settings, setting
from .dataset import DataError, as_labels_per_class
from .load import LOADERS, absolute

PLACES = ("unlabelled", "labels")  # that are paths, beside the data's own


@dataclass(frozen=True)
class DataSettings(Settings):
    """Which data, and what is made of them.

    Examples
    --------
    >>> DataSettings(labels_per_class="none")
    Traceback (most recent call last):
    ValueError: labels_per_class must be 'all' or an integer of at least 1, found 'none'
    """

    data: str = setting("digits", f"'digits', which come with scikit-learn, or KIND:PATH; KIND: {', '.join(LOADERS)}.")
    unlabelled: str = setting("", "Folder or archive of more images without labels; for features, more features.")
    labels: str = setting("", "Table with the columns path and label; its labels take the place of the data's own.")
    labels_per_class: str = setting(
        "",
        "Labelled training examples of each class that are kept, the others hidden; or 'all'. By default 10, or all "
        "where there are unlabelled examples, or labels.",
        pattern=r"(?:all|-?\d+)?",
        form="'all' or an integer of at least 1",
    )
    background: str = setting("white", "What lies behind transparent pixels: the name of a colour, or #rrggbb.")
    skip_damaged: bool = setting(False, "Go on without the images that cannot be decoded, and list them.")

    def check(self) -> None:
        """Refuse a number of labels that is none."""
        as_labels_per_class(self.per_class, False)

    @property
    def per_class(self) -> int | str | None:
        """The labels that are kept, as :meth:`Source.split <ssdml_fast.data.Source.split>` takes them."""
        text = self.labels_per_class
        if not text:
            return "all" if self.labels else None
        return text if text == "all" else int(text)

    def stored(self, has_unlabelled: bool) -> dict[str, Any]:
        """Return what it takes to load the same again, wherever from: paths are absolute.

        Parameters
        ----------
        has_unlabelled : bool
            Whether there are examples whose label nobody knows, which decides the default of `labels_per_class`.
        """
        asked = {name: value for name, value in asdict(self).items() if value != _DEFAULTS[name]}
        for place in PLACES:
            if place in asked:
                asked[place] = absolute_path(asked[place])
        asked.pop("data", None)
        return (
            {"name": absolute(self.data)}
            | asked
            | {"labels_per_class": as_labels_per_class(self.per_class, has_unlabelled) or "all"}
        )


_DEFAULTS = {each.name: each.default for each in fields(DataSettings)}


def absolute_path(path: str) -> str:
    """Return a path that holds in any folder."""
    return absolute(f"file:{path}").removeprefix("file:")


def from_stored(stored: dict[str, Any], moved: Mapping[str, str] | None = None) -> DataSettings:
    """Return the settings that :meth:`DataSettings.stored` told.

    Parameters
    ----------
    stored : dict
        What it returned.
    moved : mapping, optional
        Where ``"data"`` (as KIND:PATH), ``"unlabelled"`` and ``"labels"`` lie now, those that were moved since.

    Raises
    ------
    DataError
        If it is nothing of that form.

    Examples
    --------
    >>> from_stored({"name": "digits", "labels_per_class": 5}).per_class
    5
    """
    try:
        values = {name: value for name, value in stored.items() if name not in ("name", "labels_per_class")}
        settings = DataSettings(data=stored["name"], labels_per_class=str(stored["labels_per_class"]), **values)
    except (KeyError, TypeError, ValueError):
        raise DataError(f"this is of an unknown data set, {stored!r:.200}") from None
    places: dict[str, Any] = {}
    for name, place in (moved or {}).items():
        if name in ("data", *PLACES):
            places[name] = absolute(place) if name == "data" else absolute_path(place)
    return replace(settings, **places)
