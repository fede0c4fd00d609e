"""The questions at the end of a notebook: choose, and be told at once why."""

import html
import string
from pathlib import Path
from typing import Any

import ipywidgets

from kdcourse.train.options import read_toml

QUIZZES = Path(__file__).parent / "quizzes"

# Options that are longer than a line: ipywidgets gives each of them the height of one.
STYLE = """
.kd-quiz .widget-radio-box { height: auto }
.kd-quiz .widget-radio-box label { display: flex; align-items: baseline; height: auto !important;
  line-height: 1.45 !important; white-space: normal; margin-bottom: 3px }
.kd-quiz .widget-radio-box label > input { order: -1; flex: none; height: auto !important;
  position: relative; top: 2px }
.kd-quiz .widget-html-content { line-height: 1.45 !important }
"""


def questions(notebook: str) -> list[dict[str, Any]]:
    """Return the questions of a notebook: ``ask``, ``options``, ``answer`` (from 1) and ``why``.

    Raises:
        ValueError: The notebook has no quiz.
    """
    path = QUIZZES / f"{notebook}.toml"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in QUIZZES.glob("*.toml")))
        raise ValueError(f"notebook {notebook!r} has no quiz; there are {known}")
    return read_toml(path)["question"]


def ask(notebook: str) -> ipywidgets.VBox:
    """Show the questions of a notebook, such as ``"2"`` or ``"5a"``."""
    asked = enumerate(questions(notebook), start=1)
    shown = [_shown(number, question) for number, question in asked]
    box = ipywidgets.VBox([ipywidgets.HTML(f"<style>{STYLE}</style>"), *shown])
    box.add_class("kd-quiz")
    return box


def _shown(number: int, question: dict[str, Any]) -> ipywidgets.VBox:
    """Show a question with its options, what the chosen one is worth, and the folded answer."""
    options = [
        f"{letter}. {option}"
        for letter, option in zip(string.ascii_uppercase, question["options"], strict=False)
    ]
    right, why = question["answer"] - 1, html.escape(question["why"])
    asked = ipywidgets.HTML(f"<b>{number}. {html.escape(question['ask'])}</b>")
    choice = ipywidgets.RadioButtons(options=options, index=None, layout={"width": "auto"})
    said = ipywidgets.HTML()
    answer = f"<details><summary>Answer</summary>{html.escape(options[right])} {why}</details>"

    def judge(change: Any) -> None:
        said.value = f"✓ Right. {why}" if choice.index == right else "✗ Not this one: try another."

    choice.observe(judge, names="index")
    return ipywidgets.VBox([asked, choice, said, ipywidgets.HTML(answer)])
