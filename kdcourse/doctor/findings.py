"""What a doctor says of a run: findings of one sentence each, and what was looked at."""

import html
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Something in a run that calls for a remark.

    Attributes:
        about: What it is about, in a few words; one report says one thing about it.
        seen: What is seen: the beginning of a sentence.
        matters: Why it matters.
        advice: What to try.
    """

    about: str
    seen: str
    matters: str
    advice: str

    def __str__(self) -> str:
        return f"{self.seen}, {self.matters}: {self.advice}."


@dataclass
class Findings:
    """What was found in a run.

    Attributes:
        findings: The findings; none where all is sound.
        looked_at: What was looked at, and what could not be is not among it.
        looks: The number of batches that were examined.
    """

    findings: list[Finding] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)
    looks: int = 0

    def __str__(self) -> str:
        if not self.findings:
            return self._about
        return "\n".join([*(f"• {one}" for one in self.findings), self._about])

    __repr__ = __str__

    @property
    def _about(self) -> str:
        """Say what was looked at, and how often."""
        count = f"{len(self.findings) or 'no'} remark{'s' * (len(self.findings) != 1)}"
        batches = f" on {self.looks} batch{'es' * (self.looks != 1)}" if self.looks else ""
        return f"{count}{batches}; looked at: {', '.join(self.looked_at) or 'nothing'}"

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(str(one))}</li>" for one in self.findings)
        return f"<ul>{items}</ul>" * bool(items) + f"<p>{html.escape(self._about)}</p>"

    def __or__(self, other: "Findings") -> "Findings":
        """Join two reports; of what both have found, this one speaks."""
        known = {one.about for one in self.findings}
        more = [one for one in other.findings if one.about not in known]
        looked_at = dict.fromkeys([*self.looked_at, *other.looked_at])
        return Findings([*self.findings, *more], [*looked_at], self.looks + other.looks)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Findings":
        """Return what :meth:`as_dict` has stored."""
        return cls(**{**stored, "findings": [Finding(**one) for one in stored["findings"]]})
