"""Killed at random moments: a few of the kills of ``python -m tests.kill``, and what that finds."""

import random
import re

import psutil
import pytest
from kill import remains
from kill.calls import in_this_process
from kill.scenarios import Scenario, scenarios
from kill.withstand import withstand

from kdcourse.training import checkpoint

SEED = 374  # two kills of one run: in the middle of its work, and in a write
FEW = {"fit": 2, "distill_through": 1, "CachedLessons": 1, "train": 1}


@pytest.mark.parametrize("name", FEW)
def test_what_is_killed_and_called_again_ends_as_if_nothing_was(name, tmp_path, record_property):
    (scenario,) = (one for one in scenarios() if one.name == name)
    tally = withstand(scenario, FEW[name], tmp_path, random.Random(SEED), in_this_process)
    record_property("shown", f"{name}: {tally}")
    assert tally.problems == []
    assert tally.kills == FEW[name]


# Programs that do not withstand kills, and what is to be found.
FAULTY = {
    "lines that are doubled": (
        "with open('out/lines', 'a', buffering=1) as file:\n"
        "    for line in range(30): file.write('line\\n'); time.sleep(0.01)",
        "lines differs",
    ),
    "what is left over": (
        "aside = pathlib.Path(f'out/{time.time_ns()}.partial')\n"
        "aside.touch(); time.sleep(0.3); aside.unlink()",
        r"\d+\.partial is too much",
    ),
    "what does not go on": (
        "once = pathlib.Path('out/once')\n"
        "sys.exit(3) if once.exists() else once.touch(); time.sleep(0.3)",
        r"it ended with status 3, see log\.txt",
    ),
    "what lives on": (
        "other = [sys.executable, '-c', 'import time; time.sleep(300)']\n"
        "other = subprocess.Popen(other, start_new_session=True); time.sleep(0.3); other.kill()",
        r"process (\d+) is still alive",
    ),
}


@pytest.mark.parametrize(("source", "problem"), FAULTY.values(), ids=FAULTY)
def test_what_does_not_withstand_kills_is_found(source, problem, tmp_path, monkeypatch):
    monkeypatch.setattr(remains, "PATIENCE", 0.1)
    begin = "import pathlib, subprocess, sys, time\npathlib.Path('begun').touch()\n"
    scenario = Scenario("faulty", ("-c", begin + source), "begun")
    (told,) = withstand(scenario, 1, tmp_path, random.Random(0)).problems
    found = re.fullmatch(problem, told)
    assert found
    for number in found.groups():
        psutil.Process(int(number)).kill()


def test_epochs_that_are_trained_again_are_found(tmp_path):
    """Though the result is the same but for its seconds."""
    for seconds in (1, 2):
        rows = [{"epoch": 1, "seconds": float(seconds)}]
        checkpoint.save(tmp_path / f"{seconds}.pt", {"rows": rows})
    source = f"""
import os, pathlib, shutil, time
made = pathlib.Path('out/run.pt')
shutil.copy(pathlib.Path({str(tmp_path)!r}) / f"{{1 + made.exists()}}.pt", 'out/aside')
os.replace('out/aside', made)
time.sleep(0.3)
"""
    scenario = Scenario("forgetful", ("-c", source), "out/run.pt")
    (told,) = withstand(scenario, 1, tmp_path / "runs", random.Random(0)).problems
    assert told == "run.pt has lost epochs, or trained them again"
