"""What the losses of ``kdcourse.methods`` cost, forward and backward, against their authors' form.

Both sides compute the same, up to a factor that the loss's docstring tells, at a small size, where
the fixed costs of a loss show, and at those that occur in practice.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdcourse.course.bench import authors, losses
from kdcourse.course.bench.compare import Store
from kdcourse.course.bench.losses import Cost, cost
from kdcourse.course.claims.results import RESULTS
from kdcourse.data import replay
from kdcourse.methods.attention_relation import attention_relation_loss
from kdcourse.methods.channel_wise import channel_wise_loss
from kdcourse.methods.chunk_likelihood import chunk_likelihood_loss
from kdcourse.methods.contrastive import CRD
from kdcourse.methods.correlation import correlation_congruence_loss
from kdcourse.methods.curriculum_temperature import curriculum_kd_loss
from kdcourse.methods.dist import dist_loss
from kdcourse.methods.flow import flow_loss
from kdcourse.methods.hard_distillation import hard_distillation_loss
from kdcourse.methods.mixtures import generalized_jsd_loss, skewed_kl_loss
from kdcourse.methods.multi_level import multi_level_loss
from kdcourse.methods.neighbours import neighbour_loss
from kdcourse.methods.neuron_selectivity import neuron_selectivity_loss
from kdcourse.methods.norm_and_direction import norm_and_direction_loss
from kdcourse.methods.one_for_all import ofa_loss
from kdcourse.methods.orthogonal import OrthogonalProjection
from kdcourse.methods.reused_classifier import matched_features_loss
from kdcourse.methods.review import hierarchical_context_loss
from kdcourse.methods.scale_decoupled import scale_decoupled_loss
from kdcourse.methods.top_k import top_k_answers, topk_kd_loss
from kdcourse.methods.transformed_teacher import ttm_loss
from kdcourse.methods.universal_logit import universal_logit_loss
from kdcourse.methods.variational import variational_loss
from kdcourse.methods.virtual_teacher import teacher_free_loss
from kdcourse.objective import Lesson, Outputs
from kdcourse.training.device import one_thread

Inputs = Sequence[Any]
Shape = tuple[int, ...]
SIZES: dict[str, tuple[Shape, ...]] = {  # the first is the small one
    "logits": ((16, 10), (256, 1000)),
    "a vocabulary": ((16, 64), (128, 32_000)),
    "maps of logits": ((8, 10, 4, 4), (64, 100, 8, 8)),
    "features": ((8, 16, 4, 4), (32, 64, 28, 28)),
    "late features": ((8, 16, 4, 4), (64, 64, 8, 8)),
    "two layers": ((2, 8, 16, 4, 4), (2, 32, 64, 28, 28)),
    "embeddings": ((16, 32), (128, 512)),
    "many embeddings": ((16, 32), (128, 512), (1024, 64)),
    "remembered": ((4, 32), (64, 512)),
    "tokens": ((4, 8, 24), (16, 128, 768)),
}


@dataclass(frozen=True)
class Method:
    """A loss of ours and its authors' form, which take the same.

    Attributes:
        ours, other: Functions of these inputs.
        sizes: Which of ``SIZES``: the shapes of the student's input.
        factor: Other ÷ ours, for such a shape.
        inputs: Makes them for a shape and a dtype, the student's first, which learns.
    """

    ours: Callable[..., Tensor]
    other: Callable[..., Tensor]
    sizes: str
    factor: Callable[[Shape], float] = lambda shape: 1.0
    inputs: Callable[[Shape, torch.dtype], Inputs] = lambda shape, dtype: pair(shape, dtype)


STORE = Store(RESULTS / "bench-methods.json", "python -m kdcourse bench --methods", Cost)
load = STORE.load


def measure(
    *,
    rounds: int = 15,
    store: Store[Cost] = STORE,
    progress: bool = True,
) -> list[Cost]:
    """Compare every method on one thread, store the costs with the versions, and return them."""
    store.check()
    work = [(name, shape) for name, one in METHODS.items() for shape in SIZES[one.sizes]]
    costs = []
    with one_thread():
        for name, shape in tqdm(work, disable=not progress, unit="loss"):
            method = METHODS[name]
            inputs = method.inputs(shape, torch.float32)
            costs.append(cost(name, method.ours, method.other, inputs, rounds))
    store.save(costs, packages=["torchdistill"], rounds=rounds)
    return costs


def table(costs: Sequence[Cost]) -> str:
    """Return the costs as a table in Markdown, the best first."""
    return losses.table(sorted(costs, key=lambda one: one.ratio), "authors")


def about(costs: Sequence[Cost]) -> str:
    """Say in words where ours is slower, and by how much."""
    tiny = {(name, SIZES[one.sizes][0]) for name, one in METHODS.items()}
    small = [one for one in costs if (one.loss, tuple(one.shape)) in tiny]
    real = sorted((one for one in costs if one not in small), key=lambda one: one.ratio)
    middle = statistics.median(one.ratio for one in real)
    more = sorted(1e6 * one.ours * (1 - 1 / one.ratio) for one in small if one.ratio > 1)
    slower = (
        f"it is slower in {len(more)} of {len(small)}, by {statistics.median(more):.0f} µs in the "
        f"median and {more[-1]:.0f} µs at most"
        if more
        else "it is never slower"
    )
    return (
        f"At sizes that occur in practice, ours takes {middle:.2f} times as long as the authors' "
        f"form in the median, and {real[-1].ratio:.2f} times at most ({real[-1].loss}). At tiny "
        f"sizes {slower}: what checks the arguments, guards against zeros, extreme magnitudes and "
        "half precision, and calls gradients that are written by hand, costs the same however "
        "little there is to compute."
    )


def pair(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Draw what student and teacher show."""
    draw = replay(0)
    student, teacher = (2 * torch.randn(shape, generator=draw, dtype=dtype) for _ in range(2))
    return student, teacher


def _own_label(shape: Shape, dtype: torch.dtype) -> Inputs:
    """The teacher's decision is the label: what is right is then what agrees with the whole."""
    student, teacher = pair(shape, dtype)
    return student, teacher, teacher.flatten(2).mean(2).argmax(1)


def _labelled(shape: Shape, dtype: torch.dtype) -> Inputs:
    return *pair(shape, dtype), _labels(shape)


def _labels(shape: Shape, classes: int | None = None) -> Tensor:
    return torch.randint(classes or shape[1], shape[:1], generator=replay(1))


def _few(shape: Shape, dtype: torch.dtype) -> Inputs:
    """The largest 16 of the teacher's predictions."""
    student, teacher = pair(shape, dtype)
    return student, *top_k_answers(teacher)[:2]


def _with_level(shape: Shape, dtype: torch.dtype) -> Inputs:
    return *pair(shape, dtype), torch.ones((), dtype=dtype, requires_grad=True)


def _with_variances(shape: Shape, dtype: torch.dtype) -> Inputs:
    variances = torch.linspace(0.5, 2, shape[1], dtype=dtype, requires_grad=True)
    return *pair(shape, dtype), variances


def _with_means(shape: Shape, dtype: torch.dtype) -> Inputs:
    means = torch.randn(100, shape[1], generator=replay(2), dtype=dtype)
    return *pair(shape, dtype), means, _labels(shape, 100)


def _virtual_teacher(logits: Tensor, target: Tensor) -> Tensor:
    """The loss whose teacher is theirs: they soften probabilities as if they were logits."""
    others = logits.shape[1] - 1
    gap = (0.99 - 0.01 / others) / 20
    return teacher_free_loss(logits, target, 1.0, correct=1 / (1 + others * math.exp(-gap)))


def _lesson(student: Tensor, teacher: Tensor) -> Lesson:
    """Embeddings of samples without labels."""
    shown = [Outputs(features={"embedding": features}) for features in (student, teacher)]
    return Lesson(shown[0], torch.full((len(student),), -1), shown[1])


def _projected(shape: Shape, dtype: torch.dtype) -> Inputs:
    """A teacher of twice the width, and the same projection in both forms."""
    student, teacher = pair(shape, dtype)
    teacher = torch.cat([teacher, teacher.square()], dim=1)
    term = OrthogonalProjection(seed=0)
    term.prepare(_lesson(student, teacher))
    linear = nn.Linear(shape[1], 2 * shape[1], bias=False, dtype=dtype)
    projection = nn.utils.parametrizations.orthogonal(linear)
    projection.weight = term.projection().detach()
    return student, teacher, term, projection


def _remembering(shape: Shape, dtype: torch.dtype) -> Inputs:
    """A memory of 256 batches, in which theirs has room for the batch, too."""
    student, teacher = pair(shape, dtype)
    term = CRD(memory=256 * len(student), seed=0)
    term.prepare(_lesson(student, teacher))
    held = term.student_memory, term.teacher_memory
    memories = [torch.cat([memory[: len(student)], memory]) for memory in held]
    return student, teacher, term, memories


METHODS = {
    "DIST": Method(dist_loss, authors.dist, "logits"),
    "TTM": Method(ttm_loss, authors.softened_teacher, "logits"),
    "WTTM": Method(
        partial(ttm_loss, weighted=True), partial(authors.softened_teacher, weighted=True), "logits"
    ),
    "generalised JSD": Method(generalized_jsd_loss, authors.generalized_jsd, "logits"),
    "skewed KL": Method(skewed_kl_loss, authors.skewed_kl, "logits"),
    "ULD": Method(universal_logit_loss, authors.universal_logit, "logits"),
    "ALM": Method(
        chunk_likelihood_loss,
        authors.chunk_likelihood,
        "a vocabulary",
        lambda shape: 1 / 100,
        _labelled,
    ),
    "top-k": Method(topk_kd_loss, authors.top_k, "a vocabulary", inputs=_few),
    "MLLD": Method(multi_level_loss, authors.multi_level, "logits"),
    "CTKD": Method(curriculum_kd_loss, authors.curriculum, "logits", inputs=_with_level),
    "SDD": Method(
        lambda student, teacher, target: scale_decoupled_loss(student, teacher),
        authors.scale_decoupled,
        "maps of logits",
        lambda shape: 1 / 21,
        _own_label,
    ),
    "teacher-free": Method(
        _virtual_teacher,
        authors.teacher_free,
        "logits",
        lambda shape: 100 / shape[1],
        lambda shape, dtype: (pair(shape, dtype)[0], _labels(shape)),
    ),
    "OFA": Method(partial(ofa_loss, gamma=1.0), authors.one_for_all, "logits", inputs=_labelled),
    "hard distillation": Method(hard_distillation_loss, authors.hard, "logits"),
    "CWD": Method(channel_wise_loss, authors.channel_wise, "features"),
    "NST, polynomial": Method(neuron_selectivity_loss, authors.neuron_selectivity, "late features"),
    "NST, linear": Method(
        partial(neuron_selectivity_loss, kernel="linear"), authors.linear_selectivity, "features"
    ),
    **{
        name: Method(
            lambda student, teacher: flow_loss(student.unbind(), teacher.unbind()),
            form,
            "two layers",
            lambda shape: 1 / shape[2] ** 2,
        )
        for name, form in {"FSP": authors.flow, "FSP, pair by pair": authors.flow_of_pairs}.items()
    },
    "VID": Method(variational_loss, authors.variational, "features", inputs=_with_variances),
    "ReviewKD's HCL": Method(hierarchical_context_loss, authors.review, "features"),
    "VkD": Method(
        lambda student, teacher, term, linear: term.loss(_lesson(student, teacher)),
        lambda student, teacher, term, linear: authors.orthogonal(student, teacher, linear),
        "embeddings",
        inputs=_projected,
    ),
    "ND": Method(
        norm_and_direction_loss, authors.norm_and_direction, "embeddings", inputs=_with_means
    ),
    "SimKD": Method(matched_features_loss, nn.functional.mse_loss, "features"),
    "PKT": Method(
        neighbour_loss, authors.neighbours, "many embeddings", lambda shape: 1 / shape[0]
    ),
    "CC": Method(correlation_congruence_loss, authors.congruence, "many embeddings"),
    "CRD": Method(
        lambda student, teacher, term, memories: term.loss(_lesson(student, teacher)),
        lambda student, teacher, term, memories: authors.contrastive(
            student,
            teacher,
            (term.student_head, term.teacher_head),
            memories,
            term._normalizer,
        ),
        "remembered",
        inputs=_remembering,
    ),
    "AttentionRelation": Method(attention_relation_loss, authors.attention_relation, "tokens"),
}
