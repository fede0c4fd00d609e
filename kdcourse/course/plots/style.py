"""What all figures share: colours, markers, panels.

Colours are told apart by colour-blind eyes (Okabe and Ito) and in grey.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

TEACHER, DISTILLED, ALONE, OTHER = "#0072B2", "#D55E00", "#666666", "#009E73"
MARKERS = {TEACHER: "s", DISTILLED: "o", ALONE: "^", OTHER: "D"}
# For more lines than that: the student alone, then up to five others.
STYLES = [*((c, MARKERS[c]) for c in (ALONE, TEACHER, DISTILLED, OTHER))]
STYLES += [("#CC79A7", "v"), ("#000000", "x")]


def panels(
    rows: int, columns: int, *, width: float, height: float, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Make a figure of so many panels, each so many inches large, that no backend holds open."""
    ratios = options.get("height_ratios", (1,) * rows)
    options["height_ratios"] = ratios
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns + 0.6, height * sum(ratios)),
        squeeze=False,
        layout="constrained",
        **options,
    )
    plt.close(figure)  # shown once, where a cell returns it, and not again by pyplot
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes
