"""The command line, ``ssdml-fast``: one file per command."""
