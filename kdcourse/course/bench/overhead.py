"""What ``fit`` and the batches cost, against the same written out or in the usual way."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

from kdcourse import models, motivation
from kdcourse.augmentation import pad_crop_flip
from kdcourse.course.bench.compare import Comparison, compare, store
from kdcourse.course.claims.results import RESULTS, current_versions
from kdcourse.data import Images, fashion_mnist
from kdcourse.logit import kd_loss
from kdcourse.teachers import CachedLessons, pretrained
from kdcourse.tips import Consistent
from kdcourse.training import CrossEntropy, LogitKD, fit
from kdcourse.training.device import one_thread

PATH = RESULTS / "bench.json"
CACHED = "an epoch with cached answers of res16 ÷ an epoch on labels (plain8, augmented)"


def measure(
    *, images: int = 4000, points: int = 31, rounds: int = 9, path: Path = PATH
) -> list[Comparison]:
    """Run every comparison on one thread, store it with the versions, and return it.

    Args:
        images: in an epoch; a quarter of them in a landscape.
        points: along each side of a landscape; it is drawn once, however many rounds.
        rounds: of every other comparison.
        path: where to store.
    """
    with one_thread():
        train = fashion_mnist().train[:images]
        lessons = CachedLessons(
            pretrained("res16"), train, views=Consistent(pad_crop_flip()), epochs=1
        )
        comparisons = [
            compare(
                "an epoch of fit ÷ the same steps by hand (plain8 student, res16 teacher)",
                lambda: _epoch_of_fit(train),
                lambda: _epoch_by_hand(train),
                rounds,
            ),
            compare(
                CACHED,
                lambda: _epoch_of_lessons(lessons),  # the teacher is asked in the warm-up
                lambda: _epoch_of_labels(train),
                rounds,
            ),
            compare(
                "an epoch of augmented batches ÷ Dataset, per-image transforms, DataLoader",
                lambda: _our_batches(train),
                lambda: _loader_batches(train),
                rounds,
            ),
            compare(
                f"a landscape of {points} × {points} points (plain8, {images // 4} images) ÷ a "
                "model moved to every point and a DataLoader read there",
                lambda: _our_landscape(train[: images // 4], points),
                lambda: _loader_landscape(train[: images // 4], points),
                1,
            ),
        ]
    stored = [asdict(c) for c in comparisons]
    command = "python -m kdcourse bench"
    store(path, command, current_versions(), images=images, comparisons=stored)
    return comparisons


def load(path: Path = PATH) -> list[Comparison]:
    """Return the stored comparisons."""
    return [Comparison(**c) for c in json.loads(path.read_text())["comparisons"]]


def table(comparisons: list[Comparison]) -> str:
    """Return the comparisons as a Markdown table."""
    lines = ["| ours ÷ other | ours, s | other, s | ratio | rounds |", "|---|---|---|---|---|"]
    lines += [
        f"| {c.name} | {c.ours:.3f} | {c.other:.3f} | **{c.ratio:.3f}** | {c.rounds} |"
        for c in comparisons
    ]
    return "\n".join(lines)


def _epoch_of_fit(train: Images) -> nn.Module:
    student = models.plain(8, seed=0)
    objective = CrossEntropy() + LogitKD(4)
    fit(
        student,
        train,
        objective,
        teacher=pretrained("res16"),
        epochs=1,
        device="cpu",
        progress=False,
    )
    return student


def _epoch_by_hand(train: Images) -> nn.Module:
    """The steps of ``fit`` written out: forward, backward, optimiser, and nothing else."""
    student, teacher = models.plain(8, seed=0).train(), pretrained("res16")
    optimizer = torch.optim.SGD(
        student.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = -(-len(train) // 128)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for inputs, target in train.batches(128):
        with torch.no_grad():
            taught = teacher(inputs)
        logits = student(inputs)
        loss = nn.functional.cross_entropy(logits, target) + kd_loss(logits, taught, 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return student


def _epoch_of_lessons(lessons: CachedLessons) -> None:
    objective = CrossEntropy() + LogitKD(4)
    student, teacher = models.plain(8, seed=0), lessons.teacher
    fit(student, lessons, objective, teacher=teacher, epochs=1, device="cpu", progress=False)


def _epoch_of_labels(train: Images) -> None:
    student = models.plain(8, seed=0)
    fit(student, train, augment=pad_crop_flip(), epochs=1, device="cpu", progress=False)


def _our_batches(train: Images) -> None:
    for _ in train.batches(128, augment=pad_crop_flip()):
        pass


class PerImage(Dataset):
    """The usual way: one image at a time, transformed on its own."""

    def __init__(self, train: Images):
        self.train = train
        self.transform = v2.Compose(
            [
                v2.RandomCrop(train.pixels.shape[-1], padding=2),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(train.mean, train.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.train)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.train.pixels[index]), int(self.train.target[index])


def _loader_batches(train: Images) -> None:
    for _ in DataLoader(PerImage(train), batch_size=128, shuffle=True):
        pass


def _our_landscape(train: Images, points: int) -> torch.Tensor:
    found = motivation.landscape(
        models.plain(8, seed=0), train.inputs(), train.target, points=points, progress=False
    )
    return found.loss


@torch.no_grad()
def _loader_landscape(train: Images, points: int) -> torch.Tensor:
    model = models.plain(8, seed=0).eval()
    loader = DataLoader(TensorDataset(train.inputs(), train.target), batch_size=128)
    directions = [motivation.filter_normalized_direction(model, n) for n in range(2)]
    steps = torch.linspace(-1, 1, points)
    losses = []
    for place in torch.cartesian_prod(steps, steps).tolist():
        moved = motivation.moved(model, directions, place)
        total = torch.zeros(())
        for inputs, target in loader:
            total += nn.functional.cross_entropy(moved(inputs), target, reduction="sum")
        losses.append(total / len(train))
    return torch.stack(losses).view(points, points)
