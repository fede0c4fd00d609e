"""Figures of the course: data in, a matplotlib figure out."""

from kdcourse.plots.curves import (
    cost_by_samples,
    curves,
    gradient_norms,
    histories,
    throughput,
)
from kdcourse.plots.landscapes import contours, function_space, surfaces
from kdcourse.plots.measured import (
    arms,
    by_epochs,
    effects,
    sweep,
    teacher_sizes,
    temperature_weight_map,
)
from kdcourse.plots.samples import gallery, maps, neighbours, picture, predictions, seen, softened
from kdcourse.plots.structure import distance_matrices, embeddings, heat, learned_views
from kdcourse.plots.style import ALONE, DISTILLED, MARKERS, OTHER, TEACHER

__all__ = [
    "ALONE",
    "DISTILLED",
    "MARKERS",
    "OTHER",
    "TEACHER",
    "arms",
    "by_epochs",
    "contours",
    "cost_by_samples",
    "curves",
    "distance_matrices",
    "effects",
    "embeddings",
    "function_space",
    "gallery",
    "gradient_norms",
    "heat",
    "histories",
    "learned_views",
    "maps",
    "neighbours",
    "picture",
    "predictions",
    "seen",
    "softened",
    "surfaces",
    "sweep",
    "teacher_sizes",
    "temperature_weight_map",
    "throughput",
]
