"""The teacher: does it hold still, and does it see what the student sees?"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kdcourse.batch import Inputs
from kdcourse.doctor.look import Found, Look, remark_if

# Noise of a tenth of the inputs' own spread is not below it; a shift by a pixel is far below.
ALIKE = 0.99

# What is observed.


def part_in_train_mode(teacher: nn.Module) -> str:
    """Return the name of a part of a teacher that is in train mode, or nothing."""
    training = (name for name, part in teacher.named_modules() if part.training)
    found = next(training, None)
    return "" if found is None else found or type(teacher).__name__


def digest(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return a number for each tensor, which changes as its values do; None if there are none."""
    norms = [one.detach().float().norm().cpu() for one in tensors if one.numel()]
    return torch.stack(norms) if norms else None


def likeness(student_inputs: Inputs, teacher_inputs: Inputs) -> float | None:
    """Return how alike two nets' inputs are; None where they cannot be compared.

    Of integers, such as tokens, the share that is equal. Of others, the mean correlation over the
    last dimensions of each sample and channel: it is 1 where only brightness and contrast differ,
    as where each net has a normalisation of its own.
    """
    both = [
        [one for one in tree_leaves(nest) if isinstance(one, Tensor) and one.dim()]
        for nest in (student_inputs, teacher_inputs)
    ]
    pairs = list(zip(*both, strict=False))
    if not pairs or len(both[0]) != len(both[1]) or any(a.shape != b.shape for a, b in pairs):
        return None
    return min(_correlation(a, b) if a.is_floating_point() else _equal(a, b) for a, b in pairs)


def _equal(one: Tensor, other: Tensor) -> float:
    return float((one == other).float().mean())


def _correlation(one: Tensor, other: Tensor) -> float:
    if torch.equal(one, other):
        return 1.0
    first = min(2, one.dim() - 1)
    rows = (x.detach().float().flatten(first) for x in (one, other))
    a, b = (x - x.mean(dim=-1, keepdim=True) for x in rows)
    found = nn.functional.cosine_similarity(a, b, dim=-1)
    varied = (a.norm(dim=-1) > 0) | (b.norm(dim=-1) > 0)
    return float(found[varied].mean()) if bool(varied.any()) else 1.0


# What is judged.


def judge_mode(looks: Sequence[Look]) -> Found:
    """Judge whether the teacher is in eval mode."""
    parts = [look.in_train_mode for look in looks if look.in_train_mode is not None]
    if not parts:
        return None
    found = next(filter(None, parts), "")
    return remark_if(
        bool(found),
        "the teacher's mode",
        f"The teacher is in train mode ({found})",
        "so that its dropout and the other samples of a batch change what it says of each",
        "call teacher.eval() before the loop, or ask a FrozenTeacher, which stays in eval mode",
    )


def judge_stillness(looks: Sequence[Look]) -> Found:
    """Judge whether the teacher's weights and statistics stay as they are."""
    weights = [look.weights for look in looks if look.weights is not None]
    statistics = [look.statistics for look in looks if look.statistics is not None]
    if max(len(weights), len(statistics)) < 2:
        return None
    return [
        *remark_if(
            _differ(weights),
            "the teacher's weights",
            "The teacher's weights change while it teaches",
            "so that it drifts towards whatever its student says",
            "give the optimizer the student's parameters alone, and ask the teacher without "
            "gradients, unless it is meant to follow its student",
        ),
        *remark_if(
            _differ(statistics),
            "the teacher's statistics",
            "The teacher's running statistics (buffers) move while it teaches",
            "so that it is another teacher after every batch, also once it is in eval mode again",
            "call teacher.eval() before it is asked for the first time, and load its weights anew",
        ),
    ]


def _differ(digests: Sequence[Tensor]) -> bool:
    return any(not torch.equal(digests[0], one) for one in digests[1:])


def judge_gradients(looks: Sequence[Look]) -> Found:
    """Judge whether gradients reach the teacher."""
    reached = [look.reached for look in looks if look.reached is not None]
    if not reached:
        return None
    return remark_if(
        any(reached),
        "the teacher's gradients",
        "The loss sends gradients into the teacher's weights",
        "which costs a backward pass through it, and lets an optimizer pull it to the student",
        "ask it under torch.no_grad(), or freeze it by teacher.requires_grad_(False)",
    )


def judge_view(looks: Sequence[Look]) -> Found:
    """Judge whether both nets see the same."""
    seen = [look.likeness for look in looks if look.likeness is not None]
    if not seen:
        return None
    mean = sum(seen) / len(seen)
    return remark_if(
        mean < ALIKE,
        "the view",
        f"The teacher sees another view of the samples than the student (alike by {mean:.2f}, "
        "where 1 is the same)",
        "so that it describes something that the student is not shown",
        "augment once and show the result to both (augment=, or views=Consistent(…) of fit)",
    )
