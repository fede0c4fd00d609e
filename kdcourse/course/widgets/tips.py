"""Same views and patience."""

from collections.abc import Mapping, Sequence

import ipywidgets

from kdcourse.course import plots
from kdcourse.course.claims.results import Result
from kdcourse.course.widgets.screen import bar, captioned, html_widget, picture, row
from kdcourse.data import Images, Views, replay


def views(images: Images, designs: Mapping[str, Views]) -> ipywidgets.VBox:
    """Pick an image and a design, draw again and again: what do teacher and student see?

    Args:
        images: N images; a mixture takes its other half from them.
        designs: views by the design's name (:mod:`kdcourse.tips`).
    """

    def render(image: int, design: str, draw: int) -> str:
        student, teacher, _ = designs[design](images.pixels, images.target, replay(draw))
        name = f"Image {image} ({images.classes[int(images.target[image])]})"
        shown = [
            captioned(picture(images.pixels[image], name), name),
            captioned(picture(teacher[image], "what the teacher sees"), "what the teacher sees"),
            captioned(picture(student[image], "what the student sees"), "what the student sees"),
        ]
        return row(shown)

    return html_widget(
        render,
        image=ipywidgets.IntSlider(description="image", min=0, max=len(images) - 1),
        design=ipywidgets.ToggleButtons(description="design", options=list(designs)),
        draw=ipywidgets.IntSlider(description="draw", min=0, max=100),
    )


def patience(
    result: Result, designs: Sequence[str], epochs: Sequence[int], least: float = 40.0
) -> ipywidgets.VBox:
    """Move the epochs, and see how far students come under each design.

    Args:
        result: with measurements ``design epochs``.
        designs: the first is training on labels.
        epochs: lengths of training.
        least: accuracy in percent at which the bars start.
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
