"""Which conventions the losses of other libraries follow, as ``check`` finds them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from tqdm.auto import tqdm

from kdcourse.conformance import check
from kdcourse.conformance.foreign import LOSSES, ForeignLoss
from kdcourse.conformance.properties.values import SAME, TEACHER
from kdcourse.conformance.trial import BREAKS, DIFFERS, HOLDS
from kdcourse.course.bench.compare import Store
from kdcourse.course.claims.results import RESULTS
from kdcourse.course.claims.table import markdown

SHOWN = BREAKS, DIFFERS


@dataclass(frozen=True)
class Conventions:
    """What was found of a loss of another library.

    Attributes:
        library, version: Where it is from.
        loss: How it is made.
        like: The loss of ours that it was compared with.
        factor: It divided by ours, or None if it is not a multiple.
        convention: In words.
        detaches: Whether no gradient reaches the teacher; None where that could not be measured.
        breaks: What it does not have of what ours has, by the property: a sentence and a program.
        differs: What is a convention, by the property: a sentence.
    """

    library: str
    version: str
    loss: str
    like: str
    factor: str | None
    convention: str
    detaches: bool | None
    breaks: dict[str, list[str]] = field(default_factory=dict)
    differs: dict[str, str] = field(default_factory=dict)


STORE = Store(RESULTS / "conformance.json", "python -m kdcourse check --foreign", Conventions)
load = STORE.load


def measure(*, store: Store[Conventions] = STORE, progress: bool = True) -> list[str]:
    """Check the losses of all libraries that can be imported here, and store what was found.

    Rows of the others stay as they are stored, with the versions that they were found with.

    Returns:
        A line for each library that cannot be imported.
    """
    store.check()
    try:
        kept = {(row.library, row.loss): row for row in store.load()}
    except FileNotFoundError:
        kept = {}
    rows, missing = [], {}
    for one in tqdm(LOSSES, disable=not progress, unit="loss"):
        try:
            rows.append(conventions_of(one))
        except ImportError as error:
            missing[one.library] = f"{one.library} is left out: {error}"
            rows += [row for key, row in kept.items() if key == (one.library, one.written)]
    store.save(rows)
    return list(missing.values())


def version_of(one: ForeignLoss) -> str:
    """Return the version of a loss's library; raises ``ImportError`` where it is not here."""
    return version(one.library).partition("+")[0]


def conventions_of(one: ForeignLoss) -> Conventions:
    """Check a loss; raises ``ImportError`` where its library is not here."""
    report = check(one.make(), one.like)
    found = {status: [f for f in report.findings if f.status == status] for status in SHOWN}
    return Conventions(
        one.library,
        version_of(one),
        one.written,
        one.like,
        None if report.factor is None else str(report.factor),
        report.in_words,
        next((found.status == HOLDS for found in report.findings if found.name == TEACHER), None),
        {f.name: [f.told, f.code] for f in found[BREAKS]},
        {f.name: f.told for f in found[DIFFERS]},
    )


def table(rows: Sequence[Conventions]) -> str:
    """Return the conventions as a table in Markdown."""
    head = ("loss", "convention", "÷ ours", "what breaks", "detaches")
    cells = (
        (
            f"**{row.library} {row.version}** `{row.loss}`",
            row.convention.removeprefix("it is ").partition(". λ")[0],
            row.factor or "no factor",
            ", ".join(_broken(row)),
            {True: "yes", False: "no", None: "not measured"}[row.detaches],
        )
        for row in rows
    )
    return markdown(head, cells)


def programs(rows: Sequence[Conventions]) -> str:
    """Return the smallest inputs that show what breaks, as programs in Markdown."""
    parts = []
    for row in rows:
        for name, (told, code) in {**_of_the_value(row), **_broken(row)}.items():
            if code:
                title = f"**{row.library}, `{row.loss}`**, {name}: {told}"
                parts.append(f"{title}\n\n```python\n{code}\n```")
    return "\n\n".join(parts)


def _broken(row: Conventions) -> dict[str, list[str]]:
    """What breaks but what the columns of the convention and of the teacher say."""
    elsewhere = (TEACHER, SAME)
    return {name: found for name, found in row.breaks.items() if name not in elsewhere}


def _of_the_value(row: Conventions) -> dict[str, list[str]]:
    return {name: found for name, found in row.breaks.items() if name == SAME}
