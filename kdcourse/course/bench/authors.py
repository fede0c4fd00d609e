"""The losses of methods in the form that their authors compute them in, re-stated.

Order of operations, loops and copies are theirs, or those of the benchmark by Tian et al. 2020
(arXiv 1910.10699) where it is what everybody uses. What they see differently is left out, so that
each has the value of ours, up to a factor: :mod:`kdcourse.course.bench.methods` knows it.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TINY = 1e-30  # the logarithm of 0 / 0 is that of 1


def dist(student: Tensor, teacher: Tensor) -> Tensor:
    """DIST, by torchdistill."""
    from torchdistill.losses import mid_level

    loss = mid_level.DISTLoss("s", "output", "t", "output")
    return loss({"s": {"output": student}}, {"t": {"output": teacher}})


def softened_teacher(student: Tensor, teacher: Tensor, *, weighted: bool = False) -> Tensor:
    """TTM and WTTM, by powers of the teacher's probabilities, and their sums."""
    powers = teacher.softmax(1) ** 0.25
    sums = powers.sum(1)
    each = F.kl_div(student.log_softmax(1), powers / sums[:, None], reduction="none").sum(1)
    return (sums * each if weighted else each).mean()


def generalized_jsd(student: Tensor, teacher: Tensor) -> Tensor:
    """Generalised Jensen–Shannon at β = ½, the mixture by a log-sum-exp of both, as TRL does."""
    own, theirs = (logits.log_softmax(1) for logits in (student, teacher))
    mixture = torch.logsumexp(torch.stack([own, theirs]) - math.log(2), dim=0)
    parts = (F.kl_div(mixture, one, reduction="none", log_target=True) for one in (own, theirs))
    return sum(parts, start=student.new_zeros(())).sum() / 2 / len(student)


def skewed_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Skewed KL at α = 0.1, of probabilities that are mixed."""
    q, p = (logits.softmax(1) for logits in (student, teacher))
    return (p * (teacher.log_softmax(1) - (0.1 * p + 0.9 * q).log())).sum(1).mean()


def universal_logit(student: Tensor, teacher: Tensor) -> Tensor:
    """ULD of as many classes: probabilities, both sorted."""
    q, p = (logits.softmax(1).sort(1, descending=True).values for logits in (student, teacher))
    return (q - p).abs().sum(1).mean()


def chunk_likelihood(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """ALM at τ = 100 of chunks of one token, less what the student cannot change."""
    x, y = (z.log_softmax(1).gather(1, target[:, None])[:, 0] / 100 for z in (student, teacher))

    def cross_entropy(log_q: Tensor) -> Tensor:
        likely = torch.log1p(-torch.exp(log_q))
        rest = torch.where(log_q < -math.log(2), likely, torch.log(-torch.expm1(log_q)))
        return -(y.exp() * log_q - torch.expm1(y) * rest)

    return (cross_entropy(x) - cross_entropy(y)).mean()


def top_k(student: Tensor, indices: Tensor, log_p: Tensor) -> Tensor:
    """KL from k tokens, the student's rest being what they lack to one."""
    log_q, p = student.log_softmax(1).gather(1, indices), log_p.exp()
    rest, own_rest = (1 - q.sum(1) for q in (p, log_q.exp()))
    each = (p * (log_p - log_q)).sum(1)
    return (each + rest * (rest.log() - own_rest.clamp_min(1e-9).log())).mean()


def multi_level(student: Tensor, teacher: Tensor) -> Tensor:
    """MLLD of one view of a batch, one temperature after the other."""
    total = student.new_zeros(())
    for tau in (2.0, 3.0, 4.0, 5.0, 6.0):
        total = total + _kd(student, teacher, tau)
        q, p = ((logits / tau).softmax(1) for logits in (student, teacher))
        for own, theirs in ((q, p), (q.T, p.T)):
            difference = own @ own.T - theirs @ theirs.T
            total = total + difference.square().sum() / len(difference)
    return total


def curriculum(student: Tensor, teacher: Tensor, level: Tensor) -> Tensor:
    """CTKD: a layer that reverses the gradient, then KD."""
    return _kd(student, teacher, 1 + 20 * torch.sigmoid(_Reversed.apply(level)))


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, level: Tensor) -> Tensor:
        return level.view_as(level)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def scale_decoupled(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """SDD, as a mean over all cells: the coarser grids are made of the finest."""
    cells = []
    for logits in (student, teacher):
        finest = F.adaptive_avg_pool2d(logits, 4)
        grids = [F.adaptive_avg_pool2d(finest, size).flatten(2) for size in (1, 2, 4)]
        cells.append(torch.cat(grids, dim=2).permute(2, 0, 1))
    own, theirs = (rows / 4 for rows in cells)
    each = 16 * F.kl_div(own.log_softmax(2), theirs.softmax(2), reduction="none").sum(2)
    right = theirs.argmax(2) == target
    return torch.where(right == right[:1], each, 2 * each).mean()


def teacher_free(logits: Tensor, target: Tensor) -> Tensor:
    """Teacher-free KD, whose virtual teacher is written one sample after the other."""
    samples, classes = logits.shape
    virtual = torch.ones_like(logits) * (0.01 / (classes - 1))
    for i in range(samples):
        virtual[i, target[i]] = 0.99
    softened = (virtual / 20).softmax(1)
    return 100 * F.kl_div(logits.log_softmax(1), softened, reduction="none").mean()


def one_for_all(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """OFA with γ = 1, and the cross-entropy of the label that they add."""
    label = F.one_hot(target, student.shape[1]).to(student.dtype)
    weights = (teacher.softmax(1) + label) ** 1.0 - label
    return (-weights * student.softmax(1).log()).sum(1).mean() + F.cross_entropy(student, target)


def hard(student: Tensor, teacher: Tensor) -> Tensor:
    """Hard distillation, as DeiT learns."""
    return F.cross_entropy(student, teacher.argmax(1))


def channel_wise(student: Tensor, teacher: Tensor) -> Tensor:
    """CWD, by the logarithms of both maps."""
    samples, channels = student.shape[:2]
    own, theirs = (maps.reshape(samples * channels, -1) / 4 for maps in (student, teacher))
    p = theirs.softmax(1)
    divergence = (p * theirs.log_softmax(1) - p * own.log_softmax(1)).sum()
    return 16 * divergence / (samples * channels)


def neuron_selectivity(student: Tensor, teacher: Tensor) -> Tensor:
    """NST with the polynomial kernel, of all pairs of channels at every position."""
    x, y = (F.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        return (one[:, None] * other[:, :, None]).sum(-1).square().mean()

    return kernel(y, y) + kernel(x, x) - 2 * kernel(x, y)


def linear_selectivity(student: Tensor, teacher: Tensor) -> Tensor:
    """NST with the linear kernel, by its mean maps."""
    x, y = (F.normalize(maps.flatten(2), dim=2).mean(1) for maps in (student, teacher))
    return (x - y).square().sum(1).mean()


def flow(student: Tensor, teacher: Tensor) -> Tensor:
    """FSP between two layers, matrices by torchdistill, and the benchmark's mean over them."""
    from torchdistill.losses import mid_level

    return F.mse_loss(*(mid_level.FSPLoss.compute_fsp_matrix(*both) for both in (student, teacher)))


def flow_of_pairs(student: Tensor, teacher: Tensor) -> Tensor:
    """FSP as in the benchmark by Tian et al.: every pair of channels at every position."""
    matrices = [
        (one[:, :, None] * other[:, None]).mean((3, 4)) for one, other in (student, teacher)
    ]
    return F.mse_loss(*matrices)


def variational(means: Tensor, teacher: Tensor, variances: Tensor) -> Tensor:
    """VID, entry by entry."""
    of_channels = variances[:, None, None]
    return 0.5 * ((means - teacher) ** 2 / of_channels + of_channels.log()).mean()


def review(student: Tensor, teacher: Tensor) -> Tensor:
    """ReviewKD's hierarchical context loss, by torchdistill."""
    from torchdistill.losses import mid_level

    loss = mid_level.HierarchicalContextLoss("s", "output", "t", "output")
    return loss({"s": {"output": (student, None)}}, {"t": {"output": teacher}})


def orthogonal(student: Tensor, teacher: Tensor, projection: nn.Module) -> Tensor:
    """VkD, through a linear layer that torch keeps orthogonal."""
    return F.smooth_l1_loss(projection(student), F.layer_norm(teacher, teacher.shape[1:]))


def norm_and_direction(student: Tensor, teacher: Tensor, means: Tensor, target: Tensor) -> Tensor:
    """ND, one sample after the other."""
    total = student.new_zeros(())
    for own, theirs, label in zip(student, teacher, target, strict=True):
        mean = means[label.item()]
        longer = max(own.norm(p=2), theirs.norm(p=2))
        total = total + 1 - torch.dot(own, mean / mean.norm(p=2)) / longer
    return total / len(student)


def neighbours(student: Tensor, teacher: Tensor) -> Tensor:
    """PKT, of which nobody picks himself, as a mean over all pairs."""
    likely = []
    for embeddings in (student, teacher):
        rows = embeddings / embeddings.square().sum(1, keepdim=True).sqrt()
        alike = ((rows @ rows.T + 1) / 2).fill_diagonal_(0)
        likely.append(alike / alike.sum(1, keepdim=True))
    q, p = likely
    return (p * ((p + TINY) / (q + TINY)).log()).mean()


def congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """CC, by the paper's Taylor series of second order."""

    def kernel(embeddings: Tensor) -> Tensor:
        rows = F.normalize(embeddings)
        cosine, total = rows @ rows.T, torch.zeros_like(rows[:, :1])
        for p in range(3):
            total = total + 0.8**p / math.factorial(p) * cosine**p
        return math.exp(-0.8) * total

    return F.mse_loss(kernel(student), kernel(teacher))


def contrastive(
    student: Tensor,
    teacher: Tensor,
    heads: Sequence[nn.Module],
    memories: Sequence[Tensor],
    z: float,
) -> Tensor:
    """CRD: every sample with copies of all its negatives, and a memory that moves by half.

    The first rows of a memory are those of the batch, and no negatives.
    """
    both = [F.normalize(head(one)) for head, one in zip(heads, (student, teacher), strict=True)]
    samples, (size, width) = len(student), memories[0].shape
    drawn = torch.arange(samples, size).repeat(samples)
    noise = (size - samples) / size

    def probable(cosine: Tensor) -> Tensor:
        return (cosine / 0.07).exp() / (z * size)

    right = probable((both[0] * both[1]).sum(1))
    total = -2 * (right / (right + noise)).log().sum()
    for embeddings, memory in zip(both, reversed(memories), strict=True):
        copies = memory.index_select(0, drawn).view(samples, -1, width)
        wrong = probable(torch.bmm(copies, embeddings[:, :, None]))
        total = total - (noise / (wrong + noise)).log().sum()
    with torch.no_grad():
        for embeddings, memory in zip(both, memories, strict=True):
            moved = 0.5 * memory[:samples] + 0.5 * embeddings
            memory[:samples] = F.normalize(moved)
    return total / samples


def attention_relation(student: Tensor, teacher: Tensor) -> Tensor:
    """MiniLM's relations between tokens, in 12 heads."""
    logs = []
    for vectors in (student, teacher):
        samples, tokens, width = vectors.shape
        heads = vectors.view(samples, tokens, 12, width // 12).transpose(1, 2)
        logs.append((heads @ heads.mT / math.sqrt(width // 12)).log_softmax(-1))
    own, theirs = logs
    return F.kl_div(own, theirs.exp(), reduction="sum") / own[..., 0].numel()


def _kd(student: Tensor, teacher: Tensor, tau: float | Tensor) -> Tensor:
    own, theirs = (student / tau).log_softmax(1), (teacher / tau).softmax(1)
    return F.kl_div(own, theirs, reduction="batchmean") * tau**2
