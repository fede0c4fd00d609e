"""A teacher is anything that, called with a batch, shows outputs without gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from kdcourse.batch import (
    Inputs,
    Output,
    blaming_argument,
    call,
    cast_like,
    differentiable,
    without_name,
)
from kdcourse.checks import check_floating
from kdcourse.errors import ArgumentError
from kdcourse.feature import prediction_gradient
from kdcourse.models import capture
from kdcourse.objective import Outputs
from kdcourse.signatures import checked
from kdcourse.training.device import guarding_hooks
from kdcourse.training.fingerprint import described


class Teacher(nn.Module):
    """Base of all teachers: always in eval mode, never with gradients.

    A subclass defines :meth:`show`, and sets those of the attributes below that differ. Calling a
    teacher returns what it predicts, ``(N, K)``.

    Attributes:
        follows_student: Whether :meth:`update` changes the teacher. (Of the two steps that it is
            made of, :meth:`share` and :meth:`follow`, a captured step replays the second.)
        shows_logits: Whether it shows logits; otherwise it shows probabilities only.
        class_dim: The dimension of the classes among which it shares out probabilities; None where
            it need not know.
        about: What it shows, where hidden layers and input gradients are not among that.
        reason: Why they are not, and what to do instead.
    """

    follows_student: bool = False
    shows_logits: bool = True
    class_dim: int | None = None
    about: str = "this teacher shows predictions only"
    reason: str = "use a loss on predictions, or a teacher whose weights are open"

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode, whatever is asked: a teacher in train mode teaches noise."""
        return super().train(False)

    def show(self, inputs: Inputs, layers: Sequence[str] = ()) -> Outputs:
        """Show outputs for a batch of inputs, and those of the named layers."""
        raise NotImplementedError

    def check_shown(self, layers: Sequence[str], *, input_gradient: bool = False) -> None:
        """Raise a ``ValueError`` if the teacher does not show these layers, or input gradients."""
        if layers:
            raise ArgumentError(
                "teacher", f"{self.about}, not the layers {', '.join(layers)}: {self.reason}"
            )
        if input_gradient:
            kind = type(self).__name__
            raise ArgumentError("teacher", f"a {kind} shows no input gradients: {self.reason}")

    def check_student(self, student: nn.Module) -> None:
        """Raise a ``ValueError`` if the teacher cannot teach, or follow, this student."""

    def update(self, student: nn.Module, step: int) -> None:
        """Follow the student after its step number ``step``; most teachers stay as they are."""
        self.follow(student, self.share(step))

    def share(self, step: int) -> float:
        """Return how far to move towards the student after a step, from 0 to 1."""
        return 0.0

    def follow(self, student: nn.Module, share: float | Tensor) -> None:
        """Move this far towards the student, on the device alone: a step may be replayed."""

    def input_gradient(self, inputs: Inputs, target: Tensor) -> Tensor:
        """Show how the prediction of the target depends on the inputs, if the teacher can."""
        self.check_shown((), input_gradient=True)
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, inputs: Inputs) -> Tensor:
        """Map inputs to predictions ``(N, K)``: probabilities if it shows them, else logits."""
        shown = self.show(inputs)
        predictions = shown.logits if shown.probabilities is None else shown.probabilities
        assert predictions is not None
        return predictions


@checked
class FrozenTeacher(Teacher):
    """A trained model as a teacher.

    The model itself is held, not a copy; it is put into eval mode and asked without gradients.

    Args:
        model: Any module.
        output: Finds the logits in what it returns, as in :class:`kdcourse.training.Knobs`.
    """

    output: Output | None = None
    _compiled: tuple[Any, ...] = ()  # a tuple: it is no further part

    def __init__(self, model: nn.Module, output: Output | None = None):
        super().__init__()
        self.model = model
        self.output = output
        self.eval()

    def extra_repr(self) -> str:
        return "" if self.output is None else f"output={described(self.output)}"

    def compiled(self) -> "FrozenTeacher":
        """Return the same teacher, asked through ``torch.compile``."""
        teacher = FrozenTeacher(self.model, self.output)
        teacher._compiled = (torch.compile(self.model),)
        return teacher

    def check_shown(self, layers: Sequence[str], *, input_gradient: bool = False) -> None:
        with capture(self.model, layers):
            pass

    @torch.no_grad()
    def show(self, inputs: Inputs, layers: Sequence[str] = ()) -> Outputs:
        self._stay_in_eval_mode()
        with capture(self.model, layers) as features, guarding_hooks(bool(self._compiled)):
            logits = call((self._compiled or (self.model,))[0], inputs, "teacher", self.output)
        return Outputs(logits=logits, features=features)

    def input_gradient(self, inputs: Inputs, target: Tensor) -> Tensor:
        """Show the input gradient (:func:`kdcourse.feature.input_gradient`)."""
        check_floating("inputs", without_name(inputs))
        self._stay_in_eval_mode()
        with torch.enable_grad():
            inputs = differentiable(cast_like(inputs, self.model))
            logits = call(self.model, inputs, "teacher", self.output)
            return prediction_gradient(logits, without_name(inputs), target)

    def _stay_in_eval_mode(self) -> None:
        if any(part.training for part in self.model.modules()):  # since someone else has asked it
            self.model.eval()


@checked
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
            raise ArgumentError("teacher", f"{self._failure()}: {error}") from error
        self._compared = False

    @torch.no_grad()
    def show(self, inputs: Inputs, layers: Sequence[str] = ()) -> Outputs:
        if layers:
            return super().show(inputs, layers)
        self._stay_in_eval_mode()
        logits = call(self.folded, inputs, "teacher")
        if not self._compared:
            expected = call(self.model, inputs, "teacher")
            if not (logits - expected).abs().max() <= 0.05 * expected.abs().max():  # NaN neither
                raise ArgumentError("teacher", f"{self._failure()}: its logits would be others")
            self._compared = True
        return Outputs(logits=logits)

    def _failure(self) -> str:
        kind = type(self.model).__name__
        return f"the batch norm of a {kind} cannot be folded, use a FrozenTeacher"


@checked
def as_teacher(teacher: nn.Module, output: Output | None = None) -> Teacher:
    """Return a teacher as it is, and freeze any other module into one.

    Args:
        teacher: A teacher, or any module.
        output: Finds the logits in what the module returns, or one that follows the student and so
            returns the same, unless it has been told already.
    """
    if isinstance(teacher, Teacher):
        if isinstance(teacher, FrozenTeacher) and teacher.follows_student:
            teacher.output = teacher.output or output
        return teacher
    with blaming_argument("teacher", "putting the teacher into eval mode"):
        return FrozenTeacher(teacher, output)


@checked
def follows(teacher: nn.Module | None) -> bool:
    """Whether a teacher changes with its student."""
    return isinstance(teacher, Teacher) and teacher.follows_student
