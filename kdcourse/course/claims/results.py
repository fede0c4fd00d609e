"""Stored measurements: one JSON file a claim, bound to the code that made it by a digest."""

import ast
import hashlib
import inspect
import json
import os
import platform
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kdcourse.course.claims.claim import CLAIMS, Claim, Estimate
from kdcourse.data import COURSE_DATA
from kdcourse.teachers.shipped import card

RESULTS = COURSE_DATA / "results"


@dataclass
class Result:
    """What was measured of a claim.

    Attributes:
        claim: the claim.
        runs: measurements by seed.
        seconds: time each seed took.
        digest: of settings and source at the time.
        versions: of Python and the packages that matter.
    """

    claim: Claim
    runs: dict[int, dict[str, float]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    digest: str = ""
    versions: dict[str, str] = field(default_factory=dict)

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


def load(id: str, folder: Path = RESULTS) -> Result:
    """Read the stored measurements of a claim.

    Raises:
        KeyError: no such claim.
        FileNotFoundError: it was not measured yet.
    """
    if id not in CLAIMS:
        raise KeyError(f"no claim {id!r}; there are {', '.join(CLAIMS)}")
    path = folder / f"{id}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{id} was not measured yet: python -m kdcourse reproduce {id}")
    stored = json.loads(path.read_text())
    return Result(
        CLAIMS[id],
        {int(seed): values for seed, values in stored["runs"].items()},
        {int(seed): value for seed, value in stored["seconds"].items()},
        stored["digest"],
        stored["versions"],
    )


def save(result: Result, folder: Path = RESULTS) -> None:
    """Write the measurements of a claim, all of them or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    order = sorted(result.runs)
    content = {
        "claim": result.claim.id,
        "command": f"python -m kdcourse reproduce {result.claim.id} --seeds {len(order)}",
        "verdict": result.verdict,
        "digest": result.digest,
        "settings": result.claim.settings,
        "versions": result.versions,
        "seconds": {seed: round(result.seconds[seed], 1) for seed in order},
        "runs": {
            seed: {k: float(f"{v:.6g}") for k, v in result.runs[seed].items()} for seed in order
        },
    }
    path = folder / f"{result.claim.id}.json"
    aside = path.with_suffix(".json.partial")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(aside, path)


def current_versions() -> dict[str, str]:
    """Return the versions that a measurement may depend on."""
    packages = {name: version(name) for name in ("torch", "torchvision", "numpy")}
    return {"python": platform.python_version(), **packages}


def digest(claim: Claim) -> str:
    """Digest a claim's settings, its teacher's weights and the source of its experiment.

    The source is that of the measuring function and of everything in the claims that it
    calls, without comments and docstrings; so the digest changes when the experiment does.
    """
    sources = {name: _bare_source(f) for name, f in sorted(_experiment(claim.measure).items())}
    teacher = claim.settings.get("teacher")
    weights = None if teacher is None else card(teacher)["sha256"]
    content = json.dumps([claim.settings, weights, sources], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _experiment(function: Callable) -> dict[str, Any]:
    """Collect the functions, classes and constants of the claims that a function uses."""
    found: dict[str, Any] = {}
    waiting = [function]
    while waiting:
        function = inspect.unwrap(waiting.pop())
        found[function.__qualname__] = function
        for name, used in _globals_used(function):
            if inspect.isfunction(used) or inspect.isclass(used):
                if (
                    used.__module__.startswith("kdcourse.course.claims")
                    and used.__qualname__ not in found
                ):
                    waiting.append(used)
            elif name.isupper():
                found[name] = used
    return found


def _globals_used(function: Callable) -> Iterator[tuple[str, Any]]:
    """Yield what a function names: globals of its module, and attributes of modules among them."""
    module = inspect.getmodule(function)
    nodes = list(ast.walk(_tree(function)))
    local = {node.arg for node in nodes if isinstance(node, ast.arg)}
    local |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.Name) and node.id not in local:
            yield node.id, _unwrapped(module, node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = getattr(module, node.value.id, None)
            if inspect.ismodule(owner):
                yield node.attr, _unwrapped(owner, node.attr)


def _unwrapped(module: Any, name: str) -> Any:
    used = getattr(module, name, None)
    return inspect.unwrap(used) if callable(used) else used


def _tree(function: Any) -> ast.Module:
    """Parse a source without what may be reworded: comments, docstrings, statement and reason."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            node.decorator_list = []
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:]
    return tree


def _bare_source(used: Any) -> Any:
    if inspect.isfunction(used) or inspect.isclass(used):
        return _canonical(_tree(used))
    return repr(used)


def _canonical(node: Any) -> Any:
    """Write a syntax tree as lists, the same for every version of Python."""
    if isinstance(node, list):
        return [_canonical(part) for part in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, part) for name, part in ast.iter_fields(node) if part not in (None, []))
    return [type(node).__name__, *([name, _canonical(part)] for name, part in fields)]
