"""What was computed or measured: votes, the size of the teacher, patience."""

import functools
from collections.abc import Mapping, Sequence

import ipywidgets

from kdcourse.course import plots
from kdcourse.course.claims.results import Result
from kdcourse.course.widgets.screen import Point, bar, drawing, html_widget, polyline
from kdcourse.teachers import majority_vote_accuracy, majority_vote_bounds


def vote() -> ipywidgets.VBox:
    """Set voters, their accuracy and correlation, and see the exact accuracy of their vote."""
    counts = range(1, 26)

    @functools.lru_cache
    def curve(accuracy: float, correlation: float) -> list[float]:
        return [majority_vote_accuracy(accuracy, n, correlation) for n in counts]

    def render(voters: int, accuracy: float, correlation: float) -> str:
        correlated = curve(accuracy, correlation)
        curves = {
            "independent": curve(accuracy, 0.0),
            f"correlation {correlation:.2f}": correlated,
        }
        won = correlated[voters - 1]
        low, high = majority_vote_bounds(accuracy, voters)
        text = (
            f"<b>{voters} voters, each right with probability {accuracy:.2f}, errors correlated by "
            f"{correlation:.2f}: the majority is right with probability {won:.3f}</b><br>"
            f"(however their errors are related: {low:.3f} to {high:.3f})<br>"
            "Accuracy of the majority against the number of voters; dashed: independent voters"
        )
        return vote_curves(counts, curves, voters) + f"<p>{text}</p>"

    return html_widget(
        render,
        voters=ipywidgets.IntSlider(description="voters", value=3, min=1, max=counts[-1]),
        accuracy=ipywidgets.FloatSlider(description="accuracy", value=0.7, max=1, step=0.01),
        correlation=ipywidgets.FloatSlider(description="correlation", max=1, step=0.01),
    )


def vote_curves(voters: Sequence[int], curves: Mapping[str, Sequence[float]], marked: int) -> str:
    """Return a drawing in HTML of accuracies in [0, 1] against the number of voters.

    The second of two curves is solid and carries the mark.
    """
    width, height, left, bottom = 460, 200, 40, 24

    def place(number: int, value: float) -> Point:
        across = (number - voters[0]) / max(1, voters[-1] - voters[0])
        return left + across * (width - left - 8), (height - bottom) - value * (height - bottom - 8)

    parts = []
    for value in (0.0, 0.5, 1.0):
        x, y = place(voters[0], value)
        parts.append(
            f"<line x1='{x}' x2='{width - 8}' y1='{y:.1f}' y2='{y:.1f}' stroke='currentColor' "
            "stroke-opacity='.25'/>"
            f"<text x='{x - 6}' y='{y + 4:.1f}' text-anchor='end'>{value:.1f}</text>"
        )
    styles = (plots.ALONE, "5 4"), (plots.DISTILLED, "")
    for (name, values), (colour, dash) in zip(curves.items(), styles, strict=True):
        places = [place(n, value) for n, value in zip(voters, values, strict=True)]
        parts.append(polyline(places, colour, name, dash=dash))
    x, y = places[list(voters).index(marked)]
    parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='5' fill='{colour}'/>")
    for number in (voters[0], marked, voters[-1]):
        x, _ = place(number, 0)
        parts.append(f"<text x='{x:.1f}' y='{height - 8}' text-anchor='middle'>{number}</text>")
    description = "Accuracy of the majority against the number of voters"
    return drawing("".join(parts), description, width, height)


def teacher_size(result: Result, sizes: Sequence[str]) -> ipywidgets.VBox:
    """Change the size of the teacher, and see its accuracy, its student's, and their distance.

    The result has the measurements ``alone`` and, for every size, ``size``, ``size teacher`` and
    ``size distance``.
    """

    def render(teacher: str) -> str:
        distance = result.mean(f"{teacher} distance")
        return (
            bar("teacher", result.mean(f"{teacher} teacher"), plots.TEACHER)
            + bar("its student", result.mean(teacher), plots.DISTILLED)
            + bar("the student alone", result.mean("alone"), plots.ALONE)
            + bar("distance (KL)", distance, plots.OTHER, "nats", digits=3, scale=1000)
            + f"<p>Means over {len(result.runs)} seeds.</p>"
        )

    return html_widget(
        render, teacher=ipywidgets.SelectionSlider(description="teacher", options=list(sizes))
    )


def patience(result: Result, designs: Sequence[str], epochs: Sequence[int]) -> ipywidgets.VBox:
    """Change the number of epochs, and see how far students get with each design.

    The result has a measurement ``design epochs`` for every design and length; the first design is
    training on labels.
    """
    least = 40  # %, where the bars start: differences are read more easily

    def render(epochs: int) -> str:
        bars = []
        for name in designs:
            colour = plots.ALONE if name == designs[0] else plots.DISTILLED
            bars.append(bar(name, result.mean(f"{name} {epochs}"), colour, scale=8, start=least))
        note = f"Test accuracy after {epochs} epochs, means over {len(result.runs)} seeds"
        return "".join(bars) + f"<p>{note}; bars start at {least} %.</p>"

    return html_widget(
        render, epochs=ipywidgets.SelectionSlider(description="epochs", options=list(epochs))
    )
