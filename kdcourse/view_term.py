"""Same views: a term that sees one of several views of every image alone."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from kdcourse.batch import map_samples
from kdcourse.checks import check_integer
from kdcourse.errors import ArgumentError
from kdcourse.objective import Around, Lesson, Term
from kdcourse.signatures import checked


@checked
class OneView(Around):
    """A term on one of the views that stand side by side in a batch: every second sample, say.

    >>> views = tips.WeakAndStrong(augmentation.pad_crop_flip(4), rand_augment.RandAugment())
    >>> objective = CrossEntropy() + OneView(LogitKD(2), 0) + OneView(LogitKD(4), 1)

    Args:
        term: Any term.
        view: Which of the views of an image, from 0.
        views: How many there are, at least 2.
    """

    def __init__(self, term: Term, view: int, views: int = 2):
        super().__init__(term)
        check_integer("views", views, 2)
        check_integer("view", view, 0, views - 1)
        self.view = view
        self.views = views
        self.least = views * term.least

    def count(self, lesson: Lesson) -> Tensor:
        return super().count(self._seen(lesson))

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the term's loss of the view."""
        return self.term.loss(self._seen(lesson))

    def _seen(self, lesson: Lesson) -> Lesson:
        """Return the lesson on the samples of the view."""
        samples = len(lesson.target)
        if samples % self.views:
            raise ArgumentError(
                "views",
                f"{samples} samples cannot be {self.views} views of each of some images; where a "
                "batch is split among processes, or by accumulate, each part has to hold whole "
                "images: change batch_size",
            )

        def of_view(one: Any) -> Any:
            return map_samples(lambda tensor: tensor[self.view :: self.views], one, samples)

        parts = ("target", "inputs", "weight", "teacher_inputs")
        return replace(
            lesson,
            student=lesson.student.map(of_view),
            teacher=None if lesson.teacher is None else lesson.teacher.map(of_view),
            **{name: of_view(getattr(lesson, name)) for name in parts},
        )

    def __repr__(self) -> str:
        return f"OneView({self.term!r}, {self.view}, views={self.views})"
