r"""Which properties? — predictions, of which a teacher shows the k largest, or a few draws.

A teacher's logits for every token of many texts are too many to be kept: a thousand tokens of a
vocabulary of 100,000 take 400 MB. Of each prediction, k log-probabilities are kept, and their
tokens: :class:`TopK`. Two questions remain, what becomes of the other tokens, and which k.

*The k largest.* With p of the teacher, q of the student, and the k tokens' mass P and Q, the chain
rule of KL says what is known:

.. math:: KL(p \| q) = KL(\bar p \| \bar q) + (1 - P)\, KL(p_{rest} \| q_{rest})

Of :math:`\bar p` and :math:`\bar q`, all other tokens are one event: theirs is the KL that is
learned, a lower bound of the whole. Its gradient for the logits is :math:`q - \tilde p`, where
:math:`\tilde p` shares the rest out as the student does. So the k tokens and the mass of the rest
are learned without a bias. What is missing from :math:`q - p` is
:math:`(1 - P) \| q_{rest} - p_{rest} \|_1 \le 2 (1 - P)` in sum, and nothing once the student has
arrived; nothing tells it how to share out its rest. To *renormalise* the k instead, to
:math:`p / P`, says that no other token is possible: the gradient is wrong by 2(1 − P) in sum,
whatever the student says, and it ends with the k scaled up by 1 / P, and with no rest.

*A few draws.* Where k tokens are drawn from p, their relative frequencies are p on average, and
the gradient is that of the whole KL on average, with a variance that falls as 1 / k.

Source: Anshumann et al. 2025 (arXiv 2503.16870), who show that top-k is biased, and draw instead.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import (
    check_choice,
    check_floating,
    check_positive,
    check_same_device,
    check_same_shape,
    check_temperature,
    check_tensor,
    rounding,
)
from kdcourse.errors import ArgumentError
from kdcourse.known_gradient import once_only
from kdcourse.objective import Lesson, Outputs
from kdcourse.precision import (
    HOTTEST,
    at_least_float32,
    dtype_for,
    not_below_zero,
    readable,
)
from kdcourse.prediction_term import PredictionTerm
from kdcourse.predictions import (
    INTEGERS,
    check_predictions,
    counted_only,
    expected_of_rows,
    log_probabilities_at,
    place_mean,
    place_rows,
    place_shape,
    place_weights,
)
from kdcourse.signatures import check_is

RESTS = "tail", "none"  # what all tokens are of which nothing is known


class TopK(NamedTuple):
    """A teacher's predictions, of each of which k tokens are known.

    In the order in which :func:`topk_kd_loss` takes them.

    Attributes:
        indices: ``(…, k)``, which tokens are known, of one prediction all different; k last,
            whatever the dimension of the classes.
        log_probabilities: ``(…, k)``, theirs. What is missing to a total of one belongs to all
            other tokens together.
        temperature: τ of the softmax.
    """

    indices: Tensor
    log_probabilities: Tensor
    temperature: float = 1.0


def top_k_answers(
    logits: Tensor, k: int = 16, *, temperature: float = 1.0, class_dim: int = 1
) -> TopK:
    """Return the k largest log-probabilities of each prediction, the largest first.

    Args:
        logits: ``(N, V)``, or of any shape with V classes in ``class_dim``.
        k: How many; of fewer classes, all.
        temperature: τ, from 10⁻⁹ to 10⁶.
        class_dim: The dimension of the classes: −1 for ``(N, T, V)``.

    Returns:
        Answers ``(…, k)``, in float32 at least, without gradient.
    """
    check_positive(k=k)
    rows = _log_p(logits, temperature, class_dim)
    return _largest(rows, k, temperature, place_shape(logits, class_dim))


def sampled_answers(
    logits: Tensor,
    draws: int = 16,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    class_dim: int = 1,
) -> TopK:
    r"""Return relative frequencies of tokens that are drawn from each prediction.

    .. math:: \hat p^{(i)} = \tfrac1k \cdot \#\{\text{draws of } i\}, \quad E\,\hat p = p

    So the gradient of KL from them is that of the whole KL in the mean; its value is larger, by
    as much as the entropy of :math:`\hat p` falls short, on average, of that of p.

    Args:
        logits: ``(N, V)``, or of any shape with V classes in ``class_dim``.
        draws: k, with replacement.
        temperature: τ, from 10⁻⁹ to 10⁶.
        generator: Of the draws, on the device of the logits; by default torch's own.
        class_dim: The dimension of the classes: −1 for ``(N, T, V)``.

    Returns:
        Answers ``(…, k)``, the most frequent first, some of log-probability −∞ as others were drawn
        twice; in float32 at least, without gradient.

    Source: Anshumann et al. 2025 (arXiv 2503.16870), with draws from p itself.
    """
    check_positive(draws=draws)
    check_is("generator", generator, torch.Generator | None)
    rows = _log_p(logits, temperature, class_dim)
    if generator is not None:
        check_same_device("generator", generator, "logits", logits)
    if readable(rows) and bool(rows.isnan().any()):
        raise ArgumentError("logits", "logits must hold numbers, to draw from them")
    drawn = rows.exp().multinomial(draws, replacement=True, generator=generator)
    counts = torch.zeros_like(rows).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=rows.dtype))
    places = place_shape(logits, class_dim)
    return _largest((counts / draws).log(), draws, temperature, places)


def _log_p(logits: Tensor, temperature: float, class_dim: int) -> Tensor:
    """Return log-probabilities ``(P, V)``."""
    check_predictions("logits", logits, class_dim)
    check_temperature(temperature, high=HOTTEST)
    rows = place_rows(logits.detach(), class_dim).to(dtype_for(logits, temperature))
    return F.log_softmax(rows / temperature, dim=1)


def _largest(log_p: Tensor, k: int, temperature: float, places: list[int]) -> TopK:
    values, indices = log_p.topk(min(k, log_p.shape[1]), dim=1)
    return TopK(indices.unflatten(0, places), values.unflatten(0, places), temperature)


def topk_kd_loss(
    student_logits: Tensor,
    indices: Tensor,
    log_probabilities: Tensor,
    temperature: float = 1.0,
    *,
    rest: str = "tail",
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""KL from predictions of which k tokens are known.

    >>> topk_kd_loss(student_logits, *top_k_answers(teacher_logits, k=16))

    .. math:: \tau^2 \cdot \frac1N \sum_n \Big( \sum_{i \in S} p_i \log\frac{p_i}{q_i}
              + (1 - P) \log\frac{1 - P}{1 - Q} \Big), \quad
              P = \sum_{i \in S} p_i, \; Q = \sum_{i \in S} q_i

    With all classes among the k it is :func:`kdcourse.logit.kd_loss`, with fewer a lower bound of
    it, zero exactly where the k probabilities agree, and with them the mass of the rest. Answers
    that were drawn (:func:`sampled_answers`) leave no rest.

    With ``rest="none"`` it is :math:`\sum_S \frac{p_i}{P} \log \frac{p_i}{P\,q_i}`: biased, with
    its minimum where :math:`q_i = p_i / P`. What is not renormalised either,
    :math:`\sum_S p_i \log \frac{p_i}{q_i}`, has the same minimum at each place: it is P times as
    much, but for a constant.

    Args:
        student_logits: ``(N, V)``, or of any shape with V classes in ``class_dim``.
        indices: ``(N, k)``, the tokens that are known of the teacher's predictions: of any
            prediction all different, and k last, whatever the dimension of the classes.
        log_probabilities: ``(N, k)``, the teacher's of these tokens; receive no gradient.
        temperature: τ from 10⁻⁹ to 10⁶, at which they were told.
        rest: What all other tokens are: ``"tail"``, one event, with the mass that is left; or
            ``"none"``, ruled out.
        class_dim, mask, weight: As in :func:`kdcourse.logit.kd_loss`. Where a place does not
            count, its answer, too, may be anything.

    Returns:
        Scalar ≥ 0 in nats, once differentiable; zero if nothing counts.

    Source: that the k largest alone are biased, Anshumann et al. 2025 (arXiv 2503.16870).
    """
    check_temperature(temperature, high=HOTTEST)
    check_choice("rest", rest, RESTS)
    check_predictions("student_logits", student_logits, class_dim)
    _check_answers(indices, log_probabilities, student_logits, class_dim)
    weights = place_weights(student_logits, class_dim, mask=mask, weight=weight)
    tokens, log_p = indices.flatten(0, -2), log_probabilities.detach().flatten(0, -2)
    tokens = counted_only(tokens, weights).long()
    log_p = counted_only(log_p, weights, -math.log(log_p.shape[1]))
    dtype = dtype_for(student_logits, temperature)
    student = counted_only(place_rows(student_logits, class_dim), weights).to(dtype)
    if temperature != 1:
        student = student / temperature
    off, log_p = rounding(log_p), log_p.to(dtype)
    p = log_p.exp()
    mass = p.sum(1, keepdim=True)
    _check_values(mass, tokens, weights, student_logits.shape[class_dim], off)
    if rest == "none":
        p, log_p, mass = p / mass, log_p - mass.log(), torch.ones_like(mass)
    each = _Divergence.apply(student, p, log_p, (1 - mass).clamp_min(0), tokens, off)[0]
    loss = not_below_zero(place_mean(each, weights))
    return (loss * temperature**2).to(at_least_float32(student_logits).dtype)


class _Divergence(torch.autograd.Function):
    """KL at each place ``(P,)``, from k log-probabilities and the mass that is left for the rest.

    The student's rest is a sum over its tokens, and not what the others lack to one, which rounding
    would decide where the student is sure.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor, p: Tensor, log_p: Tensor, left: Tensor, tokens: Tensor, off: float
    ) -> tuple[Tensor, ...]:
        every = logits.softmax(1)
        q, log_q = log_probabilities_at(tokens, logits, every)
        take_out = every.scatter_ if readable(q) else every.scatter  # of vmap, one may be
        others = take_out(1, tokens, 0.0)
        rest = others.sum(1, keepdim=True)
        left = left.masked_fill((rest == 0) & (left <= off), 0.0)  # there are no others
        share = left / rest.clamp_min(torch.finfo(rest.dtype).tiny)
        each = expected_of_rows(p, log_p - log_q) + torch.xlogy(left, share).squeeze(1)
        mass = p.sum(1, keepdim=True) + left
        return each, others, mass - share, q * mass - p

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # zeros, as large as all logits
        ctx.save_for_backward(inputs[4], *output[1:])

    @staticmethod
    @once_only
    def backward(ctx: Any, upstream: Tensor | None, *_: None) -> tuple[Any, ...]:
        if upstream is None:
            return (None,) * 6
        tokens, others, of_others, of_tokens = ctx.saved_tensors
        upstream = upstream[:, None]
        gradient = others * (of_others * upstream)
        return gradient.scatter_add_(1, tokens, of_tokens * upstream), *(None,) * 5


def _check_answers(
    indices: Tensor, log_probabilities: Tensor, logits: Tensor, class_dim: int
) -> None:
    """Require k tokens and their log-probabilities for every place."""
    check_tensor("indices", indices)
    check_floating("log_probabilities", log_probabilities)
    for name, one in (("indices", indices), ("log_probabilities", log_probabilities)):
        check_same_device(name, one, "student_logits", logits)
    if indices.dtype not in INTEGERS[1:]:
        raise ArgumentError("indices", f"indices must be integers, got {indices.dtype}")
    places = tuple(place_shape(logits, class_dim))
    if indices.shape[:-1] != places or indices.shape[-1:] == (0,) or indices.dim() == 0:
        raise ArgumentError(
            "indices",
            f"indices must have the shape ({', '.join(map(str, places))}, k), as student_logits "
            f"are {tuple(logits.shape)} with class_dim={class_dim}, got {tuple(indices.shape)}",
        )
    check_same_shape("log_probabilities", log_probabilities, "indices", indices)


def _check_values(
    mass: Tensor, tokens: Tensor, weights: Tensor | None, classes: int, off: float
) -> None:
    """Require different tokens of the vocabulary, and probabilities whose sum is at most one."""
    if not readable(tokens) or not readable(mass):
        return
    lowest, highest = torch.stack(tokens.aminmax()).tolist()
    if not 0 <= lowest <= highest < classes:
        raise ArgumentError(
            "indices", f"indices must lie in [0, {classes}), got from {lowest} to {highest}"
        )
    if float(mass.max()) > 1 + off:
        raise ArgumentError(
            "log_probabilities",
            "log_probabilities must be those of distinct indices, whose probabilities sum to at "
            "most one",
        )
    twice = (tokens.sort(dim=1).values.diff(dim=1) == 0).any(dim=1)
    twice = twice & ~mass[:, 0].isnan()  # which gives NaN
    if bool((twice if weights is None else twice & (weights > 0)).any()):
        raise ArgumentError("indices", "indices must all be different within a prediction")


class TopKKD(PredictionTerm):
    """KL from the k largest of the teacher's predictions: :func:`topk_kd_loss`.

    Of a teacher that shows all, k are taken. One that was recorded
    (:class:`kdcourse.teachers.CachedTexts`) shows its answers as they are, k or drawn.

    Args:
        k: How many of a teacher's predictions to look at.
        temperature: τ, at which recorded answers were given, too.
        rest: As of the loss.
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`.
    """

    def __init__(
        self,
        k: int = 16,
        temperature: float = 1.0,
        *,
        rest: str = "tail",
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        check_positive(k=k)
        check_temperature(temperature, high=HOTTEST)
        check_choice("rest", rest, RESTS)
        self.k, self.temperature, self.rest = k, temperature, rest

    @property
    def name(self) -> str:
        """Name in the history."""
        return "top_k_kd"

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence from what is known of the teacher's predictions."""
        return topk_kd_loss(
            lesson.student_logits,
            *self._answers(lesson.taught),
            rest=self.rest,
            class_dim=self.class_dim,
            weight=self.counting(lesson),
        )

    def _answers(self, shown: Outputs) -> TopK:
        if shown.top_k is None:
            taught = shown.logits
            if taught is None and shown.probabilities is not None:
                taught = at_least_float32(shown.probabilities).log()
            if taught is None:
                raise ArgumentError("teacher", "this term needs a teacher's predictions")
            return top_k_answers(
                taught, self.k, temperature=self.temperature, class_dim=self.class_dim
            )
        if shown.top_k.temperature != self.temperature:
            raise ArgumentError(
                "temperature",
                f"temperature must be that of the teacher's answers, {shown.top_k.temperature:g}, "
                f"got {self.temperature:g}",
            )
        return shown.top_k
