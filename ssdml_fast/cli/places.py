"""Options that say where what a run was given lies now, if it was moved since."""

from __future__ import annotations

from typing import Annotated

import typer

MOVED = ("data", "unlabelled", "labels", "weights")


def _option(text: str) -> typer.models.OptionInfo:
    return typer.Option(help=f"{text}, if moved since.", show_default="the run's")


Data = Annotated[str | None, _option("KIND:PATH of a run's data")]
Unlabelled = Annotated[str | None, _option("Its unlabelled examples")]
Labels = Annotated[str | None, _option("Its table of labels")]
Weights = Annotated[str | None, _option("The weights that its backbone began with")]


def given(**places: str | None) -> dict[str, str]:
    """Those of the places that are said."""
    return {name: place for name, place in places.items() if place is not None}
