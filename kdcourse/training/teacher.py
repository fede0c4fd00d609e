"""A teacher is anything that, called with a batch, shows outputs without gradients."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

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


class FoldedTeacher(FrozenTeacher):
    r"""The same, faster: batch norm is folded into the convolutions before it.

    .. math:: \gamma\, \frac{W x - \mu}{\sigma} + \beta
              = \frac{\gamma}{\sigma} W x + \Big(\beta - \frac{\gamma \mu}{\sigma}\Big)

    Logits are those of the model up to rounding. They come from a copy, made now; what does not
    fold stays as it is in it. Hidden layers and input gradients still come from the model itself.
    The first batch is shown by both and compared.

    Raises:
        ValueError: ``torch.fx`` cannot trace the model, or (at the first batch) the copy differs.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        try:
            self.folded = fuse(model).eval()
        except Exception as error:  # tracing runs the model's own code, which may raise anything
            raise ValueError(f"{self._failure()}: {error}") from error
        self._compared = False

    @torch.no_grad()
    def show(self, inputs: Tensor, layers: Sequence[str] = ()) -> Outputs:
        """Show logits, and the features of the named layers."""
        if layers:
            return super().show(inputs, layers)
        self._stay_in_eval_mode()
        logits = self.folded(inputs)
        if not self._compared:
            expected = self.model(inputs)
            if not (logits - expected).abs().max() <= 0.05 * expected.abs().max():  # NaN neither
                raise ValueError(f"{self._failure()}: its logits would be others")
            self._compared = True
        return Outputs(logits=logits)

    def _failure(self) -> str:
        kind = type(self.model).__name__
        return f"the batch norm of a {kind} cannot be folded, use a FrozenTeacher"


def as_teacher(model: nn.Module) -> Teacher:
    """Return ``model`` if it is a teacher already, or freeze it into one."""
    return model if isinstance(model, Teacher) else FrozenTeacher(model)


def follows(teacher: nn.Module | None) -> bool:
    """Whether a teacher changes with its student."""
    return isinstance(teacher, Teacher) and teacher.follows_student
