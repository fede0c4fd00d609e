"""KD at larger ratios than the trials reach: whether others gain by the range that was tried."""

from pathlib import Path

from kdcourse.course.claims.claim import Claim, Effect, Measured
from kdcourse.course.claims.experiment import Lab
from kdcourse.course.leaderboard.board import (
    BOARDS,
    FOLDER,
    TRIALS,
    best_trial,
    claim_of,
    ratio_of,
    taught,
)
from kdcourse.course.leaderboard.methods import KD

TRIED, TRIPLED, UNLABELLED = "tried", "tripled", "without labels"
EFFECTS = (
    Effect("at three times that ratio", TRIPLED, TRIED),
    Effect("without labels", UNLABELLED, TRIED),
)


def is_at_the_edge(board: str, folder: Path = FOLDER, device: str = "cpu") -> bool:
    """Whether KD was best with the largest ratio of all trials, and so perhaps better beyond it."""
    trial, _ = best_trial(board, KD, folder, device)
    return ratio_of(trial) == max(map(ratio_of, range(TRIALS)))


def beyond(board: str, folder: Path = FOLDER, device: str = "cpu") -> Claim:
    """Return the measurement of KD as it was best in its trials, at a larger ratio, and alone.

    It decides nothing on the board. As in the trials, the validation set judges, and the gradients
    of both losses together are as long as that of the labels.

    Raises:
        FileNotFoundError: There were no trials yet on such a kind of device.
    """
    method, (_, found) = BOARDS[board].methods[KD], best_trial(board, KD, folder, device)
    setting, labels = method.choices[int(found["choice"])], found["labels"]
    even = found["dist"] / (1 - labels)
    shares = {TRIED: labels, TRIPLED: labels / (labels + 3 * (1 - labels)), UNLABELLED: 0.0}
    losses = {
        name: method.loss((share, even * (1 - share)), setting, BOARDS[board].words)
        for name, share in shares.items()
    }
    return claim_of(
        f"{board}-kd-beyond",
        "KD is better at a larger ratio than those tried",
        _students,
        {**BOARDS[board].settings, **losses},
        effects=EFFECTS,
        search=True,
    )


def _students(lab: Lab) -> Measured:
    for name in (TRIED, TRIPLED, UNLABELLED):
        yield name, taught(lab, KD, lab[name])
