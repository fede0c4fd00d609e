"""Loss landscapes to turn and zoom into."""

import math
from collections.abc import Mapping

import ipywidgets
import numpy as np

from kdcourse.course.widgets.screen import COLOURS, captioned, drawing, html_widget, row
from kdcourse.motivation import Landscape

MOST = 5  # height at which landscapes are cut off, in nats
SIZE = 340  # width of a drawing in pixels


def landscapes(slices: Mapping[str, Landscape]) -> ipywidgets.VBox:
    """Turn and zoom into two loss landscapes, by the name of the net, side by side."""
    names = list(slices)

    def render(left: str, right: str, turn: int, tilt: int, zoom: float) -> str:
        parts = [captioned(surface(slices[n], turn, tilt, zoom, MOST), n) for n in (left, right)]
        return row(parts) + f"<p>Training loss in nats, cut off at {MOST}.</p>"

    return html_widget(
        render,
        left=ipywidgets.ToggleButtons(description="left", options=names, value=names[0]),
        right=ipywidgets.ToggleButtons(description="right", options=names, value=names[-1]),
        turn=ipywidgets.IntSlider(description="turn, °", value=30, max=360),
        tilt=ipywidgets.IntSlider(description="tilt, °", value=35, min=5, max=90),
        zoom=ipywidgets.FloatSlider(description="zoom", value=1, min=1, max=4),
    )


def surface(found: Landscape, turn: float, tilt: float, zoom: float, most: float) -> str:
    """Return a landscape, seen from the side, as a drawing in HTML.

    Args:
        found: The landscape.
        turn: Rotation around the vertical axis, in degrees.
        tilt: Height of the viewer above the horizon, in degrees; 90 looks straight down.
        zoom: 1 shows the whole landscape, 2 the inner half of both axes.
        most: Height at which it is cut off.
    """
    x, y, loss = (values.cpu().numpy() for values in (found.x, found.y, found.loss))
    inner = abs(x) <= abs(x).max() / zoom * 1.0001
    height = np.minimum(loss[inner][:, inner], most) / most
    x, y = np.meshgrid(x[inner] * zoom, y[inner] * zoom, indexing="ij")
    x, y = x / abs(x).max(), y / abs(y).max()
    a, t = math.radians(turn), math.radians(tilt)
    across, back = x * math.cos(a) - y * math.sin(a), x * math.sin(a) + y * math.cos(a)
    up = back * math.sin(t) + (height - 0.5) * 1.6 * math.cos(t)
    u, v = SIZE * (0.5 + across / 3), SIZE * (0.48 - up / 3)
    corners = [np.s_[:-1, :-1], np.s_[1:, :-1], np.s_[1:, 1:], np.s_[:-1, 1:]]
    cells = np.stack([part[c].ravel() for c in corners for part in (u, v)], axis=1).tolist()
    middle = np.mean([height[c].ravel() for c in corners], axis=0)
    far = np.mean([back[c].ravel() for c in corners], axis=0)
    levels = (255 * middle).round().astype(int).tolist()
    shape = "<polygon points='%.1f,%.1f %.1f,%.1f %.1f,%.1f %.1f,%.1f' fill='%s'/>"
    order = np.argsort(-far)  # the farthest cells first, so that nearer ones cover them
    shapes = [shape % (*cells[cell], COLOURS[levels[cell]]) for cell in order]
    group = f"<g stroke='#0003'>{''.join(shapes)}</g>"
    return drawing(group, "Training loss as a surface", SIZE, round(0.9 * SIZE))
