"""Which method? All, tuned alike and compared: ``python -m kdcourse reproduce leaderboard``.

Every method gets the same number of trials, each with a weight and one more setting, spread evenly
over both, and is judged by them on validation data. The best then trains ten students, with seeds
of their own, which are judged on test data, in pairs with those of plain KD and of labels alone.
"""

from kdcourse.course.leaderboard.board import BOARDS, Board
from kdcourse.course.leaderboard.methods import KD, METHODS, Method
from kdcourse.course.leaderboard.reproduce import check, known, reproduce
from kdcourse.course.leaderboard.standing import (
    Standing,
    across,
    at_the_edge,
    holm,
    hours,
    standings,
    summary,
    table,
    what_to_take,
)
