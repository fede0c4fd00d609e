"""Figures of language models: what they predict, and how good is what they write."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from kdcourse import metrics
from kdcourse.course.plots.style import OTHER, STYLES, panel, panels
from kdcourse.errors import ArgumentError
from kdcourse.language import Vocabulary
from kdcourse.language.definitions import BEHIND_THE_WORD

if TYPE_CHECKING:
    from kdcourse.course.claims import Result

SEEN = str.maketrans(" \n", "␣⏎")  # what nobody would see
WIDEST, LETTER = 9.0, 0.11  # inches


def next_tokens(
    model: nn.Module, vocabulary: Vocabulary, text: str, *, places: int = 30, likeliest: int = 4
) -> Figure:
    """Draw what a language model expects at each place of a text, behind a word and its colon.

    Bars show the probability of the token that comes. Below it stand those that the model expected,
    the likeliest first, each on the colour of its probability; the one that comes has a frame.

    Args:
        model: From tokens ``(N, T)`` to logits ``(N, T, V)``.
        vocabulary: The model's.
        text: Such as ``"gait:a manner of walking\\n"``; what has no colon is shown from its second
            token on.
        places: How many are shown at most; fewer where tokens are long.
        likeliest: How many tokens are shown of each prediction.
    """
    begin = len(vocabulary.encode([text[: text.find(BEHIND_THE_WORD) + 1]])[0]) or 1
    tokens = vocabulary.encode([text])[:, : begin + places]
    p = metrics.predict(model, tokens[:, :-1])[0, begin - 1 :].softmax(dim=1).cpu()
    came, expected = tokens[0, begin:], p.topk(likeliest, dim=1)
    if len(came) == 0:
        raise ArgumentError("text", f"text must go on behind its beginning, got {text!r}")
    names = [piece.translate(SEEN) for piece in vocabulary.pieces]
    written = [[names[token] for token in row] for row in expected.indices.tolist()]
    comes = [names[token] for token in came.tolist()]
    wide = LETTER * (1.6 + max(len(name) for row in (comes, *written) for name in row))
    count = min(len(came), int(WIDEST / wide))
    ratios = 1, 0.26 * likeliest
    figure, axes = panels(2, 1, width=wide * count, height=1, height_ratios=ratios, sharex=True)
    bars, table = axes[:, 0]
    bars.bar(range(count), p[range(count), came[:count]].tolist(), color=OTHER)
    bars.set(ylim=(0, 1), ylabel="probability")
    bars.set_xticks(range(count), comes[:count], size=11)
    bars.tick_params(labelbottom=True, length=0)
    values = expected.values[:count].T.numpy()
    shown = table.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (rank, place), value in np.ndenumerate(values):
        hit = expected.indices[place, rank] == came[place]
        _cell(table, place, rank, written[place][rank], value, framed=bool(hit))
    table.set_yticks(range(likeliest), [f"{rank + 1}." for rank in range(likeliest)])
    table.tick_params(labelbottom=False, length=0)
    table.set(ylabel="expected")
    figure.colorbar(shown, ax=axes, label="probability", shrink=0.9, pad=0.01)
    return figure


def _cell(axis: Axes, x: int, y: int, name: str, p: float, *, framed: bool) -> None:
    """Write a token on the colour of its probability."""
    colour = "black" if p > 0.5 else "white"
    frame = {"edgecolor": colour, "facecolor": "none", "pad": 2, "linewidth": 1.5}
    bbox = frame if framed else None
    axis.text(x, y, name, color=colour, bbox=bbox, ha="center", va="center", size=10)


def two_axes(
    result: "Result",
    names: Sequence[str] | Mapping[str, str],
    *,
    x: str,
    y: str,
    x_label: str,
    y_label: str,
) -> Figure:
    """Draw methods in the plane of two measurements, with 95 % intervals over seeds for both.

    Args:
        result: Of a claim with the measurements ``"name, x"`` and ``"name, y"``.
        names: Of the methods; as a mapping, with what to call them in the figure.
        x, y: What was measured of each, such as ``variety`` and ``written``.
        x_label, y_label: The same in words, with its unit.
    """
    labels = names if isinstance(names, Mapping) else dict(zip(names, names, strict=True))
    figure, axis = panel(5.5, 3.8)
    for place, (name, label) in enumerate(labels.items()):
        colour, marker = STYLES[place % len(STYLES)]
        measured = [f"{name}, {of}" for of in (x, y)]
        (across, up), seeds = map(result.estimate, measured), map(result.values, measured)
        axis.plot(*seeds, ".", color=colour, alpha=0.4)
        axis.errorbar(
            across.mean,
            up.mean,
            xerr=across.mean - across.low,
            yerr=up.mean - up.low,
            color=colour,
            marker=marker,
            markersize=9,
            fillstyle="none",  # as neighbours may be all but equal
            capsize=3,
            linestyle="",
            label=label,
        )
    axis.legend()
    axis.set(xlabel=x_label, ylabel=y_label)
    axis.margins(0.15)
    return figure
