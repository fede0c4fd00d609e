"""The lecture's claims as measurements: one module a notebook."""

from kdcourse.course.claims import (
    feature,
    further,
    language,
    logit,
    motivation,
    online,
    relational,
    teachers,
    tips,
)
from kdcourse.course.claims.claim import CLAIMS, Bound, Claim, Effect
from kdcourse.course.claims.experiment import TEMPERATURE, WEIGHT, Lab
from kdcourse.course.claims.fingerprint import TOLERANCE, Fingerprint
from kdcourse.course.claims.reproduce import check, reproduce
from kdcourse.course.claims.results import Result, load
from kdcourse.course.claims.table import compressed, table, verdicts
from kdcourse.estimate import Estimate
