"""Looks are collected, judged together, and what is found is told once."""

import warnings
from collections.abc import Mapping, Sequence

from kdcourse.doctor import answers, features, student, teacher, terms
from kdcourse.doctor.findings import Findings
from kdcourse.doctor.look import Check, Found, Look

FIRST = 3  # batches that are looked at in any case: enough to tell noise from what they agree on
CHECKS: dict[str, Check] = {  # what is judged by looks, as a report names it
    "the teacher's mode": teacher.judge_mode,
    "its stillness": teacher.judge_stillness,
    "its gradients": teacher.judge_gradients,
    "the views": teacher.judge_view,
    "the outputs": answers.judge_outputs,
    "its accuracy and classes": answers.judge_knowledge,
    "its doubt": answers.judge_sureness,
    "finite gradients": terms.judge_finiteness,
    "gradient ratios": terms.judge_loudness,
    "gradient cosines": terms.judge_direction,
    "gradient noise": terms.judge_noise,
    "logit scales": answers.judge_scales,
    "layers": features.judge_layers,
}


class Doctor:
    """Collects looks at a run, and judges them.

    Attributes:
        looks: What was seen, in the order of the run.
        told: What was warned of.
    """

    def __init__(self) -> None:
        self.looks: list[Look] = []
        self.told: set[str] = set()

    def report(
        self,
        rows: Sequence[Mapping[str, float]] = (),
        by: str = "validation_accuracy",
        lowest: bool = False,
        samples: int | None = None,
    ) -> Findings:
        """Judge all that was seen.

        Args:
            rows: The history of the run so far.
            by: The column by which the student is rated.
            lowest: Whether less of it is better.
            samples: The number of samples it is measured on, if it is a share of them.
        """
        shares = by.endswith("validation_accuracy") and any(by in row for row in rows)
        found: dict[str, Found] = {name: check(self.looks) for name, check in CHECKS.items()}
        known = max(row[by] for row in rows if by in row) if shares else None
        if not found["its accuracy and classes"]:  # which would say why
            found["teacher and student"] = answers.judge_against_student(self.looks, known)
        found["validation"] = student.judge_decline(rows, by, lowest, samples)
        findings = [one for some in found.values() for one in some or ()]
        looked_at = [name for name, some in found.items() if some is not None]
        return Findings(findings, looked_at, len(self.looks))

    def tell(self, report: Findings, stacklevel: int = 2) -> None:
        """Warn of what was not told before."""
        for one in report.findings:
            if one.about not in self.told:
                self.told.add(one.about)
                warnings.warn(str(one), stacklevel=stacklevel + 1)
