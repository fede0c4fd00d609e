"""A report as one page of HTML, which needs no network and no script, and as a table of text."""

from html import escape

from kdcourse.evaluation import _figures as figures
from kdcourse.evaluation._sections import SECTIONS, numbers, section
from kdcourse.evaluation._writing import (
    Between,
    Row,
    figure,
    listed,
    marked,
    percent,
    rounded,
    scaled,
    sizes,
    span,
    table,
    wide,
)
from kdcourse.evaluation.cost import BATCHES
from kdcourse.evaluation.report import Report
from kdcourse.evaluation.resampling import Interval

STYLE = """
.kd{--paper:#fff;--ink:#1f2328;--quiet:#57606a;--faint:#d5dae0;
--n0:#0072b2;--n1:#d55e00;--n2:#666;--n3:#009e73;--n4:#b0578d;--n5:#1f2328}
@media(prefers-color-scheme:dark){.kd{--paper:#171b21;--ink:#e8ecf1;--quiet:#a9b3be;
--faint:#3d454f;--n0:#56b4e9;--n1:#f0893a;--n2:#9a9fa5;--n3:#2cc295;--n4:#e39bc6;
--n5:#e8ecf1}}
.kd{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
.kd h2{margin:2.2em 0 .3em}.kd p{max-width:46em;margin:.5em 0}.kd .how{color:var(--quiet)}
.kd figure{margin:1em 0}.kd figcaption{color:var(--quiet);font-size:.9em;max-width:50em}
.kd .wide{overflow-x:auto}.kd .pairs{display:grid;grid-auto-flow:column;justify-content:start;
gap:0 1em}
.kd table{color:inherit;border-collapse:collapse;margin:.8em 0;font-variant-numeric:tabular-nums}
.kd caption{text-align:left;color:var(--quiet);font-size:.9em}
.kd th,.kd td{padding:.25em .8em;border-bottom:1px solid var(--faint);text-align:right}
.kd th:first-child,.kd .words{text-align:left}.kd thead th{vertical-align:bottom}
.kd tbody th{font-weight:600;white-space:nowrap}
.kd th.long{white-space:normal;overflow-wrap:anywhere;min-width:14em}
.kd small{white-space:nowrap;color:var(--quiet);font-size:.85em}
.kd svg{max-width:100%;height:auto;font-family:system-ui,sans-serif}
.kd text{fill:var(--ink);font-size:13px}.kd .tick{fill:var(--quiet);font-size:12px}
.kd .name{font-weight:600}.kd polyline{fill:none;stroke:var(--ink);stroke-width:1.5}
.kd .grid{stroke:var(--faint);stroke-width:1}.kd .axis{stroke:var(--quiet)}
.kd .front{stroke:var(--quiet);stroke-dasharray:5 4}.kd .diagonal{stroke:var(--quiet);
stroke-dasharray:4 3}.kd .net{stroke:var(--paper);stroke-width:1}.kd .bar{fill-opacity:.55}
.kd .few{fill-opacity:.2}.kd .curve{stroke-width:2}.kd .interval.ink{stroke:var(--ink)}
.kd .gain{fill:var(--n3)}.kd .loss{fill:var(--n1)}.kd .unsure{fill:var(--faint)}
"""
STYLE += "".join(f".kd .f{n}{{fill:var(--n{n})}}.kd .s{n}{{stroke:var(--n{n})}}" for n in range(6))


def text(report: Report) -> str:
    """Return the main numbers of every net as a table of text."""
    head, *rows = _rows(report, "{} [{}, {}]".format)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for first, *cells in (head, *rows)
    ]
    return "\n".join([*lines, "", _boundary(report)])


def summary(report: Report) -> str:
    """Return what a notebook shows: the main numbers, and accuracy against latency."""
    return (
        f'<div class="kd"><style>{STYLE}</style>{_overview(report)}{_picture(report)}'
        f'<p class="how">{escape(_boundary(report))}</p></div>'
    )


def page(report: Report) -> str:
    """Return the whole report as a page of HTML."""
    title = f"Report: {listed(report.students)}"
    sections = "".join(
        f'<section id="{part}"><h2>{heading}</h2>{section(report, part)}</section>'
        for part, (heading, _) in SECTIONS.items()
    )
    told = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td class='words'>{escape(value)}</td></tr>"
        for name, value in report.conditions.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<style>html{{color-scheme:light dark}}body{{margin:0}}
.kd main{{max-width:72em;margin:0 auto;padding:1em 1.5em 4em}}{STYLE}</style></head>
<body class="kd"><main><h1>{escape(title)}</h1>
<p>{escape(_verdict(report))}</p>
{_overview(report)}{_picture(report)}
<p class="how">{escape(_boundary(report))}</p>
{sections}
<section id="conditions"><h2>Measured on, and by</h2>
{wide(f"<table><tbody>{told}</tbody></table>", "Measured on, and by")}</section>
</main></body></html>"""


def _verdict(report: Report) -> str:
    """Say in a sentence or two what became of each student's accuracy."""
    said = []
    for name in report.students:
        found = report.accuracy[name]
        words = f"{name} classifies {percent(found.top_1.value)} % of the test images correctly"
        others = {
            f"than {report.baseline}": found.minus_baseline,
            "than its teacher": found.minus_teacher,
        }
        words += "".join(f", {_more(gap, other)}" for other, gap in others.items() if gap)
        said.append(words + ".")
    return " ".join(said)


def _more(gap: Interval, other: str) -> str:
    """Say how much more, or less, it is, or that it cannot be told."""
    points = f"[{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]"
    if gap.low <= 0 <= gap.high:
        return f"which these images do not tell from {other.removeprefix('than ')} {points}"
    return (
        f"{abs(100 * gap.value):.2f} points {'more' if gap.value > 0 else 'less'} {other} {points}"
    )


def _boundary(report: Report) -> str:
    return (
        "In brackets: 95 % intervals from a bootstrap over the test images "
        f"({report.conditions['bootstrap']}). They do not cover what other seeds of training would "
        "have changed."
    )


# --- the numbers of every net


def _rows(report: Report, between: Between) -> list[Row]:
    """Return the head and a row a net; ``between`` writes a value with its interval."""
    batches = [size for size in BATCHES if report.cost]
    head = ["net", "accuracy, %"]
    head += ["agreement, %"] * bool(report.fidelity)
    head += ["ECE, %"] * bool(report.calibration)
    head += ["corrupted, %"] * bool(report.robustness)
    head += ["parameters", "multiply–adds"] * bool(report.cost)
    head += [f"ms, batch {size}" for size in batches]
    rows: list[Row] = [head]
    for name, found in report.accuracy.items():
        cells = [span(found.top_1, between)]
        if report.fidelity:
            like = report.fidelity.get(name)
            cells.append(span(like.agreement, between) if like else "")
        if report.calibration:
            cells.append(span(report.calibration[name].plain.error, between))
        if report.robustness:
            cells.append(span(report.robustness[name].corrupted, between))
        if report.cost:
            cells += sizes(report.cost[name])
            cells += [rounded(report.cost[name].latency[size].median) for size in batches]
        rows.append([name, *cells])
    return rows


def _overview(report: Report) -> str:
    return table(_rows(report, marked), "All nets, by their main numbers")


def _picture(report: Report) -> str:
    """Draw accuracy against latency, of one image alone."""
    if not report.cost:
        return ""
    points = {
        name: (report.cost[name].latency[1], scaled(report.accuracy[name].top_1, 100))
        for name in report.cost
    }
    front = report.pareto()
    described = "Accuracy against latency of one image: " + "; ".join(
        f"{name} {rounded(time.median)} ms and {one.value:.2f} %"
        for name, (time, one) in points.items()
    )
    told = (
        "Accuracy, with its 95 % interval, against the median time of one image on this machine, "
        "with its quartiles: where these overlap, which net is faster is left to chance. "
        f"Dashed: the Pareto front ({listed(front)}); any other net is no faster and no more "
        "accurate than one of these."
    )
    drawn = figures.accuracy_against_latency(points, front, numbers(report), described)
    return figure(drawn, told)
