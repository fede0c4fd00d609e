r"""How much a student is like its teacher, whether that is right or wrong.

A student may be as accurate as its teacher and yet err on other images. Three looks at it: how
often both name the same class (agreement), how far apart their probabilities are,

.. math:: KL = \sum_k p_T(k) \log \frac{p_T(k)}{p_S(k)},

and whether their embeddings are alike up to rotation and scale (CKA).

Source: Stanton et al. 2021 (arXiv 2106.05945); Kornblith et al. 2019 (arXiv 1905.00414),
section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.checks import check_same_shape
from kdcourse.evaluation.accuracy import check_answers
from kdcourse.evaluation.resampling import Interval, Resamples
from kdcourse.metrics import linear_cka
from kdcourse.signatures import checked


@dataclass(frozen=True)
class Fidelity:
    """How much a student is like its teacher on the test images.

    Attributes:
        agreement: Share of images on which both name the same class.
        kl: Mean KL divergence of the student's probabilities from the teacher's, in nats.
        cka: Linear CKA of both embeddings; None where ``note`` says why.
        note: Why there is no CKA.
    """

    agreement: Interval
    kl: Interval
    cka: Interval | None
    note: str = ""


@checked
def kl_by_sample(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the KL divergence of the student from the teacher of each sample, ``(N,)`` in nats.

    Args:
        student_logits: Predictions ``(N, K)``.
        teacher_logits: Predictions ``(N, K)`` of the same samples.
    """
    check_same_shape("student_logits", student_logits, "teacher_logits", teacher_logits)
    for name, logits in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        check_answers(logits, name=name)
    student, teacher = (F.log_softmax(one.double(), 1) for one in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


@checked
def cka_influence(embeddings: Tensor, others: Tensor) -> Tensor:
    r"""Return what each sample adds to linear CKA, ``(N,)``, of mean zero: its influence function.

    With the centred rows :math:`x_i, y_i` and :math:`h_i^{xy} = x_i^\top (X^\top Y / N)\, y_i`,
    whose mean is :math:`H^{xy}`, it is

    .. math:: CKA \cdot \left(\frac{2 h_i^{xy}}{H^{xy}} - \frac{h_i^{xx}}{H^{xx}}
              - \frac{h_i^{yy}}{H^{yy}}\right).

    To the first order, CKA over other samples is CKA plus their mean influence, so that a bootstrap
    need not compute it anew in each draw.

    Args:
        embeddings: Embeddings X ``(N, D)``, N ≥ 2.
        others: Embeddings Y ``(N, D')`` of the same samples.
    """
    value = linear_cka(embeddings, others)
    x, y = (e.double() - e.double().mean(dim=0) for e in (embeddings.cpu(), others.cpu()))

    def share(one: Tensor, other: Tensor) -> Tensor:
        own = ((one @ (one.T @ other)) * other).sum(dim=1)
        return own / own.mean()

    if value == 0:  # nothing in common, to the first order neither with other samples
        return torch.zeros(len(x), dtype=torch.float64)
    return value * (2 * share(x, y) - share(x, x) - share(y, y))


def fidelity_of(
    student: Tensor,
    teacher: Tensor,
    resamples: Resamples,
    embeddings: tuple[Tensor, Tensor] | None,
    note: str = "",
) -> Fidelity:
    """Compare the logits ``(N, K)`` of both, and their embeddings where both show them."""
    same = (student.argmax(dim=1) == teacher.argmax(dim=1)).double()
    cka = None
    if embeddings is not None:
        cka = resamples.interval(linear_cka(*embeddings) + cka_influence(*embeddings))
    kl = kl_by_sample(student, teacher)
    return Fidelity(resamples.interval(same), resamples.interval(kl), cka, note)
