"""Stored measurements: one JSON file a claim, bound to the code by the claim's fingerprint."""

import json
import math
import platform
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kdcourse import files
from kdcourse.course.claims.claim import CLAIMS, Claim
from kdcourse.course.claims.fingerprint import Fingerprint
from kdcourse.estimate import Estimate, estimate
from kdcourse.places import COURSE, intact, latest
from kdcourse.teachers.shipped import card

RESULTS = COURSE / "data" / "results"


class Stored(dict[str, float]):
    """What was measured with one seed, and by which command what is missing can be."""

    def __init__(self, values: Mapping[str, float], command: str):
        super().__init__(values)
        self.command = command

    def __missing__(self, name: str) -> float:
        raise RuntimeError(f"{name!r} was not measured yet, but other things were: {self.command}")


@dataclass
class Result:
    """What was measured of a claim.

    Attributes:
        claim: The claim.
        runs: Measurements by seed.
        seconds: The time that each seed took.
        versions: Of Python and the packages that matter.
        settings: Of the claim when it was measured.
        teacher: The sha256 of the teacher's weights, where there was a trained one.
        fingerprint: What the code did, on the CPU.
        device: Where nets were trained, ``"cpu"`` or ``"cuda"``: results of each are kept apart.
    """

    claim: Claim
    runs: dict[int, dict[str, float]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    fingerprint: Fingerprint | None = None
    device: str = "cpu"

    @classmethod
    def of_now(cls, claim: Claim, fingerprint: Fingerprint, device: str = "cpu") -> "Result":
        """Return a result without runs yet, by the code and the teacher as they are."""
        name = claim.settings.get("teacher")
        weights = card(name)["sha256"] if name else None
        settings = json.loads(json.dumps(claim.settings))  # as they are read again
        known = {"settings": settings, "teacher": weights, "fingerprint": fingerprint}
        return cls(claim, **known, device=device)

    @property
    def verdict(self) -> str:
        """The claim's verdict on these runs."""
        return self.claim.verdict(self.runs)

    @property
    def estimates(self) -> list[Estimate]:
        """Mean and interval of each of the claim's effects."""
        return self.claim.estimates(self.runs)

    def __str__(self) -> str:
        lines = [f"{self.claim.id}: {self.claim.statement}"]
        lines += [f"  {e.label}: {e}" for e in self.estimates]
        lines += [f"  {b.label}: equal within {b.most:g}" for b in self.claim.bounds]
        lines.append(f"  {len(self.runs)} seeds: {self.verdict.upper()}. {self.claim.reason}")
        return "\n".join(textwrap.fill(line, 98, subsequent_indent="    ") for line in lines)

    def values(self, name: str) -> list[float]:
        """Return one measurement over the seeds."""
        return [run[name] for run in self.runs.values()]

    def mean(self, name: str) -> float:
        """Return the mean of one measurement over the seeds."""
        values = self.values(name)
        return sum(values) / len(values)

    def estimate(self, name: str) -> Estimate:
        """Return mean and interval of one measurement over the seeds."""
        return estimate(name, self.values(name))

    def deviation(self, now: "Result") -> float:
        """Return by how much the worst number of the fingerprint deviates from another's.

        Infinite with other settings, or other weights of the teacher.
        """
        same = self.settings == now.settings and self.teacher == now.teacher
        if not same or self.fingerprint is None or now.fingerprint is None:
            return math.inf
        return self.fingerprint.deviation(now.fingerprint)


def load(id: str, folder: Path = RESULTS, device: str = "cpu") -> Result:
    """Read the stored measurements of a claim, of nets that were trained on a kind of device.

    Raises:
        KeyError: There is no such claim.
        FileNotFoundError: It was not measured yet.
        RuntimeError: The file is damaged.
    """
    if id not in CLAIMS:
        raise KeyError(f"no claim {id!r}; there are {', '.join(CLAIMS)}")
    return read(CLAIMS[id], folder, device)


def read(claim: Claim, folder: Path = RESULTS, device: str = "cpu") -> Result:
    """Read the stored measurements of any claim, as :func:`load` does."""
    path = latest(path_of(claim.id, folder, device))
    if not path.is_file():
        raise FileNotFoundError(f"{claim.id} was not measured yet: {_command(claim, device)}")
    with intact(path):
        stored = json.loads(path.read_text())
        numbers = stored.get("fingerprint")
        return Result(
            claim,
            {
                int(seed): Stored(values, _command(claim, device))
                for seed, values in stored["runs"].items()
            },
            {int(seed): value for seed, value in stored["seconds"].items()},
            stored["versions"],
            stored["settings"],
            stored.get("teacher"),
            numbers and Fingerprint(**numbers),
            device,
        )


def save(result: Result, folder: Path = RESULTS) -> None:
    """Write the measurements of a claim, all of them or nothing."""
    order = sorted(result.runs)
    content = {
        "claim": result.claim.id,
        "command": f"{_command(result.claim, result.device)} --seeds {len(order)}",
        "device": result.device,
        "verdict": result.verdict,
        "settings": result.settings,
        "teacher": result.teacher,
        "versions": result.versions,
        "seconds": {seed: round(result.seconds[seed], 1) for seed in order},
        "runs": {seed: _rounded(result.runs[seed]) for seed in order},
        "fingerprint": result.fingerprint and _rounded(asdict(result.fingerprint)),
    }
    pair = r"\[\s+(-?[\d.e+-]+),\s+(-?[\d.e+-]+)\s+\]"  # of numbers, on one line
    text = re.sub(pair, r"[\1, \2]", json.dumps(content, indent=1))
    files.write(path_of(result.claim.id, folder, result.device), text + "\n")


def path_of(id: str, folder: Path, device: str = "cpu") -> Path:
    """Return the file of a claim's measurements in a folder: ``gap.json``, or ``gap.cuda.json``."""
    return folder / (f"{id}.json" if device == "cpu" else f"{id}.{device}.json")


def _command(claim: Claim, device: str) -> str:
    asked = claim.asked or claim.id
    return f"python -m kdcourse reproduce {asked}" + f" --device {device}" * (device != "cpu")


def current_versions(device: str = "cpu") -> dict[str, str]:
    """Return the versions that a measurement may depend on, and the name of the GPU."""
    packages = {name: version(name) for name in ("torch", "torchvision", "numpy")}
    gpu = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {"python": platform.python_version(), **packages, **gpu}


def _rounded(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: _rounded(value) for name, value in values.items()}
    if isinstance(values, Sequence):
        return [_rounded(value) for value in values]
    return float(f"{values:.6g}")
