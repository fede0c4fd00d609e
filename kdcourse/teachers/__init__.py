"""Which teacher? One module per scheme of the lecture."""

from kdcourse.teachers.closed import ClosedTeacher
from kdcourse.teachers.shipped import pretrained
from kdcourse.training.teacher import FrozenTeacher, Teacher, as_teacher

__all__ = ["ClosedTeacher", "FrozenTeacher", "Teacher", "as_teacher", "pretrained"]
