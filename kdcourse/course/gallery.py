"""The gallery of the site: each example as a page, with a picture of what was measured of it."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from kdcourse.course import claims, plots
from kdcourse.places import COURSE

FOLDER = COURSE / "examples"
PICTURE = "Forest plot of what was measured: differences with their 95 % intervals."


@dataclass(frozen=True)
class Example:
    """A script of ``examples/``: its docstring in parts, its code, and what was measured."""

    name: str
    title: str
    line: str
    text: str
    code: str
    measured: tuple[claims.Result, ...]


def examples() -> list[Example]:
    """Read the examples, in the order of the table in their README."""
    rows = (FOLDER / "README.md").read_text("utf-8")
    return [_read(FOLDER / name) for name in re.findall(r"^\| \[`(\w+\.py)`\]", rows, re.M)]


def write(folder: Path) -> None:
    """Write the gallery, and a page for each example, as sources for Sphinx."""
    folder.mkdir()
    shown = examples()
    for example in shown:
        if example.measured:
            figure = plots.effects(*example.measured)
            figure.savefig(folder / f"{example.name}.png", dpi=150, bbox_inches="tight")
        (folder / f"{example.name}.md").write_text(_page(example), "utf-8")
    (folder / "index.md").write_text(_index(shown), "utf-8")


def _read(path: Path) -> Example:
    source = path.read_text("utf-8")
    module = ast.parse(source)
    head, _, text = (ast.get_docstring(module) or "").partition("\n\n")
    title, _, line = head.partition(": ")
    code = "\n".join(source.splitlines()[module.body[0].end_lineno :]).strip()
    ids = dict.fromkeys(re.findall(r'claims\.load\("([\w-]+)"\)', source))
    results = tuple(map(claims.load, ids))
    return Example(path.stem, title, line[:1].upper() + line[1:], text, code, results)


def _page(example: Example) -> str:
    """Return an example's page: what it says of itself, its code, and what was measured."""
    text = re.sub(r"^Run: (.+)$", r"\n    \1\n", example.text, flags=re.M)
    page = f"# {example.title}\n\n{example.line}\n\n{text}\n\n```python\n{example.code}\n```\n"
    if not example.measured:
        return page
    verdicts = " ".join(
        f"{result.claim.statement.rstrip('.')}: **{result.verdict}**, {len(result.runs)} seeds."
        for result in example.measured
    )
    picture = f"![{PICTURE}]({example.name}.png)"
    caption = f"*{verdicts} Bars are 95 % intervals, dots are seeds.*".replace("**", "")
    return f"{page}\n## What was measured\n\n{picture}\n\n{caption}\n"


def _index(shown: list[Example]) -> str:
    """Return the page of cards."""
    pages = "\n".join(example.name for example in shown)
    return (
        "# Examples\n\nEach scheme of the lecture as a script of one screen, to be copied and "
        "changed. The pictures show what was measured of it, over many seeds.\n\n"
        f"::::{{grid}} 1 2 3 3\n:gutter: 3\n\n{''.join(map(_card, shown))}::::\n\n"
        f"```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
    )


def _card(example: Example) -> str:
    image = f":img-top: {example.name}.png\n:img-alt: {PICTURE}\n" if example.measured else ""
    head = f":::{{grid-item-card}} {example.title}\n:link: {example.name}\n:link-type: doc\n"
    return f"{head}{image}\n{example.line}\n:::\n\n"
