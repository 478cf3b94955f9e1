"""``python -m ssdml_fast``: the command line."""

from .cli import main

main()
