"""What language models write."""

import html
from collections.abc import Mapping, Sequence

import ipywidgets
import torch
from torch import nn

from kdcourse.course.widgets.screen import html_widget
from kdcourse.data import replay
from kdcourse.language import END, Vocabulary, sample
from kdcourse.language.definitions import BEHIND_THE_WORD

LEFT = "text-align: left"


def writers(
    models: Mapping[str, nn.Module],
    vocabulary: Vocabulary,
    words: Sequence[str],
    *,
    length: int = 80,
) -> ipywidgets.VBox:
    """Choose a word, or write another, and see how models define it; draw again and again.

    Args:
        models: Language models, by their names.
        vocabulary: Theirs.
        words: To choose from.
        length: Tokens of a text, with its word, at most.
    """

    def render(word: str, other: str, temperature: float, draw: int) -> str:
        prompt = (other.strip() or word) + BEHIND_THE_WORD
        problem = _problem(prompt, vocabulary, length)
        if problem:
            return f"<p>{html.escape(problem)}</p>"
        rows = [f"<tr><th></th><th style='{LEFT}'>{html.escape(prompt)}</th></tr>"]
        for name, model in models.items():
            text = _written(model, vocabulary, prompt, length, temperature, draw)
            rows.append(
                f"<tr><td style='{LEFT}; white-space: nowrap'>{html.escape(name)}</td>"
                f"<td style='{LEFT}'>{html.escape(text)}</td></tr>"
            )
        return f"<table style='line-height: 22px'>{''.join(rows)}</table>"

    return html_widget(
        render,
        word=ipywidgets.Dropdown(description="word", options=list(words)),
        other=ipywidgets.Text(description="or another", continuous_update=False),
        temperature=ipywidgets.FloatSlider(
            description="temperature", value=1, min=0.1, max=2, step=0.1
        ),
        draw=ipywidgets.IntSlider(description="draw", min=0, max=100),
    )


def _problem(prompt: str, vocabulary: Vocabulary, length: int) -> str:
    """Return why models cannot go on with a prompt, or nothing."""
    unknown = [f"“{c}”" for c in dict.fromkeys(prompt) if c not in vocabulary.pieces]
    if unknown:
        return f"These models have never seen {', '.join(unknown)}: write another word."
    if len(vocabulary.encode([prompt])[0]) >= length:
        return f"The models read and write {length} tokens at most: write a shorter word."
    return ""


def _written(
    model: nn.Module,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    temperature: float,
    draw: int,
) -> str:
    """Let a model go on with a prompt, and return what it writes; an ellipsis: it did not end."""
    prompts = vocabulary.encode([prompt]).to(next(model.parameters(), torch.empty(0)).device)
    tokens = sample(
        model,
        prompts,
        length=length,
        end=vocabulary.end,
        temperature=temperature,
        generator=replay(draw, device=prompts.device),
    )
    (text,) = vocabulary.decode(tokens[:, prompts.shape[1] :])
    return text.strip() if text.endswith(END) else f"{text.strip()} …"
