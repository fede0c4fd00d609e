"""Small things to train on, shared by the tests of objectives, training and teachers."""

import torch
from torch import Tensor, nn

import kdcourse
from kdcourse import models
from kdcourse.data import Images, replay
from kdcourse.training import History, Term, fit

CLASSES = 4


def images(size: int = 96, *, channels: int = 1, seed: int = 0) -> Images:
    """Noise of 12×12 pixels with one bright quadrant, which is the class."""
    pixels = torch.randint(0, 100, (size, channels, 12, 12), generator=replay(seed))
    target = torch.arange(size) % CLASSES
    for sample, label in enumerate(target.tolist()):
        row, column = 6 * (label // 2), 6 * (label % 2)
        pixels[sample, :, row : row + 6, column : column + 6] += 100
    names = tuple("abcd")
    return Images(pixels.byte(), target, names, (0.3,) * channels, (0.25,) * channels)


def net(width: int = 2, *, seed: int = 1) -> nn.Module:
    return models.plain(width, classes=CLASSES, seed=seed)


class Scores(nn.Module):
    """Returns its logits behind something else of the same shape."""

    def __init__(self):
        super().__init__()
        self.model = net()

    def forward(self, inputs):
        logits = self.model(inputs)
        return {"features": torch.zeros_like(logits), "scores": logits}


def noisy() -> nn.Module:
    """A net with dropout."""
    student = net()
    student.embedding.append(nn.Dropout(0.5))
    return student


def train(student: nn.Module, objective=None, **options) -> History:
    """Train on the toy set; on the CPU, where runs are the same bit by bit."""
    defaults = {"epochs": 2, "batch_size": 32, "device": "cpu", "progress": False}
    return fit(student, options.pop("train", images()), objective, **{**defaults, **options})


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Copy weights and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are the same, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def terms() -> list[type[Term]]:
    """Every term of the library, found where it stands."""
    values = (getattr(kdcourse, name) for name in kdcourse.public_names())
    kinds = (kind for kind in values if isinstance(kind, type) and issubclass(kind, Term))
    found = {kind for kind in kinds if kind.loss is not Term.loss}
    return sorted(found, key=lambda kind: kind.__name__)


class Projected(Term):
    """A term with a weight of its own, between layers of student (2 wide) and teacher (4 wide)."""

    student_layers = ("stage1",)
    teacher_layers = ("stage1",)

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(2, 4)
        nn.init.constant_(self.projection.weight, 0.5)
        nn.init.zeros_(self.projection.bias)

    def loss(self, lesson):
        student = lesson.student.features["stage1"].mean(dim=(2, 3))
        teacher = lesson.teacher.features["stage1"].mean(dim=(2, 3))
        return (self.projection(student) - teacher).square().mean()
