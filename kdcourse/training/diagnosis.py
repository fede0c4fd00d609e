"""A doctor for :func:`fit`: between steps, it looks at what the last one has seen.

Nothing is drawn, and no teacher is asked again: what it showed in the step is kept until the next.
So a step may be captured, compiled, or made in parts, of which the last is looked at. For the
gradients of the terms, the student is called once more, on a few samples, uncompiled, and put back
as it was. In many processes, each looks at its own share, and the main one reports.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdcourse.batch import SeparateViews, map_samples, seen_of, weight_of
from kdcourse.checks import check_positive
from kdcourse.doctor import teacher as teachers
from kdcourse.doctor.answers import what_both_say
from kdcourse.doctor.doctor import FIRST, Doctor
from kdcourse.doctor.features import dead_shares
from kdcourse.doctor.findings import Findings
from kdcourse.doctor.look import Gradients, Look, Said
from kdcourse.doctor.student import judge_behind
from kdcourse.doctor.terms import gradients_of
from kdcourse.errors import ArgumentError
from kdcourse.logit import LogitKD
from kdcourse.modes import kept_buffers, kept_modes
from kdcourse.objective import Lesson, Objective, Outputs
from kdcourse.prediction_term import EntryTerm, judge_of
from kdcourse.predictions import place_rows
from kdcourse.randomness import own_randomness
from kdcourse.signatures import checked
from kdcourse.training.history import History
from kdcourse.training.judged import Judged
from kdcourse.training.teacher import Teacher

if TYPE_CHECKING:
    from kdcourse.training.run import Run

# Samples that gradients are computed of: at first, what they agree on is told from noise; later,
# only their length counts, in decades.
FEW, FEWER = 32, 16

Part = tuple[SeparateViews, Tensor, Sequence[Outputs], Tensor]


class Diagnosis(Doctor):
    """Looks at a run between its steps.

    Args:
        run: A student with its objective and, if it is one of its own, its teacher.
    """

    def __init__(self, run: "Run"):
        super().__init__()
        self.run = run
        self.part: Part | None = None  # what the last step has seen, or the last part of it,
        self.replayed: Part | None = None  # and where a replay puts this

    def see(
        self, inputs: SeparateViews, target: Tensor, shown: Sequence[Outputs], logits: Tensor
    ) -> None:
        """Keep what a step works with."""
        self.part = inputs, target, shown, logits

    def captured(self) -> None:
        """Take note that what was seen last lies where every replay will put the like."""
        self.replayed = self.part

    def advance(self, replayed: bool) -> None:
        """Take note of how the last step was taken."""
        if replayed:
            self.part = self.replayed

    def after_step(self, taken: int) -> None:
        """Look at one of the first batches."""
        if taken <= FIRST:
            self.look(early=True)

    def look(self, *, early: bool = False) -> None:
        """Look at what the last step has seen."""
        if self.part is None:
            return
        inputs, target, shown, logits = self.part
        teacher = self._frozen()
        seen: dict[str, Any] = {"early": early, "said": self._said(inputs, target, shown, logits)}
        dead: dict[str, float] = {}
        for one in shown:
            dead |= dead_shares("teacher", one.features)
        if teacher is not None and not getattr(teacher, "recorded", False):
            seen |= {
                "in_train_mode": teachers.part_in_train_mode(teacher),
                "weights": teachers.digest([*teacher.parameters()]),
                "statistics": teachers.digest([*teacher.buffers()]),
                "reached": any(_tensors_require_gradients(one) for one in shown),
                "likeness": teachers.likeness(*(weight_of(one)[0] for one in inputs)),
            }
        gradients, own = self._gradients(inputs, target, shown, sampled=early)
        self.looks.append(Look(gradients=gradients, dead=dead | own, **seen))

    def _frozen(self) -> Teacher | None:
        """Return a teacher that is to stay as it is, and to know something from the beginning."""
        teacher = self.run.teacher
        return None if teacher is None or teacher.follows_student else teacher

    def _said(
        self, inputs: SeparateViews, target: Tensor, shown: Sequence[Outputs], logits: Tensor
    ) -> Said | None:
        """Observe what both nets say where predictions are compared."""
        objective = self.run.objective
        judge = judge_of(objective)
        if isinstance(judge, EntryTerm) or logits.dim() < 2:
            return None
        seen, weight = seen_of(inputs.student)
        lesson = Lesson(Outputs(logits=logits), target, inputs=seen, weight=weight)
        rows, dim = place_rows(logits, judge.class_dim), judge.class_dim
        labels = judge.judged(lesson)
        known = None if labels is None else target.masked_fill(~labels, -1).flatten()
        taught = (
            _logits(shown[0]) if self._frozen() is not None and _answers_teach(objective) else None
        )
        if taught is not None:
            taught = place_rows(taught, dim) if taught.shape == logits.shape else None
        counts = judge.counting(lesson)
        if counts is not None:
            counted = counts.flatten() > 0
            rows = rows[counted]
            taught = None if taught is None else taught[counted]
            known = None if known is None else known[counted]
        if not len(rows):
            return None
        return what_both_say(rows, taught, known, _temperature(objective))

    def _gradients(
        self, inputs: SeparateViews, target: Tensor, shown: Sequence[Outputs], *, sampled: bool
    ) -> tuple[Gradients, dict[str, float]]:
        """Observe the terms' gradients on a few samples, and the student's layers there."""
        run = self.run
        least = max(term.least for _, term in run.objective.parts())
        whole = any(one.top_k is not None for one in shown)
        stride = 1 if whole else max(1, len(target) // max(FEW if sampled else FEWER, least))
        some = partial(_few, samples=len(target), stride=stride - 1 + stride % 2)
        few, labels = SeparateViews(*map(some, inputs)), some(target)
        taught = [one.map(some) for one in shown]
        weights = [one for one in run.student.parameters() if one.requires_grad]
        with (
            own_randomness(run.device),
            kept_modes([run.student]),
            kept_buffers(run.student),
            torch.enable_grad(),
        ):
            objective = copy.deepcopy(run.objective)  # some terms change with every batch
            judged = Judged(run.student, objective, output=run.knobs.output)
            with run.precision():
                lesson = judged.lesson(few, labels)
                judged.differentiate_inputs(lesson)
                values = [
                    objective.values(replace(lesson, teacher=one, again=number > 0))
                    for number, one in enumerate(taught or (None,))
                ]
            terms = {
                name: weight * torch.stack([one[name] for one in values]).mean()
                for name, (weight, _) in zip(objective.names, objective.parts(), strict=True)
                if weight
            }
            # A teacher that begins as its student pulls it back to where both began.
            follows = run.teacher is not None and run.teacher.follows_student
            compared = "" if follows else _labels(objective)
            found = gradients_of(terms, weights, compared, sampled=sampled)
        return found, dead_shares("student", lesson.student.features)


def _labels(objective: Objective) -> str:
    """Return the name of the term on labels that counts, or nothing."""
    parts = zip(objective.names, objective.parts(), strict=True)
    return next((name for name, (w, t) in parts if w and t.mean_over == "labels"), "")


def _temperature(objective: Objective) -> float | None:
    """Return the temperature of the first term that compares softened predictions."""
    places = (term.at_places for _, term in objective.parts())
    return next((one.temperature for one in places if isinstance(one, LogitKD)), None)


def _answers_teach(objective: Objective) -> bool:
    """Whether a term looks at what the teacher predicts."""
    return any(t.needs_teacher and not t.teacher_layers for _, t in objective.parts())


def _logits(shown: Outputs) -> Tensor | None:
    """Return a teacher's logits, or those that its probabilities come from, but for a constant."""
    if shown.logits is None and shown.probabilities is not None:
        return shown.probabilities.clamp_min(1e-30).log()
    return shown.logits


def _tensors_require_gradients(shown: Outputs) -> bool:
    tensors = [shown.logits, shown.probabilities, *shown.features.values()]
    return any(one is not None and one.requires_grad for one in tensors)


def _few(given: Any, samples: int, stride: int) -> Any:
    """Return every so-manieth sample: all, or an even number.

    As the stride is odd, there are as many of each of two views that stand side by side, and about
    as many where one follows the other.
    """
    count = -(-samples // stride)
    kept = samples if stride == 1 else stride * (count - count % 2)
    return map_samples(lambda x: x[:kept:stride], given, samples)


@checked
def compare_with_labels_alone(
    history: History, alone: History, samples: int | None = None
) -> Findings:
    """Look whether a student has begun to be worse than the same student by labels alone.

    Args:
        history: That of the distillation, with a validation set.
        alone: That of the training on labels alone, epoch by epoch on the same validation set.
        samples: The number of samples in that set, by which chance is told from a difference;
            without it, a twentieth of the measure.

    Raises:
        ArgumentError: Either history has no validation.
    """
    by = history.best_by
    for name, one in (("history", history), ("alone", alone)):
        if not one.rows or by not in one.rows[-1]:
            raise ArgumentError(name, f"{name} has no {by}: train with a validation set")
    if samples is not None:
        check_positive(samples=samples)
    found = judge_behind(history.rows, alone.rows, by, history.lowest, samples)
    return Findings(found or [], ["labels alone"] if found is not None else [])
