"""The lecture's claims as measurements, by subject."""

from kdcourse.claims import (
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
from kdcourse.claims.claim import CLAIMS, Bound, Claim, Effect, Estimate
from kdcourse.claims.experiment import TEMPERATURE, WEIGHT
from kdcourse.claims.reproduce import reproduce
from kdcourse.claims.results import Result, load
from kdcourse.claims.table import compressed, table, verdicts

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
