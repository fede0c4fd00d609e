"""What all figures share: colours, markers, panels.

Colour-blind eyes tell the colours apart (Okabe and Ito), and so does everyone in grey.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TEACHER, DISTILLED, ALONE, OTHER = "#0072B2", "#D55E00", "#666666", "#009E73"
MARKERS = {TEACHER: "s", DISTILLED: "o", ALONE: "^", OTHER: "D"}
# For more lines than that: the student alone, then up to five others.
STYLES = [*((c, MARKERS[c]) for c in (ALONE, TEACHER, DISTILLED, OTHER))]
STYLES += [("#CC79A7", "v"), ("#000000", "x")]
MAP = "inferno"  # the colours of where a net looks: from black to light yellow, evenly
INK = 32  # of 255: what is brighter belongs to the object, what is darker to the background


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure with a single panel."""
    figure, axes = panels(1, 1, width=width, height=height)
    return figure, axes[0, 0]


def panels(
    rows: int, columns: int, *, width: float, height: float, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Make a figure with panels of this size in inches, which no backend holds open."""
    ratios = options.setdefault("height_ratios", (1,) * rows)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns + 0.6, height * sum(ratios)),
        squeeze=False,
        layout="constrained",
        **options,
    )
    plt.close(figure)  # a cell that returns it shows it once; pyplot would show it again
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def only_ticks(axis: Axes, places: Sequence[float]) -> None:
    """Put ticks at these places of the horizontal axis, whatever its scale, and at no others."""
    axis.set_xticks(places, [f"{place:g}" for place in places], minor=False)
    axis.minorticks_off()
