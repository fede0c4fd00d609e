"""A doctor for distillation: what goes wrong in a run, found while it goes wrong."""

from kdcourse.doctor.findings import Finding, Findings
from kdcourse.doctor.loop import watch
