"""Widgets for the notebooks: state → what is shown, and nothing else.

A static figure stands beside each in the notebook, for readers without a running kernel. What
follows a slider is drawn by the browser from a few lines of HTML: a matplotlib figure would take
longer than the tenth of a second within which a slider should answer.
"""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib.image
from torch import Tensor

from kdcourse import logit, plots
from kdcourse.claims.results import Result
from kdcourse.data import Images
from kdcourse.metrics import nearest
from kdcourse.teachers import majority_vote_accuracy, majority_vote_bounds


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


def vote(most: int = 25) -> ipywidgets.VBox:
    """Move voters, their accuracy and their correlation, and see the exact accuracy of their vote.

    Args:
        most: voters.
    """
    counts = range(1, most + 1)

    def render(voters: int, accuracy: float, correlation: float) -> str:
        curves = {
            "independent": [majority_vote_accuracy(accuracy, n) for n in counts],
            f"correlation {correlation:.2f}": [
                majority_vote_accuracy(accuracy, n, correlation) for n in counts
            ],
        }
        won = majority_vote_accuracy(accuracy, voters, correlation)
        low, high = majority_vote_bounds(accuracy, voters)
        text = (
            f"<b>{voters} voters of {accuracy:.2f}, correlation {correlation:.2f}: "
            f"the majority is right with probability {won:.3f}</b><br>"
            f"(whatever their errors have to do with each other: {low:.3f} to {high:.3f})<br>"
            "Accuracy of the majority over the number of voters; dashed: independent voters"
        )
        return vote_curves(counts, curves, voters) + f"<p>{text}</p>"

    style = {"description_width": "90px"}
    return html_widget(
        render,
        voters=ipywidgets.IntSlider(description="voters", value=3, min=1, max=most, style=style),
        accuracy=ipywidgets.FloatSlider(
            description="accuracy", value=0.7, min=0.0, max=1.0, step=0.01, style=style
        ),
        correlation=ipywidgets.FloatSlider(
            description="correlation", value=0.0, min=0.0, max=1.0, step=0.01, style=style
        ),
    )


def vote_curves(voters: Sequence[int], curves: Mapping[str, Sequence[float]], marked: int) -> str:
    """Return accuracies in [0, 1] over the number of voters as a drawing in HTML.

    Args:
        voters: numbers of voters.
        curves: accuracies by name; the first is dashed, the last has a mark.
        marked: number of voters that is marked.
    """
    width, height, left, bottom = 460, 200, 40, 24

    def place(number: int, value: float) -> tuple[float, float]:
        across = (number - voters[0]) / max(1, voters[-1] - voters[0])
        return left + across * (width - left - 8), (height - bottom) - value * (height - bottom - 8)

    parts = []
    for value in (0.0, 0.5, 1.0):
        x, y = place(voters[0], value)
        parts.append(
            f"<line x1='{x}' x2='{width - 8}' y1='{y:.1f}' y2='{y:.1f}' stroke='#ccc'/>"
            f"<text x='{x - 6}' y='{y + 4:.1f}' text-anchor='end'>{value:.1f}</text>"
        )
    last = len(curves) - 1
    for number, (name, values) in enumerate(curves.items()):
        colour, dash = (plots.DISTILLED, "") if number == last else (plots.ALONE, "5 4")
        places = [place(n, value) for n, value in zip(voters, values, strict=True)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2' "
            f"stroke-dasharray='{dash}'><title>{html.escape(name)}</title></polyline>"
        )
        if number == last:
            x, y = places[list(voters).index(marked)]
            parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='5' fill='{colour}'/>")
    for number in (voters[0], marked, voters[-1]):
        x, _ = place(number, 0)
        parts.append(f"<text x='{x:.1f}' y='{height - 8}' text-anchor='middle'>{number}</text>")
    return (
        f"<svg width='{width}' height='{height}' style='font-size: 12px; fill: currentColor'>"
        + "".join(parts)
        + "</svg>"
    )


def teacher_size(result: Result, sizes: Sequence[str]) -> ipywidgets.VBox:
    """Move the size of the teacher, and see its accuracy, its student's, and their distance.

    Args:
        result: with measurements ``alone``, ``size``, ``size teacher`` and ``size distance``.
        sizes: the teachers, from small to large.
    """

    def render(teacher: str) -> str:
        rows = [
            ("teacher", f"{teacher} teacher", plots.TEACHER, "%", 2.0),
            ("its student", teacher, plots.DISTILLED, "%", 2.0),
            ("the student alone", "alone", plots.ALONE, "%", 2.0),
            ("distance (KL)", f"{teacher} distance", plots.OTHER, "nats", 1000.0),
        ]
        cells = []
        for name, key, colour, unit, scale in rows:
            mean = result.mean(key)
            digits = 1 if unit == "%" else 3
            cells.append(
                f"<tr style='line-height: 22px'><td style='text-align: right'>{name}</td><td>"
                f"<div style='display: inline-block; height: 12px; width: {scale * mean:.0f}px; "
                f"background: {colour}'></div> {mean:.{digits}f} {unit}</td></tr>"
            )
        seeds = len(result.runs)
        return f"<table>{''.join(cells)}</table><p>Means over {seeds} seeds.</p>"

    slider = ipywidgets.SelectionSlider(
        description="teacher", options=list(sizes), continuous_update=True
    )
    return html_widget(render, teacher=slider)


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
