"""How every figure of a report looks."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

ACCENT, QUIET = "#2459a8", "#8a93a0"
RIGHT, WRONG = "#009e73", "#d55e00"  # green and orange-red that colour-blind people tell apart (Okabe, Ito)
WIDTH = 10.4  # inches, of figures that take the whole page
RUNS = (ACCENT, "#e07b1f", "#6b4fa0", "#2a9d8f", "#b5487a", "#7a6a3a")  # the first is the run reported on
DASHES = ("-", "--", "-.", ":")  # of runs, in turn, so that they differ without colours too
CLASSES = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
"""Ten that differ for colour-blind people (Petroff, arXiv:2107.02270)."""

styled = mpl.rc_context(
    {
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.edgecolor": "#b8bec7",
        "axes.labelcolor": "#3c4450",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": "#e6e9ee",
        "xtick.color": "#5a6470",
        "ytick.color": "#5a6470",
        "legend.frameon": False,
        "legend.fontsize": 9,
    }
)  # decorates a function that draws


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches; not by pyplot, which keeps global state and may want a display."""
    layout = ConstrainedLayoutEngine(wspace=0.04, hspace=0.04)
    figure = Figure(figsize=(width, height), dpi=144, layout=layout)
    FigureCanvasAgg(figure)
    return figure
