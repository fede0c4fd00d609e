r"""Self-distillation with a context: the teacher sees a hint before a text, the student does not.

So the student learns to write as the teacher does with the hint c,

.. math:: \min_\theta\; KL(p(x | c) \,\|\, p_\theta(x)),

and needs none. Both may be one model at first.

>>> lessons = DataLoader(ContextLessons(words, vocabulary), batch_size=64, shuffle=True)
>>> objective = LogitKD(1.0, class_dim=-1, ignore_index=-1)
>>> fit(student, lessons, objective, teacher=ContextTeacher(teacher))

Source: Askell et al. 2021 (arXiv 2112.00861), *context distillation*; Snell et al. 2022
(arXiv 2209.15189).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kdcourse.batch import Inputs, SeparateViews
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.language.definitions import Definitions
from kdcourse.language.vocabulary import Characters
from kdcourse.objective import Outputs
from kdcourse.signatures import checked
from kdcourse.training.teacher import Teacher, as_teacher, follows


@checked
class ContextLessons(Dataset):
    """Definitions, of which the teacher sees each in a context, the student without one.

    Samples ``(SeparateViews(student, teacher), target)``, for a ``DataLoader``. The teacher sees
    ``tokens`` ``(T′,)``, context included, and is told the ``places`` ``(T,)`` of the student's
    tokens among them, which is what :class:`ContextTeacher` looks for. Its texts are longer, by
    the context, and their words stand at later positions than the student's.

    Args:
        definitions: Words and their definitions.
        vocabulary: Both nets'.
        contexts: What stands before each word, for the teacher; by default its part of speech, as
            in ``noun gait:a manner of walking`` (:meth:`Definitions.in_context
            <kdcourse.language.Definitions.in_context>`, on which such a teacher learns).
    """

    def __init__(
        self,
        definitions: Definitions,
        vocabulary: Characters,
        contexts: Sequence[str] | None = None,
    ):
        longer = definitions.in_context(contexts)
        self.inputs, self.target = definitions.lessons(vocabulary)
        self.tokens, _ = longer.lessons(vocabulary)
        both = zip(longer.words, definitions.words, strict=True)
        before = torch.tensor([len(own) - len(word) for own, word in both]).view(-1, 1)
        places = before + torch.arange(self.inputs.shape[1])
        self.places = places.clamp(max=self.tokens.shape[1] - 1)  # none that counts is beyond

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, number: int) -> tuple[SeparateViews, Tensor]:
        theirs = {"tokens": self.tokens[number], "places": self.places[number]}
        return SeparateViews(self.inputs[number], theirs), self.target[number]


@checked
class ContextTeacher(Teacher):
    """A teacher that sees more than the student, and shows what it makes of what both see.

    Args:
        teacher: A module or teacher that maps tokens ``(N, T′)`` to predictions ``(N, T′, V)``.
    """

    def __init__(self, teacher: nn.Module):
        super().__init__()
        if follows(teacher):
            raise ArgumentError("teacher", "a teacher in a context cannot follow the student")
        self.teacher = as_teacher(teacher)
        self.eval()

    @property
    def shows_logits(self) -> bool:  # type: ignore[override]
        """Whether it shows logits, as the teacher itself does."""
        return self.teacher.shows_logits

    @property
    def class_dim(self) -> int | None:  # type: ignore[override]
        """The dimension of the classes, as of the teacher itself."""
        return self.teacher.class_dim

    def check_shown(self, layers: Sequence[str], *, input_gradient: bool = False) -> None:
        self.teacher.check_shown(layers)
        super().check_shown((), input_gradient=input_gradient)

    def check_student(self, student: nn.Module) -> None:
        self.teacher.check_student(student)

    def show(self, inputs: Inputs, layers: Sequence[str] = ()) -> Outputs:
        """Show predictions, and features ``(N, T′, …)``, at the places of the student's tokens.

        Args:
            inputs: A dictionary of ``tokens`` ``(N, T′)`` and of ``places`` ``(N, T)`` among them.
            layers: Names of the layers to show.
        """
        if not isinstance(inputs, Mapping) or inputs.keys() != {"tokens", "places"}:
            raise ArgumentTypeError(
                "train", "train must show a ContextTeacher tokens and places, as ContextLessons do"
            )
        tokens, places = inputs["tokens"], inputs["places"]
        shown = self.teacher.show(tokens, layers)

        def at_places(name: str, one: Tensor) -> Tensor:
            if one.dim() < 3 or one.shape[:2] != tokens.shape:
                raise ArgumentError(
                    "layers",
                    f"layers must be of tokens (N, T, …) beside a ContextTeacher, and {name} "
                    f"is {tuple(one.shape)}, where tokens are {tuple(tokens.shape)}",
                )
            there = places.view(*places.shape, *[1] * (one.dim() - 2))
            return one.take_along_dim(there, dim=1)

        parts = {"logits": shown.logits, "probabilities": shown.probabilities}
        predictions = {n: None if one is None else at_places(n, one) for n, one in parts.items()}
        features = {name: at_places(name, one) for name, one in shown.features.items()}
        return Outputs(**predictions, features=features)
