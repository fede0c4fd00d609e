r"""Which properties? — logits.

The student is asked to predict what the teacher predicts, softened by a temperature:

.. math:: \min_f\; \ell_{CE} + \lambda \cdot \ell_{KD}

A prediction is made at places: one for a sample ``(N, K)``, for a token ``(N, T, K)`` with
``class_dim=-1``, for a pixel ``(N, K, H, W)``, with K logits each. Every loss computes in float32
at least, returns a scalar (mean over the places of a **sum** over the K classes) and sends no
gradient to the teacher. With ``mask`` or ``weight``, it is the mean over the places that count, or
the weighted one, and what does not count may hold anything (:mod:`kdcourse.predictions`). Bad input
raises ``ValueError`` or ``TypeError`` naming the argument; NaN gives NaN.
"""

import math
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import (
    check_choice,
    check_flag,
    check_number,
    check_positive,
    check_probabilities,
    check_same_samples,
    check_same_shape,
    check_temperature,
    check_tensor,
)
from kdcourse.cross_entropy import CrossEntropy as CrossEntropy
from kdcourse.errors import ArgumentError
from kdcourse.linear_kd import linear_kd_loss as linear_kd_loss
from kdcourse.many_classes import DIVERGENCES, chunked, kd_step, step_of
from kdcourse.objective import Lesson
from kdcourse.precision import HOTTEST, at_least_float32, dtype_for, not_below_zero, readable
from kdcourse.prediction_term import PredictionTerm
from kdcourse.predictions import (
    both_at_places,
    check_of_places,
    check_predictions,
    counted_only,
    expected_of_rows,
    kl_of_rows,
    place_mean,
    place_rows,
    place_target,
    place_weights,
)
from kdcourse.signatures import check_is

MANY = 2**26  # logits from which on LogitKD takes them in chunks


def softmax(logits: Tensor, temperature: float = 1.0, *, class_dim: int = 1) -> Tensor:
    r"""Turn logits into probabilities, softened by a temperature.

    .. math:: p^{(i)} = \exp(z^{(i)}/\tau) \,/\, \textstyle\sum_j \exp(z^{(j)}/\tau)

    τ → ∞ gives the uniform distribution, τ → 0 puts everything on the largest logit.

    Args:
        logits: ``(N, K)``, or of any shape with K classes in ``class_dim``, floating point.
        temperature: τ > 0.
        class_dim: The dimension of the classes, 1 or more, or negative.

    Returns:
        Probabilities of the logits' shape, float32 at least.

    Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), eq. 1.
    """
    check_predictions("logits", logits, class_dim)
    check_temperature(temperature)
    return F.log_softmax(at_least_float32(logits) / temperature, dim=class_dim).exp()


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    *,
    divergence: str = "forward",
    scale: bool = True,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Divergence between the softened predictions of teacher and student.

    .. math:: \ell_{KD} = \tau^2 \cdot \frac1N \sum_n \sum_k
              p_T^{(k)} \left(\log p_T^{(k)} - \log p_S^{(k)}\right)

    *KL or cross-entropy?* The lecture writes :math:`-\sum_k p_T \log p_S` and calls it KL. That is
    the cross-entropy: KL plus the teacher's entropy, which the student cannot change. Both have
    the same gradient; only KL is zero when the student has arrived. The slide's form is
    :func:`kd_cross_entropy`.

    *Why τ²?* The gradient with respect to a student logit is :math:`(p_S - p_T)/\tau`, and for
    large τ the difference itself shrinks as 1/τ, to :math:`(z_S - z_T)/(K\tau)` for centred
    logits. Without the factor τ², raising the temperature would switch the term off as 1/τ²;
    with it, λ keeps its meaning. ``scale=False`` gives the slide's form, without the factor.

    *Which reduction?* Sum over classes, mean over samples, tokens or pixels: over all places of
    the batch that count. Averaging over the classes too (the default of ``torch.nn.KLDivLoss``)
    would make the term K times too weak.

    *Places that do not count.* With weights :math:`w_p` the mean over places is
    :math:`\sum_p w_p \ell_p / \sum_p w_p`. A place with ``mask`` 0, or ``weight`` 0, may hold NaN
    or infinity, as padding may hold anything: its logits are replaced by zeros before the
    arithmetic, and its gradient is zero. If nothing counts, so is the loss.

    *Masked classes.* A class whose logits are −∞ in both does not count. Where only the student's
    is, and the teacher finds it possible, the loss is infinite.

    Args:
        student_logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        teacher_logits: Of the same shape; receives no gradient.
        temperature: τ, for both student and teacher, from 10⁻⁹ to 10⁶. From 32 on, predictions
            hardly differ, and are compared in float64, which takes longer.
        divergence: ``"forward"`` KL(T‖S), which covers all that the teacher finds likely;
            ``"reverse"`` KL(S‖T), which settles on what it finds most likely; or
            ``"jensen-shannon"``, the mean of both against the mixture :math:`(p_T + p_S)/2`.
        scale: Whether to multiply by τ².
        class_dim: The dimension of the classes: 1 for ``(N, K)`` and ``(N, K, H, W)``, −1 for
            ``(N, T, K)``.
        mask: Which places count, bool or 0 and 1, of the logits' shape without ``class_dim``:
            ``(N,)``, ``(N, T)``, ``(N, H, W)``.
        weight: How much each counts, ≥ 0, of the same shape as a mask; receives no gradient.

    Returns:
        Scalar ≥ 0 in nats, zero when the two predictions agree. In float32, the value is exact up
        to about τ²·10⁻⁷, and its gradient also where the value is smaller than that.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2; reverse KL and Jensen–Shannon as in
    Gu et al. 2024 (arXiv 2306.08543) and Agarwal et al. 2024 (arXiv 2306.13649).
    """
    check_choice("divergence", divergence, DIVERGENCES)
    student, teacher, weights = both_at_places(
        student_logits, teacher_logits, class_dim, mask=mask, weight=weight
    )
    log_p_student, log_p_teacher = _both_log_softmax(student, teacher, temperature)
    if divergence == "forward":
        loss = kl_of_rows(log_p_teacher, log_p_student)
    elif divergence == "reverse":
        loss = kl_of_rows(log_p_student, log_p_teacher)
    else:
        both = (  # log 0 twice would have no gradient
            log_p.clamp_min(torch.finfo(log_p.dtype).min / 2)
            for log_p in (log_p_student, log_p_teacher)
        )
        log_mixture = torch.logaddexp(*both) - math.log(2)
        loss = (kl_of_rows(log_p_teacher, log_mixture) + kl_of_rows(log_p_student, log_mixture)) / 2
    return _scaled(place_mean(loss, weights), temperature, scale, student)


def kd_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    *,
    scale: bool = True,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""The lecture's KD term: cross-entropy of the student under the teacher's probabilities.

    .. math:: -\tau^2 \cdot \frac1N \sum_n \sum_k p_T^{(k)} \log p_S^{(k)}

    Equal to :func:`kd_loss` plus τ² times the teacher's entropy: same gradient, larger value,
    never zero unless the teacher is certain. Arguments as in :func:`kd_loss`.

    Source: the lecture, *Logit distillation*; Hinton et al. 2015 (arXiv 1503.02531), section 2.
    """
    student, teacher, weights = both_at_places(
        student_logits, teacher_logits, class_dim, mask=mask, weight=weight
    )
    log_p_student, log_p_teacher = _both_log_softmax(student, teacher, temperature)
    loss = -expected_of_rows(log_p_teacher.exp(), log_p_student)
    return _scaled(place_mean(loss, weights), temperature, scale, student)


def kd_loss_from_probabilities(
    student_logits: Tensor,
    teacher_probabilities: Tensor,
    temperature: float = 1.0,
    *,
    scale: bool = True,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""KD from a closed-weight teacher, which shows its probabilities and nothing else.

    The teacher's probabilities (at τ = 1, as a service returns them) are softened by the power
    1/τ and renormalised, :math:`p_T^{(k)} \propto (p^{(k)})^{1/\tau}`. Since
    :math:`\log p = z + \text{const}`, this is exactly ``softmax(z / τ)``: with exact
    probabilities the loss equals :func:`kd_loss`. Probabilities of zero (a teacher that shows its
    top-k only) stay zero.

    Args:
        student_logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        teacher_probabilities: Of the same shape, ≥ 0, with sum one over the classes wherever a
            place counts; receives no gradient.
        temperature: τ > 0, for both student and teacher.
        scale: Whether to multiply by τ².
        class_dim, mask, weight: As in :func:`kd_loss`.

    Returns:
        Scalar ≥ 0 in nats.

    Raises:
        ValueError: Also for probabilities that are negative or do not sum to one (checked for CPU
            tensors only; on a GPU the check would stall the device).
    """
    check_temperature(temperature, high=HOTTEST)
    student, teacher, weights = both_at_places(
        student_logits,
        teacher_probabilities,
        class_dim,
        "teacher_probabilities",
        mask=mask,
        weight=weight,
    )
    teacher = counted_only(teacher, weights, 1 / teacher.shape[1])  # a row of zeros has no log
    check_probabilities("teacher_probabilities", teacher)
    # log 0 = -inf softens to exactly 0, and does not count; the largest entry of a row is at least
    # 1/K, so a row is never all -inf.
    log_p_teacher = _log_softmax(at_least_float32(teacher).log(), temperature)
    loss = kl_of_rows(log_p_teacher, _log_softmax(student, temperature))
    return _scaled(place_mean(loss, weights), temperature, scale, student)


def decoupled_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    class_dim: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Decoupled KD (DKD): the target class against the rest, and the rest among themselves.

    .. math:: \tau^2 \left(\alpha\, KL(b_T \| b_S) + \beta\, KL(\hat p_T \| \hat p_S)\right)

    with :math:`b = (p_y, 1 - p_y)` and :math:`\hat p` the softmax over the K − 1 other classes.
    Plain KD is α = 1 with β replaced by the teacher's own :math:`1 - p_y` per sample: a confident
    teacher mutes its dark knowledge. DKD lets β speak.

    Args:
        student_logits: ``(N, K)``, K ≥ 2, or of any shape with K classes in ``class_dim``.
        teacher_logits: Of the same shape; receives no gradient.
        target: int64 class indices, of the logits' shape without ``class_dim``: ``(N,)``,
            ``(N, T)``, ``(N, H, W)``. Where a place does not count, any number will do.
        alpha: Weight of the target-class part, ≥ 0.
        beta: Weight of the non-target part, ≥ 0.
        temperature: τ > 0.
        class_dim, mask, weight: As in :func:`kd_loss`.
        ignore_index: The target of places that do not count, such as −100.

    Returns:
        Scalar ≥ 0 in nats.

    Source: Zhao et al. 2022 (arXiv 2203.08679), eq. 7. Non-target classes are taken out by index
    and logsumexp; masking them with −1000, as the authors' code does, fails in half precision.
    """
    check_number("alpha", alpha, 0.0)
    check_number("beta", beta, 0.0)
    student, teacher, weights = both_at_places(
        student_logits,
        teacher_logits,
        class_dim,
        mask=mask,
        weight=weight,
        target=target,
        ignore_index=ignore_index,
    )
    target = place_target(target, student_logits, class_dim, weights)
    log_p_student, log_p_teacher = _both_log_softmax(student, teacher, temperature)
    student_binary, student_rest = _target_and_rest(log_p_student, target)
    teacher_binary, teacher_rest = _target_and_rest(log_p_teacher, target)
    binary, rest = (
        kl_of_rows(teacher_binary, student_binary),
        kl_of_rows(teacher_rest, student_rest),
    )
    loss = alpha * binary + beta * rest
    return _scaled(place_mean(loss, weights), temperature, True, student)


def _target_and_rest(log_p: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Split log-probabilities: target against the rest ``(N, 2)``, and within the rest."""
    others = torch.arange(log_p.shape[1] - 1, device=target.device).expand(len(log_p), -1)
    others = others + (others >= target[:, None])  # (N, K-1): every class but the target
    rest = log_p.gather(1, others)
    nothing = rest.isneginf().all(dim=1, keepdim=True)  # where all but the target are masked
    log_rest = rest.masked_fill(nothing, 0.0).logsumexp(dim=1, keepdim=True)
    both = [log_p.gather(1, target[:, None]), log_rest.masked_fill(nothing, -math.inf)]
    return torch.cat(both, dim=1), rest - log_rest


def in_chunks(
    loss: Callable[..., Tensor],
    student_logits: Tensor,
    *others: Tensor,
    rows: int | None = None,
    compile: bool = False,
    **options: Any,
) -> Tensor:
    r"""Compute a loss a few places at a time, and its gradient with it: for very many classes.

    >>> in_chunks(kd_loss, student_logits, teacher_logits, temperature=2)

    .. math:: \frac1W \sum_c W_c \, \ell(\text{chunk}_c), \quad W = \textstyle\sum_c W_c

    is the loss itself, since every loss here is a mean over places. :math:`W_c` is the number of
    those in a chunk, or with ``mask`` or ``weight`` the sum of their weights. Called plainly, it
    keeps several ``(N, K)`` tensors for the backward pass. Here the forward pass makes the
    student's gradient while a chunk is at hand, of :func:`kd_loss` by formula, of any other loss
    by autograd. Backward multiplies it, in place, by the gradient from above. Beside the inputs and
    that gradient, which any form returns, only a few ``(rows, K)`` live at a time. Where no
    gradient is asked for, none is made. Logits that come from hidden states need not be there
    either: :func:`linear_kd_loss`.

    Args:
        loss: One of this module's losses, or any mean over samples without randomness.
        student_logits: ``(N, K)``, or of any shape with K classes in ``class_dim``; the only input
            that receives a gradient. Where the classes do not come last, it is copied.
        others: The loss's other arguments in order, each with an entry a place: the teacher's
            logits or probabilities, of the student's shape; the target, without ``class_dim``.
        rows: Places in a chunk; the last chunk may be smaller. By default, so many that a chunk's
            logits take 4 MB in float32 on the CPU, and 64 MB on a GPU.
        compile: Whether ``torch.compile`` fuses what is done with a chunk, which takes some seconds
            at the first call.
        options: Passed on to the loss, of which ``class_dim``, ``mask``, ``weight`` and
            ``ignore_index`` mean what they do there. The last three are for losses that take the
            weights of places: those of this module.

    Returns:
        The loss, a scalar; it can be differentiated once, backward runs once, and ``torch.func``
        does not reach it (``RuntimeError`` otherwise).

    Source: gradients made in the forward pass, as in the fused linear cross-entropy of Hsu et al.
    2024 (arXiv 2410.10989), section 3.2.
    """
    if not callable(loss):
        check_is("loss", loss, Callable)
    check_flag("compile", compile)
    if isinstance(loss, partial) and not loss.args:
        options = {**loss.keywords, **options}
        loss = loss.func
    class_dim = options.pop("class_dim", 1)
    check_predictions("student_logits", student_logits, class_dim)
    by_place = [_by_place(other, student_logits, class_dim) for other in others]
    weights = _weights_in_chunks(loss, student_logits, others, class_dim, options)
    if loss is kd_loss and len(others) == 1:
        check_predictions("teacher_logits", *others, class_dim)
        check_same_shape("student_logits", student_logits, "teacher_logits", *others)
        step = kd_step(**options, compile=compile)
    else:
        step = step_of(partial(torch.compile(loss) if compile else loss, **options))
    return chunked(
        *(step, rows, weights, place_rows(student_logits, class_dim)),
        *(other.detach() for other in by_place),
    )


def _by_place(other: Tensor, logits: Tensor, class_dim: int) -> Tensor:
    """Return what is given along with logits, an entry a place, as P rows."""
    check_tensor("others", other)
    check_same_samples("student_logits", logits, "others", other)
    if other.shape == logits.shape:
        return place_rows(other, class_dim)
    places = logits.numel() // logits.shape[class_dim]
    if other.shape[:1] == (places,):
        return other
    check_of_places("others", other, logits, class_dim)
    return other.flatten()


def _weights_in_chunks(
    loss: Callable[..., Tensor],
    logits: Tensor,
    others: tuple[Tensor, ...],
    class_dim: int,
    options: dict[str, Any],
) -> Tensor | None:
    """Take what says which places count out of the options, and return the weights of places."""
    taken = {name: options.pop(name, None) for name in ("mask", "weight", "ignore_index")}
    given = {name: value for name, value in taken.items() if value is not None}
    if not given:
        return None
    known = signature(loss).parameters
    if missing := {"mask", *given} - known.keys():  # without a mask, its weights are of classes
        raise ArgumentError(
            "loss", f"loss must take {min(missing)}, where {', '.join(given)} is given, of places"
        )
    return place_weights(logits, class_dim, target=others[-1] if others else None, **given)


def standardize(
    logits: Tensor,
    temperature: float = 1.0,
    *,
    class_dim: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Z-score the logits of each place: subtract their mean, divide by their deviation and by τ.

    .. math:: (z - \bar z) \,/\, (\tau \cdot \sigma(z)), \quad
              \sigma(z)^2 = \tfrac1K \textstyle\sum_k (z^{(k)} - \bar z)^2

    A student then copies the teacher's ranking and relative margins, not their magnitude:
    ``kd_loss(standardize(s), standardize(t), temperature)``. Constant logits give zeros.

    Args:
        logits: ``(N, K)``, or of any shape with K classes in ``class_dim``.
        temperature: τ > 0.
        class_dim: The dimension of the classes, as in :func:`kd_loss`.
        mask: Which places count, as in :func:`kd_loss`. The others give zeros, whatever they hold.

    Returns:
        Of the logits' shape, float32 at least; differentiable.

    Source: Sun et al. 2024 (arXiv 2403.01427), eq. 10, with the deviation over K as in the paper.
    The authors' code takes it over K − 1, which is a temperature larger by the factor √(K/(K−1)),
    and adds 10⁻⁷ to it, so that constant logits give zeros.
    """
    check_predictions("logits", logits, class_dim)
    check_temperature(temperature)
    if mask is not None or logits.dim() > 2:
        weights = place_weights(logits, class_dim, mask=mask)
        rows = standardize(counted_only(place_rows(logits, class_dim), weights), temperature)
        return rows.unflatten(0, logits.movedim(class_dim, -1).shape[:-1]).movedim(-1, class_dim)
    if readable(logits) and bool(logits.isinf().any()):
        raise ArgumentError("logits", "logits must be finite to be standardised, got infinity")
    logits = at_least_float32(logits)
    centred = logits - logits.mean(dim=1, keepdim=True)
    # A spread below the rounding error of the logits is no spread: such a sample is constant.
    # So is one whose square would underflow to zero.
    number = torch.finfo(centred.dtype)
    rounding = 2 * number.eps * logits.detach().abs().amax(1, keepdim=True)
    constant = centred.detach().abs().amax(1, keepdim=True) <= rounding.clamp_min(number.tiny**0.5)
    variance = centred.square().mean(dim=1, keepdim=True)
    # where() before the square root: the root of zero has no finite gradient.
    deviation = torch.where(constant, 1.0, variance).sqrt()
    return torch.where(constant, 0.0, centred / (deviation * temperature))


class LogitKD(PredictionTerm):
    """``dist(f, f_large)`` on softened predictions: :func:`kd_loss`, which explains the arguments.

    From a closed teacher, which shows probabilities only, the loss is taken from those
    (:func:`kd_loss_from_probabilities`; forward divergence only).

    Args:
        rows: How many samples to compute at a time, which saves time and memory where there are
            very many classes (:func:`in_chunks`). By default, all at once below 2²⁶ logits (268 MB
            in float32), and from there on as many as :func:`in_chunks` chooses; under
            ``torch.compile``, which saves both by itself, and ``torch.func``, all at once.
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`.
    """

    rows: int | None = None  # in the repr only where it is set

    def __init__(
        self,
        temperature: float = 4.0,
        *,
        divergence: str = "forward",
        scale: bool = True,
        rows: int | None = None,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        check_temperature(temperature, high=HOTTEST)
        check_choice("divergence", divergence, DIVERGENCES)
        check_flag("scale", scale)
        self.temperature = temperature
        self.divergence = divergence
        self.scale = scale
        if rows is not None:
            check_positive(rows=rows)
            self.rows = rows

    @property
    def needs_logits(self) -> bool:  # type: ignore[override]
        """Whether probabilities will not do: for every divergence but the forward one."""
        return self.divergence != "forward"

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence between teacher and student."""
        shown = lesson.taught
        loss: Callable[..., Tensor] = partial(kd_loss, divergence=self.divergence)
        taught = shown.logits
        if taught is None:
            taught, loss = shown.probabilities, kd_loss_from_probabilities
            if taught is None or self.needs_logits:
                raise ArgumentError("teacher", f"a teacher without logits cannot teach by {self!r}")
        if self.rows is not None or _are_very_many(lesson.student_logits):
            loss = partial(in_chunks, loss, rows=self.rows)
        return loss(
            lesson.student_logits,
            taught,
            temperature=self.temperature,
            scale=self.scale,
            class_dim=self.class_dim,
            weight=self.counting(lesson),
        )


class DecoupledKD(PredictionTerm):
    """Decoupled KD: :func:`decoupled_kd_loss`, which explains the arguments.

    Without ``ignore_index`` or ``mask``, every place must have a label.
    """

    needs_logits = True

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        *,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        check_number("alpha", alpha, 0.0)
        check_number("beta", beta, 0.0)
        check_temperature(temperature, high=HOTTEST)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """Whether every sample must have a label: where nothing says that some do not count."""
        return self.ignore_index is None and self.mask is None

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the weighted sum of target and non-target divergence."""
        return decoupled_kd_loss(
            lesson.student_logits,
            lesson.teacher_logits,
            lesson.target,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            class_dim=self.class_dim,
            weight=self.counting(lesson),
        )


class StandardizedKD(PredictionTerm):
    """KD on z-scored logits: :func:`kd_loss` of :func:`standardize`.

    Args:
        temperature: τ > 0, which the z-scores are divided by.
        class_dim, ignore_index, mask: As for every :class:`PredictionTerm
            <kdcourse.prediction_term.PredictionTerm>`.

    Source: Sun et al. 2024 (arXiv 2403.01427). Up to the 10⁻⁷ in the deviation, the authors' code
    at τ gives (K − 1)/K times this loss at τ·√(K/(K−1)). At the same τ this one is larger, by
    K/(K − 1) where τ is high: 11 % for 10 classes, 1 % for 100.
    """

    needs_logits = True

    def __init__(
        self,
        temperature: float = 2.0,
        *,
        class_dim: int = 1,
        ignore_index: int | None = None,
        mask: str | None = None,
    ):
        super().__init__(class_dim=class_dim, ignore_index=ignore_index, mask=mask)
        check_temperature(temperature, high=HOTTEST)
        self.temperature = temperature

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the divergence between the standardised predictions."""
        weights = self.counting(lesson)
        counted = None if weights is None else weights > 0
        student, teacher = (
            standardize(logits, class_dim=self.class_dim, mask=counted)
            for logits in (lesson.student_logits, lesson.teacher_logits)
        )
        return kd_loss(student, teacher, self.temperature, class_dim=self.class_dim, weight=weights)


def _are_very_many(logits: Tensor) -> bool:
    """Whether eager kernels take longer, and far more memory, for all of them than for chunks."""
    if logits.numel() < MANY or torch.compiler.is_compiling():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(logits)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    check_temperature(temperature, high=HOTTEST)
    return F.log_softmax(logits.to(dtype_for(logits, temperature)) / temperature, dim=1)


def _both_log_softmax(
    student: Tensor, teacher: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    return _log_softmax(student, temperature), _log_softmax(teacher, temperature)


def _scaled(loss: Tensor, temperature: float, scale: bool, logits: Tensor) -> Tensor:
    """Multiply by τ² if asked to, in the precision that a loss of these logits has."""
    check_flag("scale", scale)
    loss = not_below_zero(loss)
    return (loss * temperature**2 if scale else loss).to(at_least_float32(logits).dtype)
