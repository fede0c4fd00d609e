"""One example of any term, made from its signature, for what is tested of all terms."""

import copy
import inspect

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcourse.logit import LogitKD
from kdcourse.objective import Lesson, Outputs, Term
from kdcourse.prediction_term import EntryTerm

SAMPLES, CLASSES = 4, 3
# What a term has to be told: names of layers, or a term.
GIVEN = {"layers": ["stage1", "stage2"], "layer": "stage2", "term": LogitKD(), "view": 1}
# What a term is told besides, where its defaults do not fit what is shown here.
TOLD = {
    "AttentionRelation": {"layers": ["stage1"], "heads": 1, "channel_dim": 1},
    "SimKD": {"layer": "classifier"},
    "KnowledgeReview": {"layers": ["stage1", "stage2"], "norm": False},  # which is of a process
    "Flow": {"layers": ["classifier", "classifier"]},  # of which both nets have as many channels
    "ScaleDecoupledKD": {"layer": "stage3|classifier"},
    "TopKKD": {"k": 2},
    "WarmUp": {"steps": 10},
}
FEATURES = {
    "stage1": ((2, 4, 4), (3, 4, 4)),
    "stage2": ((2, 3, 3), (4, 2, 2)),
    "stage3|classifier": ((CLASSES, 4, 4), (CLASSES, 2, 2)),
    "embedding": ((3,), (5,)),
    "classifier": ((CLASSES,), (CLASSES,)),
}


def example(kind: type[Term]) -> Term:
    """Make a term with its defaults, and with what it has to be told."""
    parameters = inspect.signature(kind).parameters.values()
    given = {p.name: GIVEN[p.name] for p in parameters if p.default is p.empty}
    return kind(**{**given, **TOLD.get(kind.__name__, {})})


class Shown:
    """What a student showed of a few samples, as a list of tensors; the teacher's is fixed."""

    def __init__(self, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0):
        draw = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> Tensor:
            numbers = torch.randn(SAMPLES, *shape, generator=draw, dtype=torch.float64)
            return numbers.to(device, dtype)

        self.teacher = Outputs(
            logits=3 * drawn(CLASSES),
            features={name: drawn(*theirs) for name, (_, theirs) in FEATURES.items()},
            input_gradient=drawn(1, 3, 3),
        )
        self.target = (torch.arange(SAMPLES) % CLASSES).to(device)
        self.student = [drawn(CLASSES), *(drawn(*own) for own, _ in FEATURES.values())]
        self.student.append(drawn(1, 3, 3))

    def lesson(self, *student: Tensor) -> Lesson:
        """Return the lesson in which the student shows these tensors."""
        logits, *features, gradient = student or self.student
        shown = dict(zip(FEATURES, features, strict=True))
        own = Outputs(logits=logits, features=shown, input_gradient=gradient)
        return Lesson(own, self.target, self.teacher)


def target_for(kind: type[Term], classes: Tensor, count: int = CLASSES) -> Tensor:
    """Return labels that a term can learn from: classes, or an entry for each of them."""
    if issubclass(kind, EntryTerm) and kind.mean_over == "labels":
        return F.one_hot(classes, count).float()
    return classes


def prepared(kind: type[Term], shown: Shown) -> Term:
    """Make a term whose weights fit what is shown."""
    term = example(kind)
    shown.target = target_for(kind, shown.target)
    term.prepare(shown.lesson(), steps_an_epoch=3)
    return term.to(shown.student[0].device, shown.student[0].dtype)


def loss(term: Term, lesson: Lesson) -> Tensor:
    """Return the loss, of a copy: some terms change with every batch."""
    return copy.deepcopy(term).loss(lesson)
