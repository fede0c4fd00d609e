"""Same views and patience."""

from collections.abc import Mapping, Sequence

import ipywidgets

from kdcourse.course import plots
from kdcourse.course.claims.results import Result
from kdcourse.course.widgets.screen import bar, exhibit, html_widget, image_slider, row, title
from kdcourse.data import Images, Views, replay


def views(images: Images, designs: Mapping[str, Views]) -> ipywidgets.VBox:
    """Pick an image and a design, draw again and again: what do teacher and student see?

    Args:
        images: N images; mixtures are made from them.
        designs: Views (:mod:`kdcourse.tips`) by the name of the design.
    """

    def render(image: int, design: str, draw: int) -> str:
        student, teacher, _ = designs[design](images.pixels, images.target, replay(draw))
        return row(
            [
                exhibit(images.pixels[image], title(images, image)),
                exhibit(teacher[image], "what the teacher sees"),
                exhibit(student[image], "what the student sees"),
            ]
        )

    return html_widget(
        render,
        image=image_slider(images),
        design=ipywidgets.ToggleButtons(description="design", options=list(designs)),
        draw=ipywidgets.IntSlider(description="draw", min=0, max=100),
    )


def patience(
    result: Result, designs: Sequence[str], epochs: Sequence[int], least: float = 40.0
) -> ipywidgets.VBox:
    """Change the number of epochs, and see how far students get with each design.

    Args:
        result: A result with a measurement ``design epochs`` for every design and length.
        designs: Names of the designs, the first of which is training on labels.
        epochs: Lengths of training, in epochs.
        least: Accuracy at which the bars start, in percent.
    """

    def render(epochs: int) -> str:
        bars = []
        for name in designs:
            colour = plots.ALONE if name == designs[0] else plots.DISTILLED
            bars.append(bar(name, result.mean(f"{name} {epochs}"), colour, scale=8, start=least))
        note = f"Test accuracy after {epochs} epochs, means over {len(result.runs)} seeds"
        return "".join(bars) + f"<p>{note}; bars start at {least:g} %.</p>"

    return html_widget(
        render, epochs=ipywidgets.SelectionSlider(description="epochs", options=list(epochs))
    )
