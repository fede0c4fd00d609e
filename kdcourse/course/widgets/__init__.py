"""Widgets for the notebooks: functions from a state to what is shown, and nothing else.

In the notebook, a static figure accompanies each of them for readers without a running kernel.
What follows a slider is a few lines of HTML, drawn by the browser: a matplotlib figure would take
longer than the tenth of a second within which a slider should respond.
"""

from kdcourse.course.widgets.averages import average_drawn, averages
from kdcourse.course.widgets.landscapes import landscapes, surface
from kdcourse.course.widgets.language import writers
from kdcourse.course.widgets.layers import layers
from kdcourse.course.widgets.measured import patience, teacher_size, vote, vote_curves
from kdcourse.course.widgets.samples import bars, maps, neighbours, snapshots, temperature, views
from kdcourse.course.widgets.screen import bar, captioned, heat, html_widget, picture
