"""Widgets for the notebooks: state → figure, and nothing else.

A widget draws the same figure functions as the notebooks do; a static figure stands beside each,
for readers without a running kernel.
"""

import base64
import html
import io
from collections.abc import Callable
from typing import Any

import ipywidgets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from kdcourse import logit, plots
from kdcourse.data import Images


def figure_widget(
    draw: Callable[..., tuple[Figure, str]], **controls: ipywidgets.Widget
) -> ipywidgets.VBox:
    """Show a figure that follows its controls.

    Args:
        draw: maps the controls' values, by name, to a figure and a sentence that describes it.
        controls: sliders and the like.

    The picture is replaced as a whole at every change: nothing flickers and no output piles up.
    """
    screen = ipywidgets.HTML()
    places: list[Any] = []  # of the axes, laid out once: half of the time, and nothing jumps

    def redraw(change: Any = None) -> None:
        figure, description = draw(**{name: c.value for name, c in controls.items()})
        if places:
            figure.set_layout_engine("none")
            for axis, place in zip(figure.axes, places, strict=True):
                axis.set_position(place)
        screen.value = _image(figure, description)
        if not places:
            places.extend(axis.get_position() for axis in figure.axes)

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*controls.values(), screen])


def temperature(images: Images, teacher_logits: Tensor, student_logits: Tensor) -> ipywidgets.VBox:
    """Pick an image, move τ, and watch the bars of teacher and student.

    Args:
        images: N images with their labels.
        teacher_logits: ``(N, K)``.
        student_logits: ``(N, K)``.
    """

    def draw(image: int, tau: float) -> tuple[Figure, str]:
        one = slice(image, image + 1)
        p = {
            "teacher": logit.softmax(teacher_logits[one], tau),
            "student": logit.softmax(student_logits[one], tau),
        }
        figure = plots.predictions(images.pixels[one], p, images.target[one], images.classes)
        top = [f"{n} {float(v.max()):.0%} {images.classes[int(v.argmax())]}" for n, v in p.items()]
        label = images.classes[int(images.target[image])]
        return figure, f"Image {image} ({label}) at temperature {tau:.3g}: {', '.join(top)}"

    style = {"description_width": "90px"}
    return figure_widget(
        draw,
        image=ipywidgets.IntSlider(description="image", min=0, max=len(images) - 1, style=style),
        tau=ipywidgets.FloatLogSlider(
            description="temperature", value=1, min=-1, max=2, step=0.05, style=style
        ),
    )


def _image(figure: Figure, description: str) -> str:
    buffer = io.BytesIO()
    figure.dpi = 80
    # Straight to the canvas: savefig would draw everything twice.
    FigureCanvasAgg(figure).print_png(buffer, pil_kwargs={"compress_level": 1})
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(description)
    return f'<img src="data:image/png;base64,{data}" alt="{text}"><p>{text}</p>'
