"""The command line, ``ssdml-fast``: one file per command."""

from __future__ import annotations

import os
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
    from .processes import several

    try:
        app(prog_name="ssdml-fast")
    except SystemExit as end:
        if not several():
            raise
        # All is done and told. What torch takes down afterwards aborts once in some fifty times where gloo served
        # DistributedDataParallel (torch 2.13), for which torchrun would end the others.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)
