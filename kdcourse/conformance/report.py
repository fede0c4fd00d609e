"""What is said of a loss: its convention in words, the factor to ours, and what breaks."""

import textwrap
from dataclasses import dataclass

from kdcourse.conformance.convention import Convention
from kdcourse.conformance.factor import Factor
from kdcourse.conformance.kinds import LossKind
from kdcourse.conformance.properties.values import ADDED, SAME
from kdcourse.conformance.trial import BREAKS, DIFFERS, HOLDS, NOT_HERE, Observation

SIGNS = {HOLDS: "✓", DIFFERS: "≠", BREAKS: "✗", NOT_HERE: "·"}
USUAL = {"N": 128, "K": 10, "C": 64, "H": 8, "W": 8, "T": 64, "D": 64}  # sizes of an example


@dataclass(frozen=True)
class ConformanceReport:
    """What was found of a loss.

    Attributes:
        name: What the loss is called.
        reference: The loss of ours that it was compared with.
        kind: What both compare.
        convention: How they differ.
        findings: One for each property.
        notes: What else is to be known, such as the temperature it was checked at.
    """

    name: str
    reference: str
    kind: LossKind
    convention: Convention
    findings: tuple[Observation, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing breaks: the loss is ours, perhaps up to a factor."""
        return not self.broken

    @property
    def broken(self) -> tuple[Observation, ...]:
        """The properties that the loss does not have."""
        return tuple(found for found in self.findings if found.status == BREAKS)

    @property
    def factor(self) -> Factor | None:
        """The loss divided by ours, or None where it is not a multiple of ours."""
        return self.convention.factor

    def __getitem__(self, name: str) -> Observation:
        """Return what was found of a property, by its name."""
        return {found.name: found for found in self.findings}[name]

    @property
    def verdict(self) -> str:
        """Whether it conforms, in a few words."""
        if not self.passed:
            return "does not conform"
        ours = self.factor is None or self.factor.is_one
        return "conforms" if ours else "conforms, up to a factor"

    @property
    def in_words(self) -> str:
        """The convention in one sentence, and what follows for λ."""
        factor, ours = self.factor, self.reference
        if factor is None:
            return self[SAME].told
        added = "" if self.convention.by_value else f"; {ADDED}"
        if factor.is_one:
            return f"it is {ours}{added}"
        phrases = "; ".join(factor.phrases().values())
        return f"it is {factor.of(ours)}: it {phrases}{added}. {self._weight(factor)}"

    def _weight(self, factor: Factor) -> str:
        inverse = factor.inverse()
        letters = [letter for letter in (*self.kind.letters, "τ") if letter in factor.letters]
        sizes = {letter: USUAL.get(letter, 8) for letter in letters if letter != "τ"}
        at = ", ".join(
            f"{name} = {size}" for name, size in {**sizes, "τ": 4}.items() if name in letters
        )
        number = f"{inverse.value(4.0, **sizes):.4g}"
        example = f" ({number} for {at})" if letters else ""
        return f"λ must be {inverse} times as large{example}"

    def __str__(self) -> str:
        lines = [f"{self.name}, as {self.reference}: {self.verdict}", ""]
        words = f"{self.in_words}."
        if self.broken:
            words += f" What breaks: {'; '.join(found.name for found in self.broken)}."
        lines += textwrap.wrap(words, 96, initial_indent="  ", subsequent_indent="  ")
        lines += [f"  ({note})" for note in self.notes]
        lines.append("")
        for found in self.findings:
            words = f"{SIGNS[found.status]} {found.name}" + f": {found.told}" * bool(found.told)
            lines += textwrap.wrap(words, 96, initial_indent="  ", subsequent_indent="    ")
            lines += textwrap.indent(found.code, "        ").splitlines()
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        rows = [
            f"| {SIGNS[f.status]} | {f.name} | {f.told.replace('|', chr(92) + '|')} |"
            for f in self.findings
        ]
        table = "\n".join(["| | property | found |", "|---|---|---|", *rows])
        programs = [f"**{f.name}**\n\n```python\n{f.code}\n```" for f in self.broken if f.code]
        head = f"**`{self.name}`, as `{self.reference}`: {self.verdict}**\n\n{self.in_words}."
        return "\n\n".join([head, *self.notes, table, *programs])
