"""Figures of the course: data in, a matplotlib figure out."""

from kdcourse.course.plots.curves import (
    contours,
    cost_by_samples,
    curves,
    function_space,
    gradient_norms,
    histories,
    surfaces,
    throughput,
)
from kdcourse.course.plots.language import next_tokens, two_axes
from kdcourse.course.plots.leaderboard import gain_against_cost, gains
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
    distance_matrices,
    embeddings,
    gallery,
    heat,
    learned_views,
    maps,
    neighbours,
    picture,
    predictions,
    seen,
    softened,
)
from kdcourse.course.plots.style import ALONE, DISTILLED, INK, MAP, MARKERS, OTHER, TEACHER
