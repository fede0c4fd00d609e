"""The parts of a report in HTML: how each was measured, in a sentence, a table, and a figure."""

from collections.abc import Callable, Sequence
from html import escape

from kdcourse.evaluation import _figures as figures
from kdcourse.evaluation._answers import TEACHER
from kdcourse.evaluation._writing import (
    Row,
    figure,
    gap_of,
    how,
    listed,
    marked,
    mean,
    percent,
    quartiles,
    sizes,
    span,
    table,
    wide,
    written,
)
from kdcourse.evaluation.calibration import BINS
from kdcourse.evaluation.classes import ClassChange
from kdcourse.evaluation.cost import BATCHES, ROUNDS
from kdcourse.evaluation.report import Report, compared
from kdcourse.evaluation.resampling import FEW
from kdcourse.evaluation.robustness import IMAGES, SEVERITIES

MOST = 24  # classes in a figure


def section(report: Report, part: str) -> str:
    """Return a part of a report, or why it is missing."""
    if part in report.left_out:
        return how(f"Not measured: {report.left_out[part]}.")
    return SECTIONS[part][1](report)


def numbers(report: Report) -> dict[str, int]:
    """Return the number of each net: 0 the teacher's, 2 the baseline's, the others in turn."""
    free = iter([1, 3, 4, 5] * len(report.accuracy))
    fixed = {TEACHER: 0, report.baseline: 2}
    return {name: fixed[name] if name in fixed else next(free) for name in report.accuracy}


def _accuracy(report: Report) -> str:
    k = next(iter(report.accuracy.values())).k
    rows = [
        [
            name,
            span(found.top_1),
            span(found.top_k),
            gap_of(found.minus_teacher),
            *([gap_of(found.minus_baseline)] if report.baseline else []),
        ]
        for name, found in report.accuracy.items()
    ]
    head = ["net", "top-1, %", f"top-{k}, %", "minus teacher, points"]
    head += [f"minus {report.baseline}, points"] if report.baseline else []
    return how(
        f"The share of test images whose class is the likeliest, or among the {k} likeliest. "
        "Differences are between nets on the same images, and so are their intervals."
    ) + table([head, *rows], "Accuracy on the test images")


def _cost(report: Report) -> str:
    head = ["net", "parameters", "kilobytes", "multiply–adds"]
    head += [f"ms, batch {size}" for size in BATCHES]
    rows = [
        [
            name,
            sizes(cost)[0],
            f"{cost.bytes / 1000:,.0f}",
            sizes(cost)[1],
            *(quartiles(cost.latency[size]) for size in BATCHES),
        ]
        for name, cost in report.cost.items()
    ]
    place = f"{report.conditions['device']}; {report.conditions['processor']}"
    return how(
        "Kilobytes are those of weights and buffers; multiply–adds those of one image. "
        "Milliseconds are medians of "
        f"{ROUNDS} warm forward passes, in which the nets took turns, on "
        f"this machine ({place}); in brackets are the quartiles. Other machines have other "
        "latencies, and perhaps in another order."
    ) + table([head, *rows], "What each net costs")


def _fidelity(report: Report) -> str:
    head = ["student", "agreement, %", "KL, nats", "CKA"]
    rows = [
        [
            name,
            span(found.agreement),
            marked(*written(found.kl, "{:.3f}")),
            marked(*written(found.cka, "{:.3f}")) if found.cka else escape(found.note),
        ]
        for name, found in report.fidelity.items()
    ]
    return how(
        "How much a student is like its teacher, right or wrong: the share of test images on "
        "which both name the same class; the KL divergence of the student's probabilities from "
        "the teacher's; and how alike their embeddings are up to rotation and scale (linear "
        "CKA, 1 if equal; its interval is that of its first-order expansion)."
    ) + table([head, *rows], "Student and teacher")


def _calibration(report: Report) -> str:
    scaled = any(one.scaled for one in report.calibration.values())
    head = ["net", "ECE, %", "loss, nats", "temperature"]
    head += ["ECE scaled, %", "loss scaled, nats"] * scaled
    rows, drawn = [], []
    for name, found in report.calibration.items():
        cells = [span(found.plain.error), marked(*written(found.plain.loss, "{:.3f}"))]
        cells.append(f"{found.temperature:.2f}" if found.temperature else "not scaled")
        shown = {"as it comes": found.plain}
        if found.scaled:
            shown["scaled"] = found.scaled
            cells += [span(found.scaled.error)]
            cells += [marked(*written(found.scaled.loss, "{:.3f}"))]
        rows.append([name, *cells])
        for state, one in shown.items():
            told = f"{name}, {state}: ECE {percent(one.error.value)} %"
            diagram = figures.reliability_diagram(
                one.bins, numbers(report)[name], f"Reliability diagram of {told}"
            )
            drawn.append(figure(diagram, told))
    rows_of = f"grid-template-rows:repeat({2 if scaled else 1},auto)"
    fitted = (
        "Scaled: with logits divided by the temperature of the lowest loss on validation images."
        if scaled
        else "Not scaled: a temperature is fitted on validation images, and none were given."
    )
    return (
        how(
            "Is a net right as often as it is sure? Test images are sorted into "
            f"{BINS} bins by "
            "confidence; the expected calibration error (ECE) is the mean distance of accuracy and "
            "confidence. Noise in the bins makes it a little too large, which its interval takes "
            f"off. {fitted} Bars are the accuracy of each bin, pale of fewer than "
            f"{FEW} images; lines, how far its confidence is."
        )
        + table([head, *rows], "Calibration on the test images")
        + wide(f'<div class="pairs" style="{rows_of}">{"".join(drawn)}</div>', "Reliability")
    )


def _robustness(report: Report) -> str:
    nets = report.robustness
    head = ["net", "clean, %", "corrupted, %", "minus teacher, points"]
    head += [f"minus {report.baseline}, points"] if report.baseline else []
    rows = [
        [
            name,
            span(one.clean),
            span(one.corrupted),
            gap_of(one.minus_teacher),
            *([gap_of(one.minus_baseline)] if report.baseline else []),
        ]
        for name, one in nets.items()
    ]
    kinds = list(next(iter(nets.values())).by_corruption)
    by_kind: list[Row] = [["corruption", *nets]]
    by_kind += [
        [kind, *(percent(mean(one.by_corruption[kind])) for one in nets.values())] for kind in kinds
    ]
    curves = {
        name: [
            100 * one.clean.value,
            *(100 * mean([by[n] for by in one.by_corruption.values()]) for n in range(5)),
        ]
        for name, one in nets.items()
    }
    described = "Mean accuracy over corruptions by severity: " + "; ".join(
        f"{name} from {curve[0]:.1f} % to {curve[-1]:.1f} %" for name, curve in curves.items()
    )
    drawn = figures.accuracy_by_severity(curves, numbers(report), described)
    return (
        how(
            f"At most {IMAGES:,} of the test images, corrupted in {len(kinds)} ways at "
            f"{len(SEVERITIES)} severities (those of CIFAR-10-C where it has them, after Hendrycks "
            "and Dietterich 2019; translation and occlusion are added). Corrupted is the mean over "
            "all of them."
        )
        + table([head, *rows], "Clean and corrupted images")
        + figure(drawn, "Accuracy by severity, mean over the corruptions.")
        + table(by_kind, "Accuracy in percent by corruption, mean over the severities")
    )


def _classes(report: Report) -> str:
    parts = [
        how(
            "A gain in accuracy is a mean; some classes may pay for it. Each row compares two nets "
            "on the test images of one class, with a bootstrap over these. Coloured are changes "
            "whose interval leaves out zero, as one of twenty does where nothing has changed, of "
            f"classes with {FEW} images or more."
        )
    ]
    for student, changes in report.classes.items():
        other = compared(student, report.baseline, report.accuracy)
        ordered = sorted(changes, key=lambda one: one.difference.value)
        ends = _ends(ordered)
        told = f"{student} less {other}, by class"
        lost = [one.name for one in ordered if one.direction < 0]
        gained = [one.name for one in ordered[::-1] if one.direction > 0]
        words = (
            f"{told}. Lost: {listed(lost) if lost else 'none'}; gained: "
            f"{listed(gained) if gained else 'none'}."
        )
        head = ["class", "images", f"{student}, %", f"{other}, %", "change, points"]
        rows = [
            [
                one.name,
                f"{one.samples:,}",
                percent(one.accuracy),
                percent(one.other),
                gap_of(one.difference),
            ]
            for one in ordered
        ]
        parts.append(figure(figures.changes_by_class(ends, words), words))
        parts.append(
            "<details><summary>All classes</summary>" + table([head, *rows], told) + "</details>"
        )
    return "".join(parts)


def _ends(ordered: Sequence[ClassChange]) -> Sequence[ClassChange]:
    """Return the classes that changed most, for better or worse, where there are many."""
    half = MOST // 2
    return ordered if len(ordered) <= MOST else [*ordered[:half], *ordered[-half:]]


def _export(report: Report) -> str:
    head = ["student", "form", "kilobytes", "largest deviation", "same class, %", "how"]
    rows = [
        [
            name,
            form,
            "" if one.bytes is None else f"{one.bytes / 1000:,.0f}",
            "" if one.deviation is None else f"{one.deviation:.2g}",
            "" if one.agreement is None else percent(one.agreement),
            escape(one.note),
        ]
        for name, forms in report.export.items()
        for form, one in forms.items()
    ]
    return how(
        "Each student was exported, loaded again, and asked about up to 1,000 test images: the "
        "largest difference of a logit from the net's own, and the share of images on which "
        "the same class is named."
    ) + table([head, *rows], "Students in other forms", words=(1, 5))


SECTIONS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "accuracy": ("Accuracy", _accuracy),
    "cost": ("Cost", _cost),
    "fidelity": ("Fidelity", _fidelity),
    "calibration": ("Calibration", _calibration),
    "robustness": ("Robustness", _robustness),
    "classes": ("Who paid for the gain?", _classes),
    "export": ("Exported", _export),
}
