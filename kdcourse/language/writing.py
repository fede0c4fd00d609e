"""How a language model writes: by drawing tokens, by the likeliest one, or by beams.

All texts of a batch are written at once, and each token is looked at once: a model of ours keeps
what its layers have made of those before (:meth:`kdcourse.models.LanguageModel.cache`). Any other
model is shown all of them again and again.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.batch import call
from kdcourse.checks import (
    check_flag,
    check_integer,
    check_module,
    check_number,
    check_positive,
    check_temperature,
)
from kdcourse.errors import ArgumentError
from kdcourse.language.vocabulary import NO_TOKEN, check_token_rows
from kdcourse.models.language_model import LanguageModel
from kdcourse.modes import evaluation_mode
from kdcourse.precision import HOTTEST, at_least_float32, readable
from kdcourse.signatures import check_is

Next = Callable[[Tensor], Tensor]  # from all tokens so far to the logits of the next ones


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Tensor,
    *,
    length: int,
    end: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    greedy: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Let a model go on with prompts, token by token.

    Args:
        model: From tokens ``(N, T)`` to logits ``(N, T, V)``.
        prompts: ``(N, P)``, P ≥ 1, −1 behind the end of those that are shorter.
        length: Tokens of a text, with its prompt, at most.
        end: The token that ends a text.
        temperature: τ, from 10⁻⁹ to 10⁶, by which logits are divided before one is drawn.
        top_p: Draw from the fewest likeliest tokens whose probabilities sum to at least this, in
            (0, 1].
        greedy: Whether to take the likeliest token instead.
        generator: Draws the tokens; torch's global one by default.

    Returns:
        ``(N, T)``, T ≤ length, prompts included; −1 behind the end of a text.

    Source: of ``top_p``, Holtzman et al. 2020 (arXiv 1904.09751), section 3.1: nucleus sampling.
    """
    check_task(model, prompts, length, end)
    check_is("generator", generator, torch.Generator | None)
    check_manner(temperature=temperature, top_p=top_p, greedy=greedy)
    tokens, written = prompts[:, :1], prompts.new_zeros(len(prompts), dtype=torch.bool)
    with evaluation_mode(model):
        ask, _ = _asked(model)
        for place in range(1, length):
            logits = ask(tokens)
            if greedy:
                drawn = logits.argmax(dim=1)
            else:
                likely = _nucleus(F.softmax(logits / temperature, dim=1), top_p)
                drawn = torch.multinomial(likely, 1, generator=generator)[:, 0]
            forced = _forced(prompts, place)
            drawn = torch.where(forced == NO_TOKEN, drawn, forced)
            tokens = torch.cat([tokens, drawn.masked_fill(written, end)[:, None]], dim=1)
            written = written | (drawn == end)
            if bool(written.all()):
                break
    return _without_ends(tokens, end)


@torch.no_grad()
def beam_search(
    model: nn.Module, prompts: Tensor, *, length: int, end: int, beams: int = 4
) -> Tensor:
    """Let a model go on with prompts so that the whole text is likely.

    At every place, the most likely beginnings are kept, and all tokens are tried behind each of
    them; a text that has ended competes by its probability as it is.

    Args:
        model, prompts, length, end: As for :func:`sample`.
        beams: How many beginnings are kept.

    Returns:
        ``(N, T)`` as from :func:`sample`, the likeliest text of those that are left.
    """
    check_task(model, prompts, length, end)
    check_positive(beams=beams)
    count, every = len(prompts), beams * torch.arange(len(prompts), device=prompts.device)
    tokens = prompts[:, :1].repeat_interleave(beams, dim=0)
    scores = torch.full((count, beams), -torch.inf, device=prompts.device)
    scores[:, 0] = 0.0  # they begin alike: one stands for all
    with evaluation_mode(model):
        ask, reorder = _asked(model)
        for place in range(1, length):
            log_p = F.log_softmax(ask(tokens), dim=1).unflatten(0, (count, beams))
            forced = _forced(prompts, place)[:, None].expand(-1, beams)
            over = (tokens[:, 1:] == end).any(dim=1).unflatten(0, (count, beams))
            only = torch.where(over, end, forced)
            told = F.one_hot(only.clamp_min(0), log_p.shape[2]).bool()
            fixed = torch.zeros_like(log_p).masked_fill(~told, -torch.inf)
            log_p = torch.where((only == NO_TOKEN)[:, :, None], log_p, fixed)
            scores, best = (scores[:, :, None] + log_p).flatten(1).topk(beams, dim=1)
            rows = (every[:, None] + best // log_p.shape[2]).flatten()
            tokens = torch.cat([tokens[rows], (best % log_p.shape[2]).view(-1, 1)], dim=1)
            reorder(rows)
            if bool((tokens[:, 1:] == end).any(dim=1).all()):
                break
    return _without_ends(tokens[every + scores.argmax(dim=1)], end)


def check_task(model: nn.Module, prompts: Tensor, length: int, end: int) -> None:
    """Require what a model can write: texts of so many tokens, which begin with these prompts."""
    check_module("model", model)
    check_token_rows("prompts", prompts)
    check_integer("end", end, 0)
    if prompts.numel() == 0 or bool((prompts[:, 0] < 0).any()):
        raise ArgumentError("prompts", "prompts must be one at least, with at least one token each")
    before, behind = prompts[:, :-1], prompts[:, 1:]
    if bool((prompts < NO_TOKEN).any()) or bool(((before < 0) & (behind >= 0)).any()):
        raise ArgumentError(
            "prompts", "prompts must be tokens, which are at least 0, and −1 behind their ends only"
        )
    if bool((behind == end).any()):
        raise ArgumentError(
            "prompts",
            f"prompts must not hold the token that ends a text, {end}, but in the first place",
        )
    check_positive(length=length)
    if length < prompts.shape[1]:
        raise ArgumentError(
            "length", f"length must be at least that of the prompts, {prompts.shape[1]}"
        )
    if isinstance(model, LanguageModel) and length > model.length + 1:  # the last is not read
        raise ArgumentError(
            "length",
            f"length must be at most {model.length + 1}, as the model reads {model.length} tokens, "
            f"got {length}",
        )


def check_manner(*, temperature: float = 1.0, top_p: float = 1.0, greedy: bool = False) -> None:
    """Require a way to draw tokens, as :func:`sample` has it."""
    check_temperature(temperature, high=HOTTEST)
    check_number("top_p", top_p, 0.0, 1.0, open_low=True)
    check_flag("greedy", greedy)


def _asked(model: nn.Module) -> tuple[Next, Callable[[Tensor], None]]:
    """Return how a model is asked for the next token's logits, and how rows change places."""
    if not isinstance(model, LanguageModel):
        return lambda tokens: _numbers(call(model, tokens, "model")[:, -1]), lambda rows: None
    cache = model.cache()
    return lambda tokens: _numbers(model(tokens[:, cache.used :], cache)[:, -1]), cache.reorder


def _numbers(logits: Tensor) -> Tensor:
    """Return logits in float32 at least, as sums of probabilities need; refuse NaN."""
    if readable(logits) and bool(logits.isnan().any()):
        raise ArgumentError(
            "model", "model must say how probable tokens are, and its logits are NaN"
        )
    return at_least_float32(logits)


def _forced(prompts: Tensor, place: int) -> Tensor:
    """Return what the prompts say at a place, −1 where they have ended."""
    if place < prompts.shape[1]:
        return prompts[:, place]
    return torch.full_like(prompts[:, 0], NO_TOKEN)


def _nucleus(p: Tensor, share: float) -> Tensor:
    """Set to zero what does not belong to the likeliest tokens that have this share together."""
    if share == 1:
        return p
    ordered, places = p.sort(dim=1, descending=True)
    before = ordered.cumsum(dim=1) - ordered
    beyond = (before >= share) & (before > 0)  # the likeliest belongs to it in any case
    return torch.zeros_like(p).scatter(1, places, ordered.masked_fill(beyond, 0.0))


def _without_ends(tokens: Tensor, end: int) -> Tensor:
    """Put −1 behind the first end of each text, of which the first token is none."""
    ends = (tokens == end) & (torch.arange(tokens.shape[1], device=tokens.device) > 0)
    behind = ends.long().cumsum(dim=1) - ends.long() > 0
    return tokens.masked_fill(behind, NO_TOKEN)
