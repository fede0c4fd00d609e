"""Trainings that are killed and called again: ``python tests/kill/trainings.py NAME``.

They leave their checkpoints, their answers, and last of all ``outcome.json`` in the folder ``out``.
"""

import hashlib
import json
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import Projected, images, net, noisy, train

from kdcourse.augmentation import Noise
from kdcourse.teachers import (
    CachedLessons,
    MomentumTeacher,
    born_again,
    distill_through,
    mutual_learning,
)
from kdcourse.tips import Consistent
from kdcourse.training import CrossEntropy, History, LogitKD

OUT, BEGUN = Path("out"), Path("begun")
CHECKPOINT = OUT / "run.pt"
KD = CrossEntropy() + 4.0 * LogitKD()
COMMON = {"batch_size": 32, "device": "cpu", "progress": False, "checkpoint": CHECKPOINT}
Outcome = tuple[dict[str, nn.Module], list[History]]


def plain() -> Outcome:
    """Everything that has to be taken up again: momentum, schedule, order of the images,
    augmentation, dropout, batch norm, and a term with a weight of its own."""
    student, objective = noisy(), KD + Projected()
    settings = {"teacher": net(4, seed=2), "validation": images(40, seed=1), "augment": Noise(0.1)}
    history = train(student, objective, epochs=40, checkpoint=CHECKPOINT, **settings)
    return {"student": student, "objective": objective}, [history]


def loader() -> Outcome:
    """A loader with processes of its own, another optimiser, and a teacher that follows."""
    data = TensorDataset(images().inputs(), images().target)
    batches = DataLoader(data, 32, shuffle=True, num_workers=1)
    student, teacher = noisy(), MomentumTeacher(noisy(), 0.9)
    optimizer = partial(torch.optim.AdamW, lr=0.01)
    settings = {"teacher": teacher, "optimizer": optimizer, "epochs": 15}
    history = train(student, KD, train=batches, checkpoint=CHECKPOINT, **settings)
    return {"student": student, "teacher": teacher}, [history]


def mutual() -> Outcome:
    """Two students that teach each other."""
    students = [noisy(), net(3, seed=2)]
    histories = mutual_learning(students, images(), epochs=25, **COMMON)
    return dict(zip("ab", students, strict=True)), histories


def assistant() -> Outcome:
    """A chain of three links."""
    large, small, student = net(3, seed=1), net(2, seed=2), noisy()
    histories = distill_through(
        net(4, seed=9), [large, small], student, images(), KD, epochs=12, **COMMON
    )
    return {"large": large, "small": small, "student": student}, histories


def generations() -> Outcome:
    """Three generations."""
    family = born_again(
        lambda seed: net(seed=seed), images(), KD, generations=3, epochs=15, **COMMON
    )
    return {f"generation {k}": child for k, child in enumerate(family, 1)}, []


def cached() -> Outcome:
    """Answers to eight epochs, which are asked for once, and then replayed twice."""
    views = Consistent(Noise(0.1))
    teacher = net(32, seed=9)
    lessons = CachedLessons(
        teacher, images(), views=views, epochs=8, batch_size=32, path=OUT / "answers"
    )
    student = noisy()
    settings = {"train": lessons, "teacher": lessons.teacher, "epochs": 24}
    history = train(student, KD, checkpoint=CHECKPOINT, **settings)
    return {"student": student}, [history]


RUNS = {run.__name__: run for run in (plain, loader, mutual, assistant, generations, cached)}


def digests(model: nn.Module) -> dict[str, str]:
    """Return a checksum of each of a model's weights and buffers."""
    return {
        name: hashlib.sha256(value.detach().numpy().tobytes()).hexdigest()
        for name, value in model.state_dict().items()
    }


def main(run: str) -> None:
    """Train, and write down what came out."""
    BEGUN.touch()
    models, histories = RUNS[run]()
    weights = {name: digests(model) for name, model in models.items()}
    outcome = {"weights": weights, "rows": [history.rows for history in histories]}
    (OUT / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
