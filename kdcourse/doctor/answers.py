"""What both nets say: is the teacher right, and in doubt, and are their logits of one size?"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdcourse.checks import are_probabilities
from kdcourse.doctor.look import Found, Look, Said, remark_if
from kdcourse.precision import at_least_float32

# Four standard deviations: that chance does so much happens once in 30,000 times, and a run is
# judged by several checks after every epoch.
SIGMAS = 4.0
# Labels from which on guessing can be told from knowing: of 10 classes, 25 % right from 10 %.
ENOUGH = 64
# Of what guessing leaves (Cohen's κ): slight agreement at most (Landis, Koch 1977). Of very many
# classes, that is far better than guessing still, and so twice as often right is enough.
SKILL, OFTEN = 0.2, 2.0
# And moderate agreement at least: the best order of the outputs of a net that has learned nothing
# is far better than guessing, too (27 % right of Fashion-MNIST's ten classes).
ORDERED = 0.4
# Labels are wrong more often than that, even MNIST's: 15 of 10,000 in its test set (Northcutt et
# al. 2021, arXiv 2103.14749). A sound teacher of images that it knows by heart doubts a percent.
SURE = 0.001
SPEAKING = 0.1  # the doubt at which a teacher is said to speak
TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
PLACES, LOGITS = 2**12, 2**22  # of a batch that are looked at, at most
MANY = 1000  # classes, from which on their order is not tried: its search grows with the cube
# A decade: a softmax of logits ten times as large is as good as hard, of a tenth as good as flat.
FAR = 10.0
LATER = 3  # looks, of epochs that may be short, until logits that began small should have grown


# What is observed.


def what_both_say(
    student: Tensor, teacher: Tensor | None, target: Tensor | None, temperature: float | None
) -> Said:
    """Observe what both nets say, from rows of logits ``(P, K)``, one a place that counts.

    Of very many places, as a batch of texts has, some will do.
    """
    stride = max(1, len(student) // PLACES, student.numel() // LOGITS)
    student = student[::stride]
    teacher = None if teacher is None else teacher[::stride]
    target = None if target is None else target[::stride]
    said = student.detach().argmax(dim=-1).cpu()
    known = None if target is None else target.cpu()
    nets = {"student": student, "teacher": teacher}
    softmax = tuple(who for who, one in nets.items() if one is not None and are_probabilities(one))
    if teacher is None or teacher.shape != student.shape:
        return Said(known, said, softmax=softmax)
    return Said(
        known,
        said,
        teacher.detach().argmax(dim=-1).cpu(),
        (logit_scale(student), logit_scale(teacher)),
        doubt(teacher),
        temperature,
        softmax,
    )


def doubt(logits: Tensor) -> Tensor:
    """Return the mean probability off the first class, by temperature, of logits ``(P, K)``."""
    logits = at_least_float32(logits.detach())
    off = [1 - (logits / tau).softmax(dim=-1).amax(dim=-1).mean() for tau in TEMPERATURES]
    return torch.stack(off).cpu()


def logit_scale(logits: Tensor) -> float:
    """Return how far the logits ``(P, K)`` of a place spread around their mean."""
    logits = at_least_float32(logits.detach())
    return float((logits - logits.mean(dim=-1, keepdim=True)).square().mean().sqrt())


def labelled(looks: Sequence[Look]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the targets, and what student and teacher say there, wherever there is a label."""
    kept: list[tuple[Tensor, Tensor, Tensor]] = [(torch.empty(0, dtype=torch.int64),) * 3]
    for look in looks:
        one = look.said
        if one is not None and one.target is not None and one.teacher is not None:
            known = one.target >= 0
            kept.append((one.target[known], one.student[known], one.teacher[known]))
    target, student, teacher = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return target, student, teacher


# What is judged.


def judge_outputs(looks: Sequence[Look]) -> Found:
    """Judge whether what both return are logits."""
    said = [look.said for look in looks if look.said]
    if not said:
        return None
    both = [who for who in ("student", "teacher") if all(who in one.softmax for one in said)]
    return remark_if(
        bool(both),
        "the outputs",
        f"What the {' and the '.join(both)} return{'s' * (len(both) == 1)} are probabilities, not "
        "logits: none is negative, and they sum to one",
        "so that losses take the softmax of a softmax, in which no class is more than e times as "
        "likely as another",
        "leave out the softmax at the end of the net, or return the logarithm of what it gives",
    )


def judge_knowledge(looks: Sequence[Look]) -> Found:
    """Judge whether the teacher knows the labels, perhaps in another order of the classes."""
    target, _, said = labelled(looks)
    if len(target) < ENOUGH:
        return None
    right, guessed = _right_and_guessed(target, said)
    taken, better = _order(target, said) or ([], 0.0)
    if better > guessed + ORDERED * (1 - guessed):
        listed = ", ".join(map(str, taken[:20])) + ", …" * (len(taken) > 20)
        return remark_if(
            True,
            "the order of classes",
            f"The teacher has the classes in another order: it is right about {right:.0%} of what "
            f"it teaches, and about {better:.0%} once its outputs are taken as [{listed}]",
            "so that it teaches wrong classes with confidence",
            "reorder its outputs (logits[:, order]), or train it on the same class indices",
        )
    most = right + SIGMAS * _deviation(right, len(target))
    return remark_if(
        most < guessed + SKILL * (1 - guessed) and right < OFTEN * guessed,
        "the teacher's accuracy",
        f"The teacher is hardly better than chance: right about {right:.0%} of what it teaches, "
        f"and guessing would be about {guessed:.0%}",
        "so that all it adds is noise",
        "see that its weights are loaded, that its inputs are normalised as in its own training, "
        "and that the classes have its order",
    )


def _right_and_guessed(target: Tensor, said: Tensor) -> tuple[float, float]:
    """Return how many answers are right, and how many would be that ignore the labels."""
    classes = int(torch.cat([target, said]).max()) + 1
    shares = [torch.bincount(one, minlength=classes) / len(target) for one in (target, said)]
    return float((target == said).float().mean()), float(shares[0] @ shares[1])


def has_learned(said: Said | None) -> bool:
    """Whether a student is surely better than chance at the places of a look."""
    if said is None or said.target is None or not bool((said.target >= 0).any()):
        return False
    known = said.target >= 0
    right, guessed = _right_and_guessed(said.target[known], said.student[known])
    least = right - SIGMAS * _deviation(right, int(known.sum()))
    return least > guessed + SKILL * (1 - guessed)


def _order(target: Tensor, said: Tensor) -> tuple[list[int], float] | None:
    """Return which output of the teacher is which class, if another order is better, and how good.

    The order is sought on half of the samples, drawn because their own order may go by the class,
    and judged on the others: the best of all orders would always win on the samples that it was
    made for. By McNemar's test, only samples that one of the two gets right and the other does not
    say which is better.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and fit does not need it

    classes = int(torch.cat([target, said]).max()) + 1
    if classes > MANY:
        return None
    drawn = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
    target, said = target[drawn], said[drawn]
    counts = torch.bincount(target[::2] * classes + said[::2], minlength=classes**2)
    # Where nothing is known of a class, it stays where it is.
    gain = counts.view(classes, classes).double() + torch.eye(classes, dtype=torch.float64) / 2
    _, order = linear_sum_assignment(gain.numpy(), maximize=True)
    target, said = target[1::2], said[1::2]
    before, after = said == target, said == torch.from_numpy(order)[target]
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    if gained - lost <= SIGMAS * math.sqrt(gained + lost):
        return None
    return order.tolist(), float(after.float().mean())


def _deviation(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)


def judge_against_student(looks: Sequence[Look], validation_accuracy: float | None) -> Found:
    """Judge whether the teacher knows less than the student.

    A student may know by heart what it has learned from, and validation images are not augmented:
    it has the lower of its accuracies there and on the batches that the teacher was asked about.
    """
    target, own, said = labelled([look for look in looks if not look.early])
    if len(target) < ENOUGH or validation_accuracy is None:
        return None
    right = float((target == said).float().mean())
    student = min(validation_accuracy, float((target == own).float().mean()))
    spread = math.hypot(_deviation(right, len(target)), _deviation(student, len(target)))
    return remark_if(
        right < student - SIGMAS * spread,
        "teacher and student",
        f"The teacher is right about {right:.0%} of what it teaches, and the student about "
        f"{student:.0%}",
        "so that the student is held back by who knows less",
        "see that the teacher's inputs are normalised as in its own training, take another "
        "teacher, or a smaller weight",
    )


def judge_sureness(looks: Sequence[Look]) -> Found:
    """Judge whether the soft targets say more than labels."""
    asked = [a for look in looks if (a := look.said) and a.doubt is not None and a.temperature]
    if not asked:
        return None
    temperature = asked[-1].temperature
    off = torch.stack([one.doubt for one in asked if one.doubt is not None]).mean(dim=0)
    now = _at(off, temperature or 1.0)
    speaks = [
        tau for tau, share in zip(TEMPERATURES, off.tolist(), strict=True) if share > SPEAKING
    ]
    memorised = "take a teacher that has not memorised these samples"
    advice = (
        f"raise the temperature (at τ = {speaks[0]:g} it would put a tenth there), or {memorised}"
        if speaks
        else f"{memorised}, for no τ up to 32 would put a tenth there"
    )
    return remark_if(
        now < SURE,
        "soft targets",
        f"The teacher is too sure to teach at τ = {temperature:g}: {now:.1e} of its probability is "
        "off its first class",
        "so that its soft targets are labels and hold no doubt to learn from",
        advice,
    )


def _at(off: Tensor, temperature: float) -> float:
    """Return the doubt at a temperature, between those at which it was observed."""
    known = torch.tensor(TEMPERATURES, dtype=off.dtype)
    place = int(torch.searchsorted(known, temperature).clamp(1, len(known) - 1))
    share = (temperature - known[place - 1]) / (known[place] - known[place - 1])
    return float(torch.lerp(off[place - 1], off[place], share.clamp(0, 1)))


def judge_scales(looks: Sequence[Look]) -> Found:
    """Judge whether the student's logits are of the teacher's size.

    They may be small at first, and grow; they are not large at any time.
    """
    every = [(k.early, k.said.scales) for k in looks if k.said and k.said.scales]
    ratios = [(early, own / max(theirs, 1e-30)) for early, (own, theirs) in every]
    later = [ratio for early, ratio in ratios if not early]
    if not ratios:
        return None
    large = min(ratio for _, ratio in ratios) > FAR
    small = len(later) >= LATER and max(later[-LATER:]) < 1 / FAR
    last = ratios[-1][1]
    return remark_if(
        large or small,
        "the scale of logits",
        f"The student's logits are {last:.2g} times as large as the teacher's",
        "so that one of them is as good as hard, or flat, at any temperature that suits the other",
        "look at the initialisation of the last layer, or at a factor on one net's outputs, and "
        "see that both are logits and not probabilities",
    )
