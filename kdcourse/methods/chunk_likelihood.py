r"""Which properties? — how probable a chunk of text is, in whichever tokens.

Two language models with vocabularies of their own still give a probability to the same text: that
of its tokens, multiplied. *Approximate likelihood matching* (ALM) compares these for chunks of text
between places at which both have read the same. It loses all that is not in the text: of what might
have come instead, it knows only how probable all of it is together.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import (
    check_same_device,
    check_same_samples,
    check_temperature,
    check_tensor,
)
from kdcourse.errors import ArgumentError
from kdcourse.known_gradient import once_only
from kdcourse.language.alignment import AlignedTerm, common_chunks
from kdcourse.language.vocabulary import Vocabulary
from kdcourse.objective import Lesson
from kdcourse.precision import HOTTEST, at_least_float32, not_below_zero, readable, widest
from kdcourse.predictions import (
    check_of_places,
    check_predictions,
    kl_of_rows,
    log_probabilities_at,
    place_mean,
    place_rows,
    place_shape,
    place_target,
    place_weights,
)


def chunk_likelihood_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float = 100.0,
    *,
    teacher_target: Tensor | None = None,
    student_chunks: Tensor | None = None,
    teacher_chunks: Tensor | None = None,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    r"""KL between the probabilities that a chunk of text comes, and that it does not.

    .. math:: \tau \cdot \frac1C \sum_c KL\big(b_T^c \,\|\, b_S^c\big), \quad
              b^c = (q_c, 1 - q_c), \quad q_c = \Big(\prod_{t \in c} p(y_t)\Big)^{1/\tau}

    The logarithm of a chunk's probability is the sum of those of its tokens, which each net reads
    as its own. At a high temperature, it is the *surprises* :math:`a = -\log \prod p` that are
    compared: the loss becomes :math:`a_T \log (a_T / a_S) - a_T + a_S`, in which what is all but
    certain and what is most improbable count alike.

    Without chunks, both nets have the same places, and each place is a chunk of its own: for τ = 1
    this is the target's part of :func:`kdcourse.logit.decoupled_kd_loss`.

    Args:
        student_logits: ``(N, T, V)``, or without chunks of any shape with K classes in
            ``class_dim``.
        teacher_logits: ``(N, T', V')``, or without chunks of the same places; receives no gradient.
        target: The student's next tokens ``(N, T)``. Where a place does not count, any number will
            do.
        temperature: τ, from 10⁻⁹ to 10⁶.
        teacher_target: The teacher's next tokens ``(N, T')``; without them, they are the student's.
        student_chunks: ``(N, T)``, the numbers of the chunks to which the tokens belong, from 1 to
            T, as :func:`kdcourse.language.alignment.common_chunks` gives them; 0 for none.
        teacher_chunks: ``(N, T')``, of the teacher's tokens.
        class_dim, mask, weight: As in :func:`kdcourse.logit.kd_loss`, of the student's places; a
            chunk counts as much as that of its places which counts least.
        ignore_index: The target of places that do not count.

    Returns:
        Scalar ≥ 0 in nats, once differentiable; zero if nothing counts.

    Source: Minixhofer, Vulić, Ponti 2025 (arXiv 2503.20083). The authors' code takes the
    cross-entropy, which is KL plus what the student cannot change, without the factor τ = 100, and
    takes 10⁻⁶ off both :math:`\log q_c`; it knows further ways to choose chunks.
    """
    check_temperature(temperature, high=HOTTEST)
    check_predictions("student_logits", student_logits, class_dim)
    check_predictions("teacher_logits", teacher_logits, class_dim)
    check_same_device("student_logits", student_logits, "teacher_logits", teacher_logits)
    weights = taught_weights = place_weights(
        student_logits,
        class_dim,
        mask=mask,
        weight=weight,
        target=target,
        ignore_index=ignore_index,
    )
    chunks = _checked_chunks(
        student_logits, teacher_logits, class_dim, student_chunks, teacher_chunks
    )
    if chunks is not None:
        counts = (chunks[0] > 0).flatten()
        weights = counts.to(torch.float32) if weights is None else weights * counts
        taught_weights = (chunks[1] > 0).flatten()
    index = _index(student_logits, target, class_dim, weights)
    own = _log_likelihood(student_logits, index, class_dim, weights)
    alike = chunks is None and teacher_logits.shape == student_logits.shape
    if teacher_target is not None or not alike:
        theirs = target if teacher_target is None else teacher_target
        index = _index(teacher_logits, theirs, class_dim, taught_weights, "teacher_target")
    with torch.no_grad():
        taught = _log_likelihood(teacher_logits.detach(), index, class_dim, taught_weights)
    if chunks is not None and weights is not None:
        weights = _weights_of_chunks(*chunks, weights)
        count = chunks[0].shape[1]
        own, taught = (
            _sums(each, numbers, count) for each, numbers in zip((own, taught), chunks, strict=True)
        )
    loss = place_mean(_binary_kl(taught / temperature, own / temperature), weights)
    return (not_below_zero(loss) * temperature).to(at_least_float32(student_logits).dtype)


def _checked_chunks(
    student: Tensor, teacher: Tensor, class_dim: int, *given: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Require the numbers of chunks of both nets, ``(N, T)`` and ``(N, T')``, or of none."""
    names = ("student_chunks", "teacher_chunks")
    if sum(numbers is None for numbers in given) == 1:
        raise ArgumentError(names[0], f"{names[0]} and {names[1]} go together")
    if given[0] is None:
        own, theirs = (place_shape(logits, class_dim) for logits in (student, teacher))
        if own != theirs:
            raise ArgumentError(
                "teacher_logits",
                "without chunks, student_logits and teacher_logits must hold the same places, got "
                f"{tuple(own)} and {tuple(theirs)}",
            )
        return None
    found = []
    for name, numbers, logits in zip(names, given, (student, teacher), strict=True):
        check_tensor(name, numbers)  # type: ignore[arg-type]
        assert numbers is not None
        check_of_places(name, numbers, logits, class_dim)
        if numbers.dim() != 2 or numbers.dtype != torch.int64:
            raise ArgumentError(
                name,
                f"{name} must be torch.int64 of shape (N, T), got {numbers.dtype} of shape "
                f"{tuple(numbers.shape)}",
            )
        most = place_shape(student, class_dim)[1]
        if readable(numbers) and not bool(((numbers >= 0) & (numbers <= most)).all()):
            raise ArgumentError(name, f"{name} must lie in [0, {most}]")
        found.append(numbers)
    check_same_samples("teacher_chunks", found[1], "student_chunks", found[0])
    return found[0], found[1]


def _index(
    logits: Tensor, target: Tensor, class_dim: int, weights: Tensor | None, name: str = "target"
) -> Tensor:
    """Return the target of each place, ``(P, 1)``."""
    check_of_places(name, target, logits, class_dim)
    return place_target(target, logits, class_dim, weights)[:, None]


def _log_likelihood(
    logits: Tensor, index: Tensor, class_dim: int, weights: Tensor | None
) -> Tensor:
    """Return the log-probability of each place's target ``(P,)``, 0 where it does not count."""
    rows = at_least_float32(place_rows(logits, class_dim))
    left_out = None if weights is None else (weights == 0)[:, None]
    made = _LogProbability.apply if rows.requires_grad else _LogProbability.forward
    return made(rows, index, left_out)[0]


class _LogProbability(torch.autograd.Function):
    r"""The log-probability of one class of each row, exact also where it is close to 0.

    .. math:: \log p_y = \log\big(1 - \textstyle\sum_{k \ne y} p_k\big)

    What does not count is replaced behind the softmax, in place: a copy of all logits costs more
    than all the rest.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        rows: Tensor, index: Tensor, left_out: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        p = F.softmax(rows, dim=1)
        picked, log_p = log_probabilities_at(index, rows, p)
        likely = picked > 0.5
        others = p.scatter_(1, index, torch.zeros_like(picked))
        if left_out is not None:
            log_p, others = log_p.masked_fill(left_out, 0.0), others.masked_fill_(left_out, 0.0)
        rest = others.sum(dim=1, keepdim=True)
        kind = widest(rows)
        log_p = torch.where(likely, (-rest.to(kind)).log1p(), log_p.to(kind))
        return log_p[:, 0], others, rest

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor, Tensor | None],
        output: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        _, others, rest = output
        ctx.mark_non_differentiable(others, rest)
        ctx.set_materialize_grads(False)  # zeros, as large as all logits
        ctx.save_for_backward(inputs[1], others, rest)

    @staticmethod
    @once_only
    def backward(ctx: Any, slope: Tensor | None, *_: None) -> tuple[Tensor | None, None, None]:
        if slope is None:
            return None, None, None
        index, others, rest = ctx.saved_tensors
        slope = slope.to(others.dtype)[:, None]
        return (others * -slope).scatter_(1, index, slope * rest), None, None


def _sums(each: Tensor, numbers: Tensor, count: int) -> Tensor:
    """Return the sums of what belongs to the chunks 1 to C, ``(N · C,)``."""
    sums = each.new_zeros(len(numbers), count + 1)
    return sums.scatter_add(1, numbers, each.view(numbers.shape))[:, 1:].flatten()


def _weights_of_chunks(own: Tensor, theirs: Tensor, weights: Tensor) -> Tensor:
    """Return how much each chunk counts, ``(N · C,)``: as its least place, if both nets have it."""
    none = weights.new_full((len(own), own.shape[1] + 1), torch.inf)
    least = none.scatter_reduce(1, own, weights.view(own.shape), "amin")
    there = torch.zeros_like(none).scatter(1, theirs, 1.0)
    return least.masked_fill(least.isinf() | (there == 0), 0)[:, 1:].flatten()


def _binary_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL of two Bernoulli distributions, from the logarithms of one of their probabilities."""
    surest = -torch.finfo(log_q.dtype).tiny  # log 0 would have no gradient
    both = (
        torch.stack([one, (-torch.expm1(one)).log()], dim=1)
        for one in (log_p.clamp_max(surest), log_q.clamp_max(surest))
    )
    return kl_of_rows(*both)


class ChunkLikelihood(AlignedTerm):
    """Approximate likelihood matching: :func:`chunk_likelihood_loss`.

    Without vocabularies, ``ignore_index`` or ``mask``, every place must have a label.

    Args:
        student_vocabulary, teacher_vocabulary: As for every :class:`AlignedTerm
            <kdcourse.language.alignment.AlignedTerm>`.
        temperature: As of the loss.
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`.
    """

    def __init__(
        self,
        student_vocabulary: Vocabulary | None = None,
        teacher_vocabulary: Vocabulary | None = None,
        temperature: float = 100.0,
        *,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(
            student_vocabulary,
            teacher_vocabulary,
            class_dim=class_dim,
            ignore_index=ignore_index,
            mask=mask,
        )
        check_temperature(temperature, high=HOTTEST)
        self.temperature = temperature

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """Whether every sample must have a label: where nothing says that some do not count."""
        return self.ignore_index is None and self.mask is None

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence of the likelihoods of chunks, or of the targets."""
        read = self.read(lesson)
        told: dict[str, Any] = {}
        if read is not None:
            chunks = common_chunks(*read[:3])
            told = dict(zip(("student_chunks", "teacher_chunks"), chunks, strict=True))
            told["teacher_target"] = lesson.teacher_inputs.roll(-1, dims=1)
        return chunk_likelihood_loss(
            lesson.student_logits,
            lesson.teacher_logits,
            lesson.target,
            self.temperature,
            class_dim=self.class_dim,
            weight=self.counting(lesson),
            **told,
        )

    def count(self, lesson: Lesson) -> Tensor:
        read = self.read(lesson)
        if read is None:
            return super().count(lesson)
        return _weights_of_chunks(*common_chunks(*read[:3]), read.weights).sum()
