"""An ensemble as a teacher: averaging, or a majority vote."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse.batch import Inputs
from kdcourse.checks import check_choice, check_logits, check_module
from kdcourse.errors import ArgumentError
from kdcourse.logit import softmax
from kdcourse.objective import Outputs
from kdcourse.precision import at_least_float32
from kdcourse.predictions import check_class_dim, check_predictions
from kdcourse.signatures import check_is, checked
from kdcourse.training.teacher import Teacher, as_teacher


@checked
class Ensemble(Teacher):
    """Several models, of any architectures, that answer as one.

    - ``"logits"``: the mean logits (a geometric mean of the probabilities).
    - ``"probabilities"``: the mean probabilities.
    - ``"vote"``: the share of members that name a class. A tie goes to the class that comes first:
      this is what ``argmax`` of the shares makes of it.

    Calling it returns the mean logits, or else the probabilities, of the shape of a member's. A
    vote distils as its
    shares (:func:`kdcourse.logit.kd_loss_from_probabilities`).

    Args:
        members: Modules or teachers, as a list or one after the other; held, not copied. A member
            that shows probabilities only (a closed teacher) can be averaged by those and can vote.
        combine: How their answers become one.
        class_dim: The dimension of the classes: 1 for ``(N, K)`` and ``(N, K, H, W)``, −1 for
            ``(N, T, K)``. The mean logits have no need of it.
    """

    about = "an ensemble shows predictions"
    reason = "its members' features have nothing in common; use a loss on predictions"

    def __init__(
        self,
        *members: Any,
        combine: str = "probabilities",
        class_dim: int = 1,
    ):
        super().__init__()
        if members and isinstance(members[-1], str):  # Ensemble(members, "vote")
            *members, combine = members  # type: ignore[assignment]
        check_choice("combine", combine, ("logits", "probabilities", "vote"))
        if len(members) == 1 and not isinstance(members[0], nn.Module):
            check_is("members", members[0], Iterable[nn.Module])
            members = tuple(members[0])
        if not members:
            raise ArgumentError(
                "members", "an ensemble needs at least one member, members is empty"
            )
        for member in members:
            check_module("members", member)
        self.members: Any = nn.ModuleList(as_teacher(member) for member in members)
        check_class_dim(class_dim)
        self.combine = combine
        self.class_dim = None if combine == "logits" else class_dim
        self._known = False  # whether its members show logits
        self.eval()

    @property
    def shows_logits(self) -> bool:  # type: ignore[override]
        """Whether it shows logits: not of a vote, nor where a member shows probabilities only."""
        open_members = all(member.shows_logits for member in self.members)
        return self.combine == "logits" or (self.combine == "probabilities" and open_members)

    @torch.no_grad()
    def show(self, inputs: Inputs, layers: Sequence[str] = ()) -> Outputs:
        """Show what the members think together; asking for layers is an error."""
        self.check_shown(layers)
        shown = [member.show(inputs) for member in self.members]
        for outputs in shown if not (self._known or self.combine == "vote") else ():
            if outputs.logits is not None:
                told = 1 if self.class_dim is None else self.class_dim
                check_logits("members", "a member of the ensemble", outputs.logits, told)
        self._known = True
        open_members = all(outputs.logits is not None for outputs in shown)
        if self.combine == "logits":
            if not open_members:
                raise ArgumentError(
                    "combine", "a member shows probabilities only: combine those instead"
                )
            return Outputs(logits=_stacked([outputs.logits for outputs in shown]).mean(dim=0))
        if self.combine == "probabilities" and open_members:
            logits = _stacked([outputs.logits for outputs in shown])
            log_p = logits.log_softmax(dim=self._dim(logits))
            mean = log_p.logsumexp(dim=0) - math.log(len(logits))
            return Outputs(logits=mean, probabilities=mean.exp())
        answers = _stacked([self._probabilities(outputs) for outputs in shown])
        if self.combine == "vote":
            dim = self._dim(answers)
            named = answers.argmax(dim=dim)
            answers = nn.functional.one_hot(named, answers.shape[dim]).to(answers.dtype)
            answers = answers.movedim(-1, dim)
        return Outputs(probabilities=answers.mean(dim=0))

    def _dim(self, stacked: Tensor) -> int:
        """Return the dimension of the classes where the members' answers are stacked."""
        assert self.class_dim is not None
        check_predictions("a member's answer", stacked[0], self.class_dim)
        return self.class_dim % (stacked.dim() - 1) + 1

    def _probabilities(self, shown: Outputs) -> Tensor:
        if shown.probabilities is not None:
            return at_least_float32(shown.probabilities)
        assert shown.logits is not None
        assert self.class_dim is not None
        return softmax(shown.logits, class_dim=self.class_dim)

    def __repr__(self) -> str:
        kinds = [type(getattr(member, "model", member)).__name__ for member in self.members]
        return f"Ensemble({len(kinds)} members: {', '.join(kinds)}, combine={self.combine!r})"


def _stacked(answers: Sequence[Tensor | None]) -> Tensor:
    """Stack the members' answers, ``(M, N, K)`` or of more dimensions."""
    given = [at_least_float32(answer) for answer in answers if answer is not None]
    shapes = {tuple(answer.shape) for answer in given}
    if len(shapes) != 1:
        raise ArgumentError(
            "members", f"members must answer alike, with (N, K); they gave {sorted(shapes)}"
        )
    return torch.stack(given)
