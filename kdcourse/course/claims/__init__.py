"""The lecture's claims as measurements, by subject."""

from kdcourse.course.claims import (
    compression,
    ensembles,
    feature,
    further,
    landscapes,
    large_teacher,
    logit,
    mean_teacher,
    motivation,
    newer,
    online,
    properties,
    relational,
    self_distillation,
    self_supervised,
    soft_targets,
    tips,
)
from kdcourse.course.claims.claim import CLAIMS, Bound, Claim, Effect, Estimate
from kdcourse.course.claims.experiment import TEMPERATURE, WEIGHT
from kdcourse.course.claims.reproduce import reproduce
from kdcourse.course.claims.results import Result, load
from kdcourse.course.claims.table import compressed, table, verdicts

__all__ = [
    "CLAIMS",
    "TEMPERATURE",
    "WEIGHT",
    "Bound",
    "Claim",
    "Effect",
    "Estimate",
    "Result",
    "compressed",
    "compression",
    "ensembles",
    "feature",
    "further",
    "landscapes",
    "large_teacher",
    "load",
    "logit",
    "mean_teacher",
    "motivation",
    "newer",
    "online",
    "properties",
    "relational",
    "reproduce",
    "self_distillation",
    "self_supervised",
    "soft_targets",
    "table",
    "tips",
    "verdicts",
]
