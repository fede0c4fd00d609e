"""What both nets show of one batch, and how the objective judges it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse.batch import (
    Inputs,
    Output,
    blaming_argument,
    blaming_model,
    call,
    cast_like,
    differentiable,
    seen_of,
    views_of,
    weight_of,
    without_name,
)
from kdcourse.feature import prediction_gradient
from kdcourse.models import capture
from kdcourse.modes import evaluation_mode
from kdcourse.objective import Lesson, Objective, Outputs
from kdcourse.prediction_term import judge_of
from kdcourse.signatures import check_is
from kdcourse.training.device import guarding_hooks
from kdcourse.training.epochs import Epochs
from kdcourse.training.rules import check_enough, check_lesson, check_one_tensor, check_reached
from kdcourse.training.tally import ACCURACY
from kdcourse.training.teacher import FrozenTeacher, Teacher


class Judged(nn.Module):
    """Student and objective as one module: all that learns."""

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        compile: bool = False,
        output: Output | None = None,
    ):
        super().__init__()
        self.output = output
        self.student, self.objective = student, objective
        self.asked: Any = torch.compile(student) if compile else student
        self.known = False  # whether what goes together has been found out, by a first batch
        self.logits: Tensor  # of the present batch

    def lesson(self, inputs: Inputs, target: Tensor) -> Lesson:
        """Call the student, and return what it showed, but for its input gradient."""
        own, theirs = views_of(inputs)
        inputs, weight = weight_of(own)
        taught, _ = seen_of(theirs)
        inputs = cast_like(inputs, self.student)
        if self.objective.needs_input_gradient:
            check_one_tensor(without_name(inputs), self.objective)
            inputs = differentiable(inputs)
        layers = self.objective.student_layers
        told = blaming_model("student", inputs, first=not self.known)
        compiled = guarding_hooks(self.asked is not self.student)
        with capture(self.student, layers) as features, told, compiled:
            logits = call(self.asked, inputs, "student", self.output)
        learned = Outputs(logits=logits, features=features)
        seen = without_name(inputs)
        return Lesson(learned, target, inputs=seen, weight=weight, teacher_inputs=taught)

    def differentiate_inputs(self, lesson: Lesson) -> None:
        """Let the student show its input gradient, if the objective looks at it."""
        if self.objective.needs_input_gradient:
            with blaming_argument("objective", "differentiating by the inputs", not self.known):
                seen = lesson.student_logits, lesson.inputs, lesson.target
                lesson.student.input_gradient = prediction_gradient(*seen, create_graph=True)

    def forward(
        self,
        inputs: Inputs,
        target: Tensor,
        shown: Sequence[Outputs],
        shares: dict[str, Tensor] | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (its mean over several teachers) and all measurements, detached."""
        lesson = self.lesson(inputs, target)
        if not self.known:  # once: on a GPU, looking at values waits for them
            check_enough(self.objective, len(target))
            for one in shown or (None,):
                check_lesson(replace(lesson, teacher=one), self.objective)
        self.logits = lesson.student_logits.detach()
        self.differentiate_inputs(lesson)
        with blaming_argument("objective", "the objective", first=not self.known):
            judged = [
                self.objective.values(replace(lesson, teacher=one, again=number > 0), shares)
                for number, one in enumerate(shown or (None,))
            ]
        terms = judged[0]
        if len(judged) > 1:
            terms = {name: torch.stack([each[name] for each in judged]).mean() for name in terms}
        if not self.known and torch.is_grad_enabled():
            check_reached(self.objective, terms, lesson.student.features)
        self.known = True
        loss = self.objective.weighted(terms)
        values = {"loss": loss.detach(), **{name: value.detach() for name, value in terms.items()}}
        rated = judge_of(self.objective).right(self.logits, lesson)
        if rated is not None:
            right, of = rated
            accuracy = right / of.clamp(min=1)
            values[ACCURACY] = accuracy if shares is None else accuracy * shares[ACCURACY]
        return loss, values


def show(teacher: Teacher, inputs: Inputs, target: Tensor, objective: Objective) -> Outputs:
    """Return what a teacher shows of a batch, as far as an objective looks at it."""
    inputs, _ = weight_of(inputs)
    if not isinstance(teacher, FrozenTeacher):  # which alone looks for a name
        inputs = without_name(inputs)
    with torch.no_grad():
        shown = teacher.show(inputs, objective.teacher_layers)
    check_is("what the teacher's show returns", shown, Outputs)
    shown.logits, shown.probabilities = map(_ordinary, (shown.logits, shown.probabilities))
    shown.features = {name: _ordinary(value) for name, value in shown.features.items()}
    if objective.needs_input_gradient:
        check_one_tensor(without_name(inputs), objective)
        shown.input_gradient = teacher.input_gradient(inputs, target)
    return shown


def _ordinary(value: Any) -> Any:
    """Return a copy of what was computed in inference mode: no gradient could pass by it."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def first_lesson(
    objective: Objective, student: nn.Module, teacher: Teacher | None, source: Epochs
) -> Lesson:
    """Return what both nets show of a few samples, without gradients or a trace in them.

    By this, terms that do not know the sizes of both nets yet are prepared.
    """
    inputs, taught, target = source.sample()
    layers = objective.student_layers
    told = blaming_model("student", inputs)
    with told, evaluation_mode(student), capture(student, layers) as features, torch.no_grad():
        logits = call(student, inputs, "student", source.knobs.output)
        own = Outputs(logits=logits, features=features)
    seen, weight = seen_of(inputs)
    if objective.needs_input_gradient:
        check_one_tensor(seen, objective)
        own.input_gradient = torch.zeros_like(seen)
    theirs = None
    if teacher is not None:
        with blaming_model("teacher", taught):
            theirs = show(teacher, taught, target.clamp(min=0), objective)
    beside, _ = seen_of(taught)
    lesson = Lesson(own, target, theirs, inputs=seen, weight=weight, teacher_inputs=beside)
    steps = len(source) * source.knobs.accumulate
    if not objective.prepared:
        objective.prepare(lesson, seed=source.knobs.seed, steps_an_epoch=steps)
    return lesson
