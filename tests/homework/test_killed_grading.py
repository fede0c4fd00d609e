"""A grading that is killed: one of the kills of ``python -m tests.kill``."""

import random
from dataclasses import replace

from kill.calls import in_this_process
from kill.scenarios import grading, hand_in
from kill.withstand import withstand


def test_a_grading_that_is_killed_ends_as_if_nothing_was(tmp_path_factory, record_property):
    scenario = replace(grading(), prepare=lambda room: hand_in(room, "empty", "answered"))
    folder = tmp_path_factory.mktemp("kill")  # sockets need a short path
    tally = withstand(scenario, 1, folder, random.Random(374), in_this_process)
    record_property("shown", f"{scenario.name}: {tally}")
    assert tally.problems == []
    assert tally.kills == 1
