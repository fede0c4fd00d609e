r"""Online distillation: K students learn at once, each also from what the others predict.

.. math:: L_k = L(f_k) + \frac{1}{K - 1} \sum_{l \ne k} dist(f_k, f_l)

No teacher was trained before. A peer is only listened to, without gradients, and as it learns: in
train mode. (Its running statistics of batch norm lag behind weights that still change fast; nets
that learn from each other's eval mode lose their way together, the surer, the larger τ or λ.)

Source: Zhang et al. 2018 (arXiv 1706.00384), eq. 7 and algorithm 1.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kdcourse.batch import Inputs, Output, SeparateViews, views_of
from kdcourse.checks import check_choice
from kdcourse.errors import ArgumentError
from kdcourse.logit import CrossEntropy, LogitKD
from kdcourse.metrics import Samples
from kdcourse.modes import kept_buffers
from kdcourse.objective import Objective, Outputs
from kdcourse.signatures import checked
from kdcourse.training.epochs import Batches, Epochs
from kdcourse.training.fit import fit_learner
from kdcourse.training.history import History
from kdcourse.training.judged import first_lesson
from kdcourse.training.knobs import Knobs, takes_knobs
from kdcourse.training.learner import Learner
from kdcourse.training.parallel import Counts
from kdcourse.training.rating import Rating
from kdcourse.training.rules import check_apart, check_student
from kdcourse.training.run import Run, Shown
from kdcourse.training.teacher import FrozenTeacher, Teacher

UPDATES = ("alternating", "simultaneous")


class Peer(FrozenTeacher):
    """A model that is listened to while it learns: in train mode, without a trace left in it."""

    def __init__(self, model: nn.Module, output: Output | None = None):
        Teacher.__init__(self)
        self.model = model
        self.output = output

    def show(self, inputs: Inputs, layers: Sequence[str] = ()) -> Outputs:
        with kept_buffers(self.model):
            return super().show(inputs, layers)

    def input_gradient(self, inputs: Inputs, target: Tensor) -> Tensor:
        with kept_buffers(self.model):
            return super().input_gradient(inputs, target)

    def _stay_in_eval_mode(self) -> None:
        pass


class Peers(Learner):
    """Several students that learn from the same batches and from each other.

    Args:
        runs: One of each student. A student whose objective needs no teacher listens to nobody.
        updates: ``"alternating"``: a student learns from what its peers predict after their last
            update, asked again for every student. ``"simultaneous"``: all predict, then all learn.
    """

    def __init__(self, runs: Sequence[Run], updates: str = "alternating"):
        check_choice("updates", updates, UPDATES)
        self.runs = list(runs)
        self.students = [run.student for run in self.runs]
        self.objectives = [run.objective for run in self.runs]
        self.device = self.runs[0].device
        self.diagnoses = [one for run in self.runs for one in run.diagnoses]
        self.counts = Counts(self.device, self.objectives)
        for run in self.runs:
            run.counts = self.counts
        self.updates = updates
        self.unreplayable = next(filter(None, (run.apart for run in runs)), "")
        if self.unreplayable:  # a student may listen to another's next weights: none steps apart
            for run in self.runs:
                run.apart = ""

    def ready(self) -> None:
        for run in self.runs:
            run.ready()

    def learn(self, inputs: Inputs, target: Tensor) -> dict[str, Tensor]:
        """Let every student learn from one batch; measurements are named by its number."""
        own, peers = views_of(inputs)
        shown: list[Shown] = [run.ask(self._peers(run), peers, target) for run in self.runs]
        if self.updates == "simultaneous":  # all are asked now, and not when their turn comes
            shown = [list(asked) for asked in shown]
        turns = zip(self.runs, shown, strict=True)
        return self._each(
            run.learn(SeparateViews(own, peers), target, asked) for run, asked in turns
        )

    def advance(self) -> None:
        for run in self.runs:
            run.advance()

    def captured(self) -> None:
        for run in self.runs:
            run.captured()

    @property
    def rated(self) -> dict[str, list[nn.Module]]:
        return self._each(run.rated for run in self.runs)

    @property
    def watched(self) -> dict[str, object]:
        return self._each(run.watched for run in self.runs)

    def _peers(self, run: Run) -> list[Teacher]:
        """Return those to whom a student listens: nobody, if its objective needs no teacher."""
        if not run.objective.needs_teacher:
            return []
        others = (peer for peer in self.students if peer is not run.student)
        return [Peer(peer, run.knobs.output) for peer in others]

    def start(self) -> None:
        for run in self.runs:
            run.start()

    def finish(self) -> None:
        for run in self.runs:
            run.finish()

    def rates(self) -> dict[str, float]:
        return self._each(run.rates() for run in self.runs)

    def validate(self, samples: Samples) -> dict[str, float]:
        return self._each(run.validate(samples) for run in self.runs)

    @property
    def ratings(self) -> list[Rating]:
        return [run.rating for run in self.runs]

    @property
    def settings(self) -> dict[str, Any]:
        return {"updates": self.updates, **self._each(run.settings for run in self.runs)}

    @property
    def open_ended(self) -> bool:
        return all(run.open_ended for run in self.runs)

    def parts(self) -> dict[str, Any]:
        return self._each(run.parts() for run in self.runs)

    @staticmethod
    def _each(dictionaries: Any) -> dict[str, Any]:
        return {f"{n} {name}": v for n, one in enumerate(dictionaries) for name, v in one.items()}


@takes_knobs
@checked
def mutual_learning(
    students: Sequence[nn.Module],
    train: Batches,
    objective: Objective | Sequence[Objective] | None = None,
    *,
    updates: str = "alternating",
    learning_rate: float | Sequence[float] | None = None,
    **knobs: Any,
) -> list[History]:
    """Train K students that distil from each other.

    Args:
        students: K ≥ 2 models of any architectures with the same classes, trained in place.
        train: As for :func:`kdcourse.training.fit`.
        objective: The objective of every student, or one for each; ``CrossEntropy() + LogitKD(1)``,
            as in the paper, by default. It is averaged over the peers. With one for each, a student
            whose objective needs no teacher learns alone, and the others still learn from it. If
            two have a term in common, each student takes a copy.
        updates: ``"alternating"``, as in the paper: one student after the other, each listening to
            what its peers predict now; or ``"simultaneous"``: all listen, then all learn.
        learning_rate: The peak rate of all students, or one for each.
        knobs: As for :func:`fit`.

    Returns:
        A history of each student, in their order.

    Raises:
        ValueError: There are fewer than two students, or one of them is there twice.
    """
    students = list(students)
    count = len(students)
    if count < 2:
        raise ArgumentError("students", f"mutual learning needs at least two students, got {count}")
    if len({id(student) for student in students}) != count:
        raise ArgumentError(
            "students", "a student cannot be its own peer: some of the students is there twice"
        )
    for number, student in enumerate(students):
        check_student(student, "students")
        for other in students[:number]:
            check_apart(student, other, "students", "two students")
    if objective is None:
        objective = CrossEntropy() + LogitKD(1.0)
    objectives: list[Any] = _one_each(objective, count)
    rates: list[Any] = _one_each(learning_rate, count)
    for name, values in (("objective", objectives), ("learning_rate", rates)):
        if len(values) != count:
            raise ArgumentError(name, f"{name} has {len(values)} entries for {count} students")
    terms = [id(term) for own in objectives for term in own.modules()]
    if len(set(terms)) < len(terms):  # some may have weights, or count steps
        objectives = [copy.deepcopy(own) for own in objectives]

    def make(source: Epochs) -> Peers:
        for student, own in zip(students, objectives, strict=True):
            peer = next(other for other in students if other is not student)
            if not own.prepared:
                first_lesson(own, student, Peer(peer, source.knobs.output), source)
        lasting = {"steps": source.steps}
        return Peers(
            [
                Run(student, own, **{**knobs, **lasting, "learning_rate": rate})
                for student, own, rate in zip(students, objectives, rates, strict=True)
            ],
            updates,
        )

    history = fit_learner(make, students, train, Knobs(**knobs))
    return [_of_student(number, history) for number in range(count)]


def _one_each(value: object, count: int) -> list:
    """Return a list or tuple as a list, and anything else once for each student."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


def _of_student(number: int, history: History) -> History:
    """Pick one student's columns out of the common history."""
    start = f"{number} "
    rows = []
    for row in history.rows:
        own = {name.removeprefix(start): v for name, v in row.items() if name.startswith(start)}
        rows.append({"epoch": row["epoch"], **own, "seconds": row["seconds"]})
    return replace(history, rows=rows, diagnoses=history.diagnoses[number : number + 1])
