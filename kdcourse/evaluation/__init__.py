"""Judged beyond accuracy: what :func:`kdcourse.metrics.report` measures, a file a concept."""

from kdcourse.evaluation._answers import TEACHER
from kdcourse.evaluation.accuracy import Accuracy, in_top
from kdcourse.evaluation.calibration import (
    Calibration,
    Reliability,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
)
from kdcourse.evaluation.classes import ClassChange
from kdcourse.evaluation.cost import Cost, Latency, latencies, pareto_front
from kdcourse.evaluation.export import Exported, to_onnx, to_torch_export
from kdcourse.evaluation.fidelity import Fidelity, cka_influence, kl_by_sample
from kdcourse.evaluation.report import PARTS, Measurement, Report
from kdcourse.evaluation.resampling import Interval, Resamples
from kdcourse.evaluation.robustness import CORRUPTIONS, Robustness, corrupt
