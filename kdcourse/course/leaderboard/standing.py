"""Where the methods stand: gains over KD and over labels, with intervals, and what they cost."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scipy import stats

from kdcourse.course.claims.results import read
from kdcourse.course.claims.table import markdown
from kdcourse.course.leaderboard import cost
from kdcourse.course.leaderboard.beyond import beyond
from kdcourse.course.leaderboard.board import (
    ALONE,
    BOARDS,
    FOLDER,
    TRIALS,
    best_trial,
    ratio_of,
    results,
    search,
)
from kdcourse.course.leaderboard.methods import FEATURES, KD, METHODS, PREDICTIONS, RELATIONS
from kdcourse.estimate import Estimate, estimate

BETTER, NO_DIFFERENCE, WORSE = "better than KD", "no difference from KD seen", "worse than KD"
LEVEL = 0.05  # of the chance that any difference is called one that is none


@dataclass(frozen=True)
class Standing:
    """A method on a board.

    Attributes:
        name: Of the method.
        loss: The objective that was best in its trials, in the words of the command line.
        accuracy: Mean accuracy on test data over the seeds, in percent.
        over_kd: Gain over KD, in pairs of students with the same seed.
        over_labels: Gain over labels alone, likewise.
        p: The chance of such a difference from KD, or a larger one, if there were none (paired t
            test), corrected for the number of methods (:func:`holm`).
        time: Of a step, as a ratio to that of KD; None where it was not measured.
        memory: Likewise, the tensors that live at once in a step, at most.
        size: Parameters of the student, as a ratio to those of KD's.
    """

    name: str
    loss: str
    accuracy: float
    over_kd: Estimate
    over_labels: Estimate
    p: float
    time: float | None
    memory: float | None
    size: float = 1.0

    @property
    def family(self) -> str:
        """What the method looks at: predictions, features or relations."""
        return METHODS[self.name].family

    @property
    def is_kd(self) -> bool:
        """Whether it is KD itself."""
        return self.name == KD

    @property
    def says(self) -> str:
        """What the comparison with KD says."""
        if self.is_kd or not self.p < LEVEL:
            return NO_DIFFERENCE
        return BETTER if self.over_kd.mean > 0 else WORSE


def holm(p: Sequence[float]) -> list[float]:
    r"""Correct p-values of m comparisons, so that all are held at one level together.

    The i-th smallest is multiplied by m − i + 1, but is at least the one before, and 1 at most.
    Whatever is below 0.05 after that is called a difference; the chance to call any that is none is
    then 0.05 at most, however many were looked at.

    Source: Holm 1979, Scandinavian Journal of Statistics 6 (2), pages 65–70.
    """
    corrected, least = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = least
    return corrected


def standings(
    board: str, folder: Path = FOLDER, *, seeds: int | None = None, device: str = "cpu"
) -> list[Standing]:
    """Return the methods of a board, the best first.

    The arguments are those of :func:`kdcourse.course.leaderboard.board.results`.

    Raises:
        FileNotFoundError: It was not measured yet.
    """
    found, costs = results(board, folder, seeds, device), dict[str, cost.Cost]()
    with suppress(FileNotFoundError):
        costs = cost.load(board, folder) if device == "cpu" else costs
    losses = {name: result.settings["loss"] for name, result in found.items()}
    costs = {name: one for name, one in costs.items() if one.loss == losses[name]}
    names = [name for name in found if name != ALONE]
    accuracies = {name: result.values("accuracy") for name, result in found.items()}

    def gains(name: str, other: str) -> list[float]:
        return [a - b for a, b in zip(accuracies[name], accuracies[other], strict=True)]

    others = [name for name in names if name != KD]
    tested = [float(stats.ttest_1samp(gains(name, KD), 0.0).pvalue) for name in others]
    p = dict(zip(others, holm(tested), strict=True)) | {KD: 1.0}
    rows = [
        Standing(
            name,
            losses[name],
            found[name].mean("accuracy"),
            estimate(name, gains(name, KD)),
            estimate(name, gains(name, ALONE)),
            p[name],
            costs[name].time if name in costs else None,
            costs[name].memory if name in costs else None,
            cost.size_of_student(board, name),
        )
        for name in names
    ]
    return sorted(rows, key=lambda row: -row.accuracy)


def table(
    board: str, folder: Path = FOLDER, *, seeds: int | None = None, device: str = "cpu"
) -> str:
    """Return one row a method as a table in Markdown, the best first."""
    head = (
        "method",
        "test accuracy, %",
        "− KD [95 %]",
        "p (Holm)",
        "− labels alone [95 %]",
        "time of a step ÷ KD's",
        "memory ÷ KD's",
        "the best of its trials",
    )
    rows = [
        (
            f"**{row.name}**" if row.says == BETTER else row.name,
            f"{row.accuracy:.2f}",
            "" if row.is_kd else str(row.over_kd),
            "" if row.is_kd else _shown(row.p),
            str(row.over_labels),
            *("" if ratio is None else f"{ratio:.2f}" for ratio in (row.time, row.memory)),
            f"`{row.loss}`",
        )
        for row in standings(board, folder, seeds=seeds, device=device)
    ]
    alone = results(board, folder, seeds, device)[ALONE]
    last = (ALONE, f"{alone.mean('accuracy'):.2f}", *[""] * 5, "`CrossEntropy()`")
    return markdown(head, [*rows, last])


def _shown(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def summary(board: str, folder: Path = FOLDER) -> str:
    """Say which methods are better and worse than KD, and from which no difference was seen."""
    found = standings(board, folder)
    said: dict[str, list[str]] = {}
    for row in found:
        if not row.is_kd:
            said.setdefault(row.says, []).append(row.name)
    lines = [
        f"- **{words}** ({len(said.get(words, []))}): {', '.join(said.get(words, ['none']))}"
        for words in (BETTER, NO_DIFFERENCE, WORSE)
    ]
    if without := BOARDS[board].without:
        lines.append(
            f"- *left out, as they need a student with feature maps*: {', '.join(without)}"
        )
    return "\n".join(lines)


def across(boards: Mapping[str, Sequence[Standing]]) -> str:
    """Say which methods are better than KD on all boards, by their names, on some, and on none."""
    said: dict[str, dict[str, str]] = {}
    for about, rows in boards.items():
        for row in rows:
            if not row.is_kd:
                said.setdefault(row.name, {})[about] = row.says
    told: dict[str, list[str]] = {
        "better than KD on every board it took part in": [],
        "better on some boards": [],
        "no difference from KD seen on any board": [],
        "never better, and worse on some boards": [],
    }
    always, sometimes, never, worse = told.values()
    for name, verdicts in sorted(said.items(), key=lambda one: -len(one[1])):
        better = [about for about, words in verdicts.items() if words == BETTER]
        if len(better) == len(verdicts):
            parts = (
                "all" if len(verdicts) == len(boards) else f"{len(verdicts)} of the {len(boards)}"
            )
            always.append(f"{name} ({parts})")
        elif better:
            sometimes.append(f"{name} ({'; '.join(better)})")
        else:
            (worse if WORSE in verdicts.values() else never).append(name)
    lines = {words: ", ".join(names or ["none"]) for words, names in told.items()}
    return "\n".join(f"- *{words}*: {names}" for words, names in lines.items())


def at_the_edge(board: str, folder: Path = FOLDER) -> str:
    """Say which methods were best with the largest or the smallest ratio of all trials."""
    found = {
        name: ratio_of(best_trial(board, name, folder)[0])
        for name, method in BOARDS[board].methods.items()
        if method.labels  # to which its gradient has a ratio
    }
    ratios, told = [ratio_of(trial) for trial in range(TRIALS)], []
    for edge, words in ((max(ratios), "largest"), (min(ratios), "smallest")):
        if names := [name for name, ratio in found.items() if ratio == edge]:
            told.append(f"with the {words} ratio, {edge:.2g} ({len(names)}): {', '.join(names)}")
    if not told:
        return ""
    where = "; ".join(told)
    said = f"Best at the edge of the range tried, and so perhaps better still beyond it: {where}."
    if found[KD] not in (max(ratios), min(ratios)):
        return said
    return f"{said} KD is among them, so gains over it may be too large{_beyond(board, folder)}."


def _beyond(board: str, folder: Path) -> str:
    """Say what KD gains at larger ratios, if that was measured."""
    try:
        gains = read(beyond(board, folder), folder).estimates
    except FileNotFoundError:
        return ""
    told = " and ".join(f"{gain} {gain.label}" for gain in gains)
    return f": on validation data, over {gains[0].seeds} students, KD itself gains {told}"


def hours(board: str, folder: Path = FOLDER) -> float:
    """Return for how many hours of one core a board's students were trained, trials and all.

    That is the median of each method's seconds times their number: an interrupted training counts
    as any other.
    """
    names = BOARDS[board].methods
    measured = [read(search(board, name), folder) for name in names]
    measured += results(board, folder).values()
    with suppress(FileNotFoundError):
        measured.append(read(beyond(board, folder), folder))
    seconds = [result.seconds.values() for result in measured]
    return sum(median(each) * len(each) for each in seconds) / 3600


def what_to_take(board: str, folder: Path = FOLDER) -> str:
    """Say what the tests of a board recommend, by what is compared."""
    lines, better = [], [row for row in standings(board, folder) if row.says == BETTER]
    for family in (PREDICTIONS, FEATURES, RELATIONS):
        if rows := [row for row in better if row.family == family]:
            told = "; ".join(f"{row.name} {row.over_kd}{_at(row)}" for row in rows)
            lines.append(f"- *{family}*: {told}.")
        else:
            other = "KD itself" if family == PREDICTIONS else "none"
            lines.append(f"- *{family}*: {other}; no method was seen to be better than KD.")
    title = (
        "**What to take**, by what is compared (gain over KD in percentage points; whether these "
        "differ from each other was not tested):"
    )
    return "\n".join([title, "", *lines])


def _at(row: Standing) -> str:
    """Say what else a method costs or needs, where that is known or not the same as with KD."""
    told = [] if row.time is None else [f"a step takes {row.time:.2f} × KD's"]
    if row.size != 1:
        told.append(f"the student has {row.size:.2f} × the parameters")
    if needs := METHODS[row.name].needs:
        told.append(f"needs {needs}")
    return f" ({'; '.join(told)})" if told else ""
