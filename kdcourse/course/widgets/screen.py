"""What widgets share: controls above a screen, and pictures as HTML."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import matplotlib
from PIL import Image
from torch import Tensor, nn

from kdcourse.course import plots
from kdcourse.data import Images

Point = tuple[float, float]  # in pixels, from the upper left corner

# From the lowest value to the highest.
COLOURS = [matplotlib.colors.to_hex(c) for c in matplotlib.colormaps["cividis"](range(256))]


def html_widget(render: Callable[..., str], **controls: ipywidgets.Widget) -> ipywidgets.VBox:
    """Show the HTML that ``render`` makes of the values of its controls, by their names.

    The HTML is replaced as a whole: nothing flickers, and no output piles up.
    """
    screen = ipywidgets.HTML(layout={"margin": "10px 0 0"})

    def redraw(change: Any = None) -> None:
        screen.value = render(**{name: c.value for name, c in controls.items()})

    for control in controls.values():
        control.observe(redraw, names="value")
        control.style.description_width = "90px"
        if isinstance(control, ipywidgets.ToggleButtons):
            control.layout.display, control.layout.width = "flex", "auto"  # beside their name
            control.style.button_width = "auto"
        else:  # a slider: long enough for steps of a hundredth
            control.layout.width = "min(460px, 100%)"
    redraw()
    return ipywidgets.VBox([*controls.values(), screen])


def image_slider(images: Images, name: str = "image") -> ipywidgets.IntSlider:
    """Return a slider that picks one of the images."""
    return ipywidgets.IntSlider(description=name, min=0, max=len(images) - 1)


def title(images: Images, index: int, name: str = "Image") -> str:
    """Return the number and the class of an image."""
    return f"{name} {index} ({images.classes[int(images.target[index])]})"


def drawing(shapes: str, description: str, width: int, height: int) -> str:
    """Return a drawing (SVG) of the given shapes, with a description for screen readers."""
    return (
        f"<svg role='img' aria-label='{html.escape(description)}' width='{width}' "
        f"height='{height}' viewBox='0 0 {width} {height}' style='font-size: 12px; "
        f"max-width: 100%; height: auto; fill: currentColor'>{shapes}</svg>"
    )


def polyline(
    places: Sequence[Point], colour: str, name: str, *, dash: str = "", thick: float = 2
) -> str:
    """Return a line of a drawing through these places; its name is shown when it is pointed at."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return (
        f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='{thick:g}' "
        f"stroke-dasharray='{dash}'><title>{html.escape(name)}</title></polyline>"
    )


def row(parts: list[str]) -> str:
    """Return pieces of HTML side by side."""
    return "<div style='display: flex; gap: 16px'>" + "".join(parts) + "</div>"


def captioned(shown: str, caption: str) -> str:
    """Return a piece of HTML with a caption below it."""
    style = "margin: 0; text-align: center; line-height: 16px"
    text = f"<figcaption>{html.escape(caption)}</figcaption>"
    return f"<figure style='{style}'>{shown}{text}</figure>"


def exhibit(pixels: Tensor, caption: str, size: int = 140) -> str:
    """Return an image as :func:`picture` does, with a caption that also describes it."""
    return captioned(picture(pixels, caption, size), caption)


def bar(
    name: str,
    value: float,
    colour: str,
    unit: str = "%",
    *,
    digits: int = 1,
    scale: float = 2.0,
    start: float = 0.0,
) -> str:
    """Return a bar with its name and value, ``scale`` pixels long for each unit above ``start``."""
    pixels = scale * max(0.0, value - start)
    length = f"display: inline-block; height: 12px; width: {pixels:.0f}px"
    return (
        "<div style='line-height: 22px; white-space: nowrap'><span style='display: inline-block; "
        f"width: 150px; padding-right: 8px; text-align: right'>{html.escape(name)}</span>"
        f"<div style='{length}; background: {colour}'></div> {value:.{digits}f} {unit}</div>"
    )


def heat(values: Tensor, description: str, size: int = 140) -> str:
    """Return a map ``(H, W)`` ≥ 0 as HTML, with its largest value the brightest."""
    largest = float(values.max()) or 1.0
    image = Image.fromarray((255 * values / largest).round().byte().cpu().numpy())
    image.putpalette(matplotlib.colormaps[plots.MAP](range(256), bytes=True)[:, :3].tobytes())
    return _shown(image, description, size)


def outlined(shown: str, pixels: Tensor) -> str:
    """Return a picture with the outline of what a grey image ``(1, H, W)`` shows drawn over it."""
    if len(pixels) > 1:  # nothing says where the background of a coloured image ends
        return shown
    inside = nn.functional.pad((pixels[0] > plots.INK).int(), (1, 1, 1, 1))
    below, beside = inside.diff(dim=0)[:, 1:-1].nonzero(), inside.diff(dim=1)[1:-1].nonzero()
    edges = "".join(f"M{x} {y}h1" for y, x in below.tolist())
    edges += "".join(f"M{x} {y}v1" for y, x in beside.tolist())
    lines = "".join(
        f"<path d='{edges}' stroke='{colour}' stroke-width='{thickness}' "
        "vector-effect='non-scaling-stroke'/>"
        for colour, thickness in (("black", 2.6), ("white", 1.2))
    )
    height, width = pixels.shape[-2:]
    return (
        f"<div style='position: relative; display: inline-block; line-height: 0'>{shown}"
        f"<svg aria-hidden='true' viewBox='0 0 {width} {height}' "
        f"style='position: absolute; left: 0; top: 0; width: 100%'>{lines}</svg></div>"
    )


def picture(pixels: Tensor, description: str, size: int = 140) -> str:
    """Return an image ``(C, H, W)``, uint8, as HTML; grey images appear dark on light."""
    channels = pixels.movedim(0, -1).cpu().numpy()
    grey = channels.shape[-1] == 1
    return _shown(Image.fromarray(255 - channels[..., 0] if grey else channels), description, size)


def _shown(image: Image.Image, description: str, size: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "png")  # thirty times as fast as matplotlib
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}" '
        f'width="{size}" style="image-rendering: pixelated">'
    )
