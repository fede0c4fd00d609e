"""Which layers of two nets belong together."""

import html

import ipywidgets
import matplotlib

from kdcourse.course import plots
from kdcourse.course.widgets.screen import html_widget
from kdcourse.layers import RULES, LayerMap


def layers(found: LayerMap) -> ipywidgets.VBox:
    """Choose a rule and a number of pairs, and see what it proposes on the map of likeness."""

    def render(rule: str, pairs: int) -> str:
        proposed = found.proposed(pairs, rule)
        told = ", ".join(f"{own} ← {theirs}" for own, theirs in proposed)
        return f"{likeness(found, proposed)}<p>Proposed: {html.escape(told)}</p>"

    least = min(found.likeness.shape)
    return html_widget(
        render,
        rule=ipywidgets.ToggleButtons(description="rule", options=RULES),
        pairs=ipywidgets.IntSlider(description="pairs", value=min(3, least), min=1, max=least),
    )


def likeness(found: LayerMap, framed: list[tuple[str, str]]) -> str:
    """Return the map as a table in HTML: a row a layer of the student, a column one of the teacher.

    Framed are pairs of layers, by their names.
    """
    colour = matplotlib.colormaps[plots.MAP]
    head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in found.teacher)
    rows = []
    for own, values in zip(found.student, found.likeness.tolist(), strict=True):
        cells = ""
        for theirs, value in zip(found.teacher, values, strict=True):
            ink = "black" if value > 0.5 else "white"
            frame = f"3px solid {plots.DISTILLED}" if (own, theirs) in framed else "3px solid white"
            fill = matplotlib.colors.to_hex(colour(value))
            cells += (
                f"<td style='background: {fill}; color: {ink}; border: {frame}; padding: 4px 8px; "
                f"text-align: center'>{value:.2f}</td>"
            )
        rows.append(f"<tr><th scope='row'>{html.escape(own)}</th>{cells}</tr>")
    caption = "Linear CKA of layers: student in rows, teacher in columns"
    scrolled = f"tabindex='0' role='group' aria-label='{caption}' style='overflow-x: auto'"
    return (
        f"<div {scrolled}><table style='border-collapse: collapse'>"
        f"<caption>{caption}</caption><tr><td></td>{head}</tr>{''.join(rows)}</table></div>"
    )
