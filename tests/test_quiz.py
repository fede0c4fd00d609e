"""The questions at the end of every notebook."""

import html

import ipywidgets
import pytest

from kdcourse.course import quiz
from kdcourse.course.notebooks import course_notebooks, number
from kdcourse.course.saved_widgets import as_html

NOTEBOOKS = [number(path) for path in course_notebooks()]


def test_there_is_one_for_every_notebook():
    assert sorted(path.stem for path in quiz.QUIZZES.iterdir()) == sorted(NOTEBOOKS)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_it_has_five_questions_with_one_answer(notebook):
    asked = quiz.questions(notebook)
    assert len(asked) == 5
    for question in asked:
        assert question.keys() == {"ask", "options", "answer", "why"}
        assert 3 <= len(set(question["options"])) == len(question["options"]) <= 5
        assert 1 <= question["answer"] <= len(question["options"])
        assert question["ask"].endswith("?")
        assert all(text.endswith((".", "!")) for text in (*question["options"], question["why"]))
    assert len({question["answer"] for question in asked}) > 2  # not always the same letter
    lengths = [[len(option) for option in question["options"]] for question in asked]
    right = [question["answer"] - 1 for question in asked]
    # Who has read nothing cannot find it by its length.
    assert sum(of[k] == max(of) for of, k in zip(lengths, right, strict=True)) <= 2


def test_another_has_none():
    with pytest.raises(ValueError, match="'9' has no quiz"):
        quiz.ask("9")


def test_a_choice_is_judged_at_once():
    (question, *_), (_, shown, *_) = quiz.questions("2"), quiz.ask("2").children
    _, choice, said, _ = shown.children
    for index in range(len(choice.options)):
        choice.index = index
        right = index == question["answer"] - 1
        assert said.value.startswith("✓ Right" if right else "✗ Not this one")
        assert (question["why"][:20] in said.value) == right


def test_without_a_kernel_questions_options_and_answers_remain():
    box = quiz.ask("2")
    models = ipywidgets.Widget.get_manager_state(drop_defaults=True)["state"]
    shown = as_html(box.model_id, models)
    assert shown.count("<summary>Answer</summary>") == 5
    for question in quiz.questions("2"):
        assert all(f". {html.escape(option)}<br>" in shown for option in question["options"])
