"""Figures of the course: data in, a matplotlib figure out."""

from kdcourse.course.plots.curves import (
    cost_by_samples,
    curves,
    gradient_norms,
    histories,
    throughput,
)
from kdcourse.course.plots.landscapes import contours, function_space, surfaces
from kdcourse.course.plots.measured import (
    arms,
    by_epochs,
    effects,
    forest,
    sweep,
    teacher_sizes,
    temperature_weight_map,
)
from kdcourse.course.plots.samples import (
    gallery,
    maps,
    neighbours,
    picture,
    predictions,
    seen,
    softened,
)
from kdcourse.course.plots.structure import distance_matrices, embeddings, heat, learned_views
from kdcourse.course.plots.style import ALONE, DISTILLED, MARKERS, OTHER, TEACHER
