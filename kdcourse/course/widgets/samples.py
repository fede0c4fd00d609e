"""Images, and what models see in them."""

import html
from collections.abc import Mapping, Sequence

import ipywidgets
from torch import Tensor

from kdcourse import logit
from kdcourse.course import plots
from kdcourse.course.widgets.screen import (
    captioned,
    exhibit,
    heat,
    html_widget,
    image_slider,
    outlined,
    picture,
    row,
    title,
)
from kdcourse.data import Images, Views, replay
from kdcourse.metrics import nearest


def temperature(images: Images, teacher_logits: Tensor, student_logits: Tensor) -> ipywidgets.VBox:
    """Pick an image, move τ, and watch the bars of two models with the logits ``(N, K)``."""
    logits = {"teacher": teacher_logits, "student": student_logits}

    def render(image: int, tau: float) -> str:
        p = {name: logit.softmax(z[[image]], tau)[0].tolist() for name, z in logits.items()}
        name = title(images, image)
        caption = f"{name} at temperature {tau:.3g}; ★ the true class"
        return (
            "<div style='display: flex; align-items: center; gap: 24px'>"
            + picture(images.pixels[image], name)
            + bars(p, images.classes, int(images.target[image]))
            + f"</div><p>{html.escape(caption)}</p>"
        )

    return html_widget(
        render,
        image=image_slider(images),
        tau=ipywidgets.FloatLogSlider(description="temperature", value=1, min=-1, max=2, step=0.05),
    )


def bars(probabilities: Mapping[str, list[float]], classes: tuple[str, ...], label: int) -> str:
    """Return a table of bars: a row for each class, a column for each of two models.

    The teacher comes first; the true class, whose index is ``label``, gets a star.
    """
    stripes = f"repeating-linear-gradient(45deg, {plots.DISTILLED} 0 4px, #f0b48c 4px 6px)"
    fills = (plots.TEACHER, stripes)
    head = "".join(f"<th style='text-align: left'>{name}</th>" for name in probabilities)
    rows = []
    for k, name in enumerate(classes):
        star = " ★" if k == label else ""
        cells = "".join(
            "<td style='width: 240px; text-align: left'><div style='display: inline-block; "
            f"height: 11px; width: {180 * p[k]:.1f}px; background: {fill}'></div> "
            f"{100 * p[k]:.1f} %</td>"
            for p, fill in zip(probabilities.values(), fills, strict=False)
        )
        name = f"<td style='text-align: right'>{html.escape(name)}{star}</td>"
        rows.append(f"<tr style='line-height: 18px'>{name}{cells}</tr>")
    rows.insert(0, f"<tr><th></th>{head}</tr>")
    return f"<table style='white-space: nowrap'>{''.join(rows)}</table>"


def maps(images: Images, layers: Mapping[str, Mapping[str, Tensor]]) -> ipywidgets.VBox:
    """Pick one of N images and a layer, and see where several models look.

    For the name of each layer, there are maps ``(N, H, W)`` ≥ 0 by the name of the model.
    """

    def render(image: int, layer: str) -> str:
        shown = [exhibit(images.pixels[image], title(images, image))]
        for model, values in layers[layer].items():
            drawn = heat(values[image], f"{layer}, {model}")
            shown.append(captioned(outlined(drawn, images.pixels[image]), model))
        return row(shown)

    return html_widget(
        render,
        image=image_slider(images),
        layer=ipywidgets.ToggleButtons(description="layer", options=list(layers)),
    )


def neighbours(images: Images, embeddings: Mapping[str, Tensor], count: int = 6) -> ipywidgets.VBox:
    """Move to a query, and see its neighbours in the embeddings ``(N, D)`` of several models."""
    found = {name: nearest(e, count) for name, e in embeddings.items()}

    def render(query: int) -> str:
        rows = [row([exhibit(images.pixels[query], title(images, query, "Query"), 80)])]
        for model, indices in found.items():
            shown = []
            for index in indices[query].tolist():
                mark = "✓" if images.target[index] == images.target[query] else "✗"
                label = f"{mark} {images.classes[int(images.target[index])]}"
                shown.append(exhibit(images.pixels[index], label, 64))
            rows.append(f"<b>{html.escape(model)}</b>" + row(shown))
        return "".join(rows)

    return html_widget(render, query=image_slider(images, "query"))


def snapshots(
    taken: Mapping[int, Tensor], captions: Mapping[int, Sequence[str]]
) -> ipywidgets.VBox:
    """Move through a training, and see its images ``(N, C, H, W)``, uint8, after so many steps."""

    def render(step: int) -> str:
        shown = [
            captioned(picture(pixels, f"{caption}, after {step} steps", 84), caption)
            for pixels, caption in zip(taken[step], captions[step], strict=True)
        ]
        return row(shown) + f"<p>After {step} steps.</p>"

    return html_widget(
        render, step=ipywidgets.SelectionSlider(description="steps", options=list(taken))
    )


def views(images: Images, designs: Mapping[str, Views]) -> ipywidgets.VBox:
    """Pick an image and a design, draw again and again: what do teacher and student see?

    The views (:mod:`kdcourse.tips`) of a design make mixtures from these images.
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
