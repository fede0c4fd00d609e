"""Widgets for the notebooks: state → what is shown, and nothing else.

A static figure stands beside each in the notebook, for readers without a running kernel. What
follows a slider is drawn by the browser from a few lines of HTML: a matplotlib figure would take
longer than the tenth of a second within which a slider should answer.
"""

import base64
import html
import io
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import matplotlib.image
from torch import Tensor

from kdcourse import logit, plots
from kdcourse.data import Images
from kdcourse.metrics import nearest


def html_widget(render: Callable[..., str], **controls: ipywidgets.Widget) -> ipywidgets.VBox:
    """Show HTML that follows its controls.

    Args:
        render: maps the controls' values, by name, to HTML.
        controls: sliders and the like.

    What is shown is replaced as a whole: nothing flickers and no output piles up.
    """
    screen = ipywidgets.HTML()

    def redraw(change: Any = None) -> None:
        screen.value = render(**{name: c.value for name, c in controls.items()})

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

    def render(image: int, tau: float) -> str:
        one = slice(image, image + 1)
        p = {
            "teacher": logit.softmax(teacher_logits[one], tau)[0].tolist(),
            "student": logit.softmax(student_logits[one], tau)[0].tolist(),
        }
        label = int(images.target[image])
        name = f"Image {image} ({images.classes[label]})"
        caption = f"{name} at temperature {tau:.3g}; ★ the true class"
        return (
            "<div style='display: flex; align-items: center; gap: 24px'>"
            + picture(images.pixels[image], name)
            + bars(p, images.classes, label)
            + f"</div><p>{html.escape(caption)}</p>"
        )

    style = {"description_width": "90px"}
    return html_widget(
        render,
        image=ipywidgets.IntSlider(description="image", min=0, max=len(images) - 1, style=style),
        tau=ipywidgets.FloatLogSlider(
            description="temperature", value=1, min=-1, max=2, step=0.05, style=style
        ),
    )


def maps(images: Images, layers: Mapping[str, Mapping[str, Tensor]]) -> ipywidgets.VBox:
    """Pick an image and a layer, and see where several models look.

    Args:
        images: N images with their labels.
        layers: maps ``(N, H, W)`` ≥ 0 by the model's name, by the layer's name.
    """

    def render(image: int, layer: str) -> str:
        name = f"Image {image} ({images.classes[int(images.target[image])]})"
        shown = [captioned(picture(images.pixels[image], name), name)]
        for model, values in layers[layer].items():
            shown.append(captioned(heat(values[image], f"{layer}, {model}"), model))
        return _row(shown)

    return html_widget(
        render,
        image=ipywidgets.IntSlider(description="image", min=0, max=len(images) - 1),
        layer=ipywidgets.ToggleButtons(description="layer", options=list(layers)),
    )


def neighbours(images: Images, embeddings: Mapping[str, Tensor], count: int = 6) -> ipywidgets.VBox:
    """Move to a query, and see its nearest neighbours in the embeddings of several models.

    Args:
        images: N images with their labels.
        embeddings: ``(N, D)`` by the model's name.
        count: neighbours shown.
    """
    found = {name: nearest(e, count) for name, e in embeddings.items()}
    kinds = [images.classes[int(label)] for label in images.target]

    def render(query: int) -> str:
        name = f"Query {query} ({kinds[query]})"
        rows = [_row([captioned(picture(images.pixels[query], name, 80), name)])]
        for model, indices in found.items():
            shown = []
            for index in indices[query].tolist():
                mark = "✓" if images.target[index] == images.target[query] else "✗"
                label = f"{mark} {kinds[index]}"
                shown.append(captioned(picture(images.pixels[index], label, 64), label))
            rows.append(f"<b>{html.escape(model)}</b>" + _row(shown))
        return "".join(rows)

    slider = ipywidgets.IntSlider(description="query", min=0, max=len(images) - 1)
    return html_widget(render, query=slider)


def _row(parts: list[str]) -> str:
    return "<div style='display: flex; gap: 16px'>" + "".join(parts) + "</div>"


def captioned(shown: str, caption: str) -> str:
    """Return HTML with a line of text below it."""
    style = "margin: 0; text-align: center; line-height: 16px"
    text = f"<figcaption>{html.escape(caption)}</figcaption>"
    return f"<figure style='{style}'>{shown}{text}</figure>"


def heat(values: Tensor, description: str, size: int = 140) -> str:
    """Return a map ``(H, W)`` ≥ 0 as HTML, its largest value brightest."""
    largest = float(values.max()) or 1.0
    return _image(values.cpu().numpy(), description, size, cmap="cividis", vmin=0, vmax=largest)


def picture(pixels: Tensor, description: str, size: int = 140) -> str:
    """Return an image ``(C, H, W)``, uint8, as HTML, dark on light if it is grey."""
    channels = pixels.movedim(0, -1).cpu().numpy()
    if channels.shape[-1] == 1:
        grey = 255 - channels[..., 0]
        return _image(grey, description, size, cmap="gray", vmin=0, vmax=255)
    return _image(channels, description, size)


def _image(values: Any, description: str, size: int, **colours: Any) -> str:
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, values, **colours)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}" '
        f'width="{size}" style="image-rendering: pixelated">'
    )


def bars(probabilities: Mapping[str, list[float]], classes: tuple[str, ...], label: int) -> str:
    """Return a table of bars: a row for each class, a column for each of two models.

    Args:
        probabilities: K probabilities by the model's name, the teacher's first.
        classes: K class names.
        label: the true class, which is starred.
    """
    stripes = f"repeating-linear-gradient(45deg, {plots.DISTILLED} 0 4px, #f0b48c 4px 6px)"
    fills = (plots.TEACHER, stripes)
    head = "".join(f"<th style='text-align: left'>{name}</th>" for name in probabilities)
    rows = []
    for k, name in enumerate(classes):
        star = " ★" if k == label else ""
        cells = "".join(
            f"<td style='width: 240px'><div style='display: inline-block; height: 11px; "
            f"width: {180 * p[k]:.1f}px; background: {fill}'></div> {100 * p[k]:.1f} %</td>"
            for p, fill in zip(probabilities.values(), fills, strict=False)
        )
        name = f"<td style='text-align: right'>{html.escape(name)}{star}</td>"
        rows.append(f"<tr style='line-height: 18px'>{name}{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
