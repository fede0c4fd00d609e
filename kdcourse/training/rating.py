"""How good a student is on a validation set: by the measure of its objective, and by any other."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kdcourse import processes
from kdcourse.batch import Output, seen_of, to_device, views_of
from kdcourse.errors import ArgumentError
from kdcourse.metrics import Samples, answered, check_numbers
from kdcourse.objective import Lesson, Objective, Outputs
from kdcourse.prediction_term import judge_of


@runtime_checkable
class Metric(Protocol):
    """A measure of predictions that is taken batch by batch, as those of ``torchmetrics``."""

    def update(self, predictions: Tensor, target: Tensor) -> Any:
        """Take a batch, with the classes of predictions in dimension 1."""

    def compute(self) -> Any:
        """Return the measure of all batches, of all processes."""

    def reset(self) -> Any:
        """Begin anew."""


class Rating:
    """What is measured of a student on a validation set.

    Args:
        objective: What the student learns by; one of its terms knows when a prediction is right.
        metrics: Others, by name.
        output: Finds the logits in what a student returns.
    """

    def __init__(
        self,
        objective: Objective,
        metrics: Mapping[str, Metric] | None = None,
        output: Output | None = None,
    ):
        self.judge = judge_of(objective)
        self.metrics, self.output = dict(metrics or {}), output

    @property
    def best_by(self) -> str:
        """The column of the history by which weights are kept."""
        return f"validation_{next(iter(self.metrics), self.judge.measure)}"

    @property
    def lowest(self) -> bool:
        """Whether less of it is better."""
        first = next(iter(self.metrics.values()), None)
        return getattr(first, "higher_is_better", True) is False

    def of(
        self, model: nn.Module, samples: Samples, part: tuple[int, int] = (0, 1), who: str = "model"
    ) -> dict[str, float]:
        """Return all measures, by the columns of the history."""
        device = next(model.parameters()).device
        sums = torch.zeros(2, device=device)  # of no batch: none was right, and none judged
        for number, added in enumerate(self._sums(model, samples, part, who)):
            sums = added if number == 0 else sums + added
        measured = {self.judge.measure: self.judge.rate(processes.total(sums))}
        measured |= {name: float(metric.compute()) for name, metric in self.metrics.items()}
        return {f"validation_{name}": value for name, value in measured.items()}

    def try_out(self, student: nn.Module, batch: Any) -> None:
        """Rate a student by a single batch, to find out whether that can be done."""
        list(self._sums(student, [batch], (0, 1), "student"))

    def _sums(
        self, model: nn.Module, samples: Samples, part: tuple[int, int], who: str
    ) -> Iterator[Tensor]:
        """Yield the judge's sums over each batch, and let the metrics take it."""
        for metric in self.metrics.values():
            metric.reset()
            if isinstance(metric, nn.Module):
                metric.to(next(model.parameters()).device)
        options: dict[str, Any] = {"part": part, "name": "validation", "who": who}
        for logits, inputs, target in answered(model, samples, output=self.output, **options):
            check_numbers(who, f"the outputs of the {who}", logits)
            lesson = _lesson(logits, inputs, target)
            self.judge.check_labels(lesson, "validation")
            for name, metric in self.metrics.items():
                self._update(name, metric, lesson)
            yield self.judge.sums(lesson)

    def _update(self, name: str, metric: Metric, lesson: Lesson) -> None:
        logits = lesson.student_logits
        if logits.dim() > 2:
            logits = logits.movedim(self.judge.class_dim, 1)
        try:
            metric.update(logits, lesson.target)
        except Exception as error:
            raise ArgumentError(
                "metrics",
                f"the metric {name} fails on predictions {tuple(logits.shape)} and a target "
                f"{tuple(lesson.target.shape)}: {error}",
            ) from error


def _lesson(logits: Tensor, inputs: Any, target: Tensor | None) -> Lesson:
    if target is None:
        raise ArgumentError("validation", "validation must have targets, got inputs alone")
    seen, weight = seen_of(views_of(to_device(inputs, logits.device)).student)
    return Lesson(Outputs(logits=logits), target.to(logits.device), inputs=seen, weight=weight)
