"""A teacher is anything that, called with a batch, shows outputs without gradients."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kdcourse.feature import input_gradient
from kdcourse.models import capture


@dataclass
class Outputs:
    """What a model showed on one batch.

    Attributes:
        logits: ``(N, K)``; None where the model keeps them to itself.
        probabilities: ``(N, K)`` at temperature 1, from teachers that show nothing else.
        features: outputs of the layers that were asked for, by name.
        input_gradient: of the target's log-probability by the inputs, where it was asked for.
    """

    logits: Tensor | None = None
    probabilities: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    input_gradient: Tensor | None = None


class Teacher(nn.Module):
    """Base of all teachers: always in eval mode, never with gradients.

    A subclass defines :meth:`show`. Calling a teacher returns what it predicts, ``(N, K)``.

    Attributes:
        follows_student: whether :meth:`update` changes the teacher.
    """

    follows_student: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode, whatever is asked: a teacher in train mode teaches noise."""
        return super().train(False)

    def show(self, inputs: Tensor, layers: Sequence[str] = ()) -> Outputs:
        """Show outputs for a batch of inputs, and those of the named layers."""
        raise NotImplementedError

    def update(self, student: nn.Module, step: int) -> None:
        """Follow the student after its step number ``step``; most teachers stay as they are."""

    def input_gradient(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Show how the prediction of the target depends on the inputs, if the teacher can.

        Raises:
            ValueError: its weights are not open.
        """
        raise ValueError(
            f"a {type(self).__name__} shows no input gradients: use a loss on predictions, or a "
            "teacher whose weights are open"
        )

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs to predictions ``(N, K)``: probabilities if it shows them, else logits."""
        shown = self.show(inputs)
        predictions = shown.logits if shown.probabilities is None else shown.probabilities
        assert predictions is not None
        return predictions


class FrozenTeacher(Teacher):
    """A trained model as a teacher.

    The model itself is held, not a copy; it is put into eval mode and asked without gradients.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.eval()

    @torch.no_grad()
    def show(self, inputs: Tensor, layers: Sequence[str] = ()) -> Outputs:
        """Show logits, and the features of the named layers."""
        self._stay_in_eval_mode()
        with capture(self.model, layers) as features:
            logits = self.model(inputs)
        return Outputs(logits=logits, features=features)

    def input_gradient(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Show the input gradient (:func:`kdcourse.feature.input_gradient`)."""
        self._stay_in_eval_mode()
        return input_gradient(self.model, inputs, target)

    def _stay_in_eval_mode(self) -> None:
        if self.model.training:  # someone else has put it into train mode meanwhile
            self.model.eval()


def as_teacher(model: nn.Module) -> Teacher:
    """Return ``model`` if it is a teacher already, or freeze it into one."""
    return model if isinstance(model, Teacher) else FrozenTeacher(model)


def follows(teacher: nn.Module | None) -> bool:
    """Whether a teacher changes with its student."""
    return isinstance(teacher, Teacher) and teacher.follows_student
