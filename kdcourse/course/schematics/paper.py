"""Schematics as files: in SVG, whose colours follow the reader's light or dark scheme."""

import hashlib
import io
import re
from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

PALETTE = {  # by name: on light paper, on dark paper
    "paper": ("#FFFFFF", "#171B21"),
    "ink": ("#1F2328", "#E8ECF1"),
    "faint": ("#C5CBD2", "#48505A"),
    "soft": ("#F1F3F5", "#242A32"),
    "quiet": ("#57606A", "#A9B3BE"),
    "teacher": ("#0072B2", "#56B4E9"),
    "teacher-soft": ("#DCEDF8", "#143850"),
    "teacher-words": ("#005B8F", "#8CCDF3"),
    "student": ("#D55E00", "#F0893A"),
    "student-soft": ("#FCE8D9", "#4D2A12"),
    "student-words": ("#A34600", "#FFB47E"),
    "other": ("#009E73", "#2CC295"),
    "other-soft": ("#DBF3EB", "#10402F"),
    "other-words": ("#00694C", "#74DDBB"),
    "here": ("#E0A100", "#E3B341"),
    "here-soft": ("#FFF0BF", "#5A4300"),
    "alone": ("#666666", "#9A9FA5"),
}


def svg(figure: Figure) -> str:
    """Return a schematic as SVG, which a reader's light or dark scheme colours."""
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "kdcourse"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Description": digest(figure)})
    drawn = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.5g}", file.getvalue())
    drawn = re.sub(r" ?\n(?=[^<])", " ", re.sub(r"\n +", "\n", drawn))
    drawn = re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', drawn)
    for name, (light, _) in PALETTE.items():
        drawn = re.sub(light, f"var(--{name}, {light})", drawn, flags=re.IGNORECASE)
    light, dark = (
        "".join(f"--{name}:{pair[i]};" for name, pair in PALETTE.items()) for i in (0, 1)
    )
    style = f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return drawn.replace("<defs>", f"<style>{style}</style>\n <defs>", 1)


def digest(figure: Figure) -> str:
    """Return a digest of what a schematic shows, the same in every version of matplotlib."""
    axis = figure.axes[0]
    words = [
        (text.get_text(), text.get_color(), text.get_horizontalalignment()) for text in axis.texts
    ]
    numbers: list[Iterable[Any]] = [
        list(figure.get_size_inches()),
        *([*text.get_position(), text.get_fontsize(), text.get_rotation()] for text in axis.texts),
        *(np.ravel(patch.get_path().vertices) for patch in axis.patches),
        *(
            [*patch.get_facecolor(), *patch.get_edgecolor(), patch.get_linewidth()]
            for patch in axis.patches
        ),
        *(np.ravel(np.asarray(image.get_array())) for image in axis.images),
    ]
    shown = words, [[f"{number:.4g}" for number in row] for row in numbers]
    return hashlib.sha256(repr(shown).encode()).hexdigest()
