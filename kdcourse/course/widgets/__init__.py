"""Widgets for the notebooks: state → what is shown, and nothing else.

A static figure stands beside each in the notebook, for readers without a running kernel. What
follows a slider is drawn by the browser from a few lines of HTML: a matplotlib figure would take
longer than the tenth of a second within which a slider should answer.
"""

from kdcourse.course.widgets.landscapes import landscapes, surface
from kdcourse.course.widgets.samples import bars, maps, neighbours, snapshots, temperature
from kdcourse.course.widgets.screen import bar, captioned, heat, html_widget, picture
from kdcourse.course.widgets.teachers import teacher_size, vote, vote_curves
from kdcourse.course.widgets.tips import patience, views
