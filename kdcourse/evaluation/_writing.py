"""How numbers, intervals and tables are written: in HTML, or as text."""

from collections.abc import Callable, Iterable, Sequence
from html import escape

from kdcourse.evaluation.cost import Cost, Latency
from kdcourse.evaluation.resampling import Interval

Row = Sequence[str]
NAME, LONG = 30, ' class="long"'  # letters of a name, beyond which it may be broken
Between = Callable[[str, str, str], str]  # puts a value and the ends of its interval together


def marked(value: str, low: str, high: str) -> str:
    """Write a value and its interval in HTML."""
    return f"{value} <small>[{low}, {high}]</small>"


def table(rows: Sequence[Row], caption: str, words: Iterable[int] = ()) -> str:
    """Return a table with a head, whose first column names the rows; cells are HTML."""
    kinds = {column: ' class="words"' for column in words}
    head = "".join(
        f'<th scope="col"{kinds.get(n, "")}>{escape(cell)}</th>' for n, cell in enumerate(rows[0])
    )
    body = "".join(
        f'<tr><th scope="row"{LONG * (len(first) > NAME)}>{escape(first)}</th>'
        + "".join(f"<td{kinds.get(n, '')}>{cell}</td>" for n, cell in enumerate(cells, 1))
        + "</tr>"
        for first, *cells in rows[1:]
    )
    told = f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
    return wide(f"<table>{told}<tbody>{body}</tbody></table>", caption)


def wide(content: str, label: str) -> str:
    """Return HTML that is scrolled where a page is too narrow for it, by the keyboard, too."""
    scrolled = f'tabindex="0" role="group" aria-label="{escape(label)}"'
    return f'<div class="wide" {scrolled}>{content}</div>'


def figure(svg: str, caption: str) -> str:
    """Return a figure with its caption."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def how(words: str) -> str:
    """Return a sentence that says how something was measured."""
    return f'<p class="how">{escape(words)}</p>'


def percent(share: float) -> str:
    """Write a share in percent."""
    return f"{100 * share:.2f}"


def scaled(interval: Interval, factor: float) -> Interval:
    """Return an interval in another unit."""
    return Interval(factor * interval.value, factor * interval.low, factor * interval.high)


def written(interval: Interval, form: str) -> tuple[str, str, str]:
    """Write a value and the ends of its interval."""
    value, low, high = map(form.format, (interval.value, interval.low, interval.high))
    return value, low, high


def span(share: Interval, between: Between = marked) -> str:
    """Write a share with its interval, in percent."""
    return between(*written(scaled(share, 100), "{:.2f}"))


def gap_of(gap: Interval | None) -> str:
    """Write a difference of shares with its interval, in percentage points, if there is one."""
    return "" if gap is None else marked(*written(scaled(gap, 100), "{:+.2f}"))


def sizes(cost: Cost) -> list[str]:
    """Write parameters and multiply–adds."""
    adds = "not counted" if cost.multiply_adds is None else f"{cost.multiply_adds:,}"
    return [f"{cost.parameters:,}", adds]


def quartiles(latency: Latency) -> str:
    """Write a latency with its quartiles."""
    return marked(*map(rounded, (latency.median, latency.lower, latency.upper)))


def rounded(milliseconds: float) -> str:
    """Write milliseconds."""
    return f"{milliseconds:.{2 if milliseconds < 10 else 1}f}"


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def listed(names: Sequence[str]) -> str:
    """Write names one after the other, with an "and"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
