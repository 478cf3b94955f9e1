"""The command line, ``ssdml-fast``: one file per command."""

from __future__ import annotations

import sys

from .._extras import require

NEEDED = ("jinja2", "matplotlib", "PIL", "rich", "safetensors", "sklearn", "threadpoolctl", "typer")


def main() -> None:
    """Run the command line, or say in one line what it lacks."""
    try:
        require("the command line", *NEEDED)
    except ImportError as error:
        sys.exit(f"ssdml-fast: {error}")
    from .app import app

    app(prog_name="ssdml-fast")
