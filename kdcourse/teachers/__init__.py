"""Which teacher? One module per scheme of the lecture."""

from kdcourse.teachers.closed import ClosedTeacher
from kdcourse.teachers.teacher import FrozenTeacher, Outputs, Teacher, as_teacher

__all__ = ["ClosedTeacher", "FrozenTeacher", "Outputs", "Teacher", "as_teacher"]
