"""Images, and what models see in them."""

import html
from collections.abc import Mapping, Sequence

import ipywidgets
from torch import Tensor

from kdcourse import logit
from kdcourse.course import plots
from kdcourse.course.widgets.screen import captioned, heat, html_widget, picture, row
from kdcourse.data import Images
from kdcourse.metrics import nearest


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

    return html_widget(
        render,
        image=ipywidgets.IntSlider(description="image", min=0, max=len(images) - 1),
        tau=ipywidgets.FloatLogSlider(description="temperature", value=1, min=-1, max=2, step=0.05),
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
            "<td style='width: 240px; text-align: left'><div style='display: inline-block; "
            f"height: 11px; width: {180 * p[k]:.1f}px; background: {fill}'></div> "
            f"{100 * p[k]:.1f} %</td>"
            for p, fill in zip(probabilities.values(), fills, strict=False)
        )
        name = f"<td style='text-align: right'>{html.escape(name)}{star}</td>"
        rows.append(f"<tr style='line-height: 18px'>{name}{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


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
        return row(shown)

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
        rows = [row([captioned(picture(images.pixels[query], name, 80), name)])]
        for model, indices in found.items():
            shown = []
            for index in indices[query].tolist():
                mark = "✓" if images.target[index] == images.target[query] else "✗"
                label = f"{mark} {kinds[index]}"
                shown.append(captioned(picture(images.pixels[index], label, 64), label))
            rows.append(f"<b>{html.escape(model)}</b>" + row(shown))
        return "".join(rows)

    slider = ipywidgets.IntSlider(description="query", min=0, max=len(images) - 1)
    return html_widget(render, query=slider)


def snapshots(
    taken: Mapping[int, Tensor], captions: Mapping[int, Sequence[str]]
) -> ipywidgets.VBox:
    """Move through a training, and see the images of its steps.

    Args:
        taken: ``(N, C, H, W)``, uint8, by the number of steps.
        captions: N captions, by the number of steps.
    """

    def render(step: int) -> str:
        shown = [
            captioned(picture(pixels, f"{caption}, after {step} steps", 84), caption)
            for pixels, caption in zip(taken[step], captions[step], strict=True)
        ]
        return row(shown) + f"<p>After {step} steps.</p>"

    return html_widget(
        render, step=ipywidgets.SelectionSlider(description="steps", options=list(taken))
    )
