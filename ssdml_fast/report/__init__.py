"""The report of a run: one HTML file that needs nothing else, for people to look at."""

from .._extras import require

require("a report", "jinja2", "matplotlib", "safetensors", "sklearn", "threadpoolctl")
