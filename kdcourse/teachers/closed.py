"""A closed-weight teacher: a service that returns probabilities and nothing else."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdcourse.batch import Inputs, call
from kdcourse.checks import are_probabilities, check_integer, check_outputs
from kdcourse.errors import ArgumentError
from kdcourse.logit import softmax
from kdcourse.objective import Outputs
from kdcourse.precision import at_least_float32
from kdcourse.predictions import check_class_dim, check_predictions
from kdcourse.signatures import checked
from kdcourse.training.teacher import Teacher


@checked
class ClosedTeacher(Teacher):
    """Shows the probabilities of a model as a service would: perhaps only the top k, rounded.

    What is left out or lost in rounding is made up for by renormalising, so that every row sums
    to one. Logits and features are not to be had.

    Args:
        model: The model behind the service.
        top_k: How many of the largest probabilities to show, with zeros elsewhere; all by default.
        decimals: The number of decimals to which probabilities are rounded; exact by default.
        probabilities: Whether the model returns probabilities already, and not logits; by default,
            its first outputs tell.
        class_dim: The dimension of the classes: 1 for ``(N, K)`` and ``(N, K, H, W)``, −1 for
            ``(N, T, K)``.
    """

    shows_logits = False
    about = "a closed teacher shows probabilities only"

    def __init__(
        self,
        model: nn.Module,
        top_k: int | None = None,
        decimals: int | None = None,
        *,
        probabilities: bool | None = None,
        class_dim: int = 1,
    ):
        super().__init__()
        check_class_dim(class_dim)
        self.class_dim: int = class_dim
        for name, value, least in (("top_k", top_k, 1), ("decimals", decimals, 0)):
            if value is not None:
                check_integer(name, value, least)
        self.model = model
        self.top_k = top_k
        self.decimals = decimals
        self.probabilities = probabilities
        self._known = False  # whether the first outputs have told what they are
        self.eval()

    @torch.no_grad()
    def show(self, inputs: Inputs, layers: Sequence[str] = ()) -> Outputs:
        """Show probabilities, of the model's shape; asking for layers is an error."""
        self.check_shown(layers)
        self.model.eval()
        outputs = call(self.model, inputs, "teacher")
        check_outputs("teacher", "the teacher", outputs)
        if not self._known:
            self.probabilities = self._found_out(outputs)
            self._known = True
        dim = self.class_dim
        check_predictions("the model's outputs", outputs, dim)
        probabilities = at_least_float32(outputs)
        if not self.probabilities:
            probabilities = softmax(outputs, class_dim=dim)
        if self.top_k is not None:
            if self.top_k > probabilities.shape[dim]:
                classes = probabilities.shape[dim]
                raise ArgumentError(
                    "top_k", f"top_k = {self.top_k} of a model with {classes} classes"
                )
            largest, index = probabilities.topk(self.top_k, dim=dim)
            probabilities = torch.zeros_like(probabilities).scatter_(dim, index, largest)
        if self.decimals is not None:
            probabilities = probabilities.round(decimals=self.decimals)
        total = probabilities.sum(dim=dim, keepdim=True)
        # Coarse rounding can leave nothing of a row: then nothing is known.
        uniform = torch.full_like(probabilities, 1 / probabilities.shape[dim])
        return Outputs(probabilities=torch.where(total == 0, uniform, probabilities / total))

    def _found_out(self, outputs: Tensor) -> bool:
        """Whether outputs are probabilities; what may be either, such as rounded ones, is told."""
        if self.probabilities is not None:
            if self.probabilities and bool((outputs < 0).any()):
                raise ArgumentError(
                    "probabilities",
                    "probabilities must be False for this model: some are below zero",
                )
            return self.probabilities
        rows = outputs.detach().float()
        within = bool(((rows >= 0) & (rows <= 1)).all())
        within = within and 0.5 <= float(rows.sum(dim=self.class_dim).mean()) <= 1.5
        if within and not are_probabilities(outputs, self.class_dim):
            raise ArgumentError(
                "probabilities",
                "the model's outputs may be logits or rounded probabilities: set probabilities to "
                "True or False",
            )
        return within
