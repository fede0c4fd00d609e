"""Relational distillation: not where samples lie, but how they lie relative to each other."""

import numpy as np
from matplotlib.figure import Figure

from kdcourse.course.schematics.lines import point
from kdcourse.course.schematics.pen import OTHER, QUIET, STUDENT, TEACHER, Page, Tone

TAUGHT = np.array([(-84, 40), (70, 62), (16, -62)])  # the teacher's embedding of three samples
MOVES = np.array([(66, -40), (48, -54), (-84, 22)])  # from there to the student's
TURN, SCALE = np.deg2rad(118), 0.68  # of the student's where it has the same structure


def points_and_structure() -> Figure:
    """On the left, point to point: each output of the student is pulled to the teacher's.

    On the right, structure to structure: only distances between the samples and their angles are
    compared. The student's triangle is turned and smaller, but its shape is the teacher's, so
    nothing pulls.
    """
    page = Page(290)
    page.text(190, 26, "point to point", bold=True)
    page.text(570, 26, "structure to structure", bold=True)
    page.line([(380, 20), (380, 270)], QUIET, width=1)
    taught = TAUGHT + np.array((186, 140))
    learned = taught + MOVES
    for here, there in zip(learned, taught, strict=True):
        page.arrow(point(here), point(there), gap=10, gradient=True, tone=STUDENT)
    _samples(page, taught, taught - learned, TEACHER, "t")
    _samples(page, learned, learned - taught, STUDENT, "s")
    page.loss(190, 254, r"$\Vert s_i - t_i \Vert^2$", width=110, height=34)

    turn = np.array([(np.cos(TURN), np.sin(TURN)), (-np.sin(TURN), np.cos(TURN))])
    for samples, tone, name in (
        (TAUGHT + np.array((508, 140)), TEACHER, "t"),
        (TAUGHT @ turn * SCALE + np.array((678, 146)), STUDENT, "s"),
    ):
        page.shape([point(sample) for sample in samples], tone, fill=False, width=2)
        _relations(page, samples)
        _samples(page, samples, samples - samples.mean(0), tone, name)
    page.loss(570, 254, "distances, angles", width=160, height=34)
    return page.figure


def _samples(page: Page, samples: np.ndarray, away: np.ndarray, tone: Tone, name: str) -> None:
    """Draw samples, each with its name on the side that a direction shows."""
    for number, ((x, y), direction) in enumerate(zip(samples, away, strict=True), 1):
        page.dot(x, y, tone, radius=7)
        step = 20 * direction / np.hypot(*direction)
        page.text(x + step[0], y + step[1], f"${name}_{number}$", tone, size=15)


def _relations(page: Page, samples: np.ndarray) -> None:
    """Mark the angle at the first of three samples, and the distance of the other two."""
    corner, *others = samples
    first, last = (np.arctan2(*(other - corner)[::-1]) for other in others)
    last = first + (last - first + np.pi) % (2 * np.pi) - np.pi
    turns = np.linspace(first, last, 16)
    arc = corner + 30 * np.column_stack((np.cos(turns), np.sin(turns)))
    page.line([point(place) for place in arc], OTHER, width=2.5)
    middle = (others[0] + others[1]) / 2
    along = (others[1] - others[0]) / np.hypot(*(others[1] - others[0]))
    across = 7 * np.array((-along[1], along[0]))
    for start in (middle - 3 * along, middle + 3 * along):
        page.line([point(start - across), point(start + across)], OTHER, width=2)
