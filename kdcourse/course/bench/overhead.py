"""What ``fit`` and the batches cost, against the same written out or in the usual way."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

from kdcourse import models, motivation
from kdcourse.augmentation import pad_crop_flip
from kdcourse.course.bench.compare import Comparison, Store, compare, comparison_table
from kdcourse.course.claims.results import RESULTS
from kdcourse.data import Images, fashion_mnist
from kdcourse.logit import kd_loss
from kdcourse.teachers import CachedLessons, pretrained
from kdcourse.tips import Consistent
from kdcourse.training import CrossEntropy, LogitKD, fit
from kdcourse.training.device import one_thread

STORE = Store(RESULTS / "bench.json", "python -m kdcourse bench", Comparison)
load, table = STORE.load, comparison_table
CACHED = "an epoch with cached answers of res16 ÷ an epoch on labels (plain8, augmented)"


def measure(
    *, images: int = 4000, points: int = 31, rounds: int = 9, store: Store[Comparison] = STORE
) -> list[Comparison]:
    """Run every comparison on one thread, store it with the versions, and return it.

    A landscape, ``points`` × ``points``, has a quarter of the images and is drawn only once.
    """
    store.check()
    train = fashion_mnist().train[:images]
    few, crops = train[: images // 4], pad_crop_flip()
    lessons = CachedLessons(pretrained("res16"), train, views=Consistent(crops), epochs=1)
    compared: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "an epoch of fit ÷ the same steps by hand (plain8 student, res16 teacher)": (
            lambda: by_fit(train, pretrained("res16"))(),  # a new student every time
            lambda: _epoch_by_hand(train),
        ),
        CACHED: (
            lambda: by_fit(lessons, lessons.teacher)(),  # which is asked in the warm-up
            lambda: by_fit(train, augment=crops)(),
        ),
        "an epoch of augmented batches ÷ Dataset, per-image transforms, DataLoader": (
            lambda: deque(train.batches(128, augment=crops), maxlen=0),  # reads all, keeps none
            lambda: deque(DataLoader(PerImage(train), batch_size=128, shuffle=True), maxlen=0),
        ),
    }
    landscape = (
        f"a landscape of {points} × {points} points (plain8, {images // 4} images) ÷ a "
        "model moved to every point and a DataLoader read there"
    )
    with one_thread():
        comparisons = [compare(name, *ways, rounds) for name, ways in compared.items()]
        drawn = lambda: _our_landscape(few, points), lambda: _loader_landscape(few, points)
        comparisons.append(compare(landscape, *drawn, 1))
    store.save(comparisons, images=images)
    return comparisons


def by_fit(
    train: Images | CachedLessons,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    **options: Any,
) -> Callable[[], float]:
    """Return what trains one student (plain8 by default) for one more epoch with every call."""
    student = models.plain(8, seed=0) if student is None else student
    objective = CrossEntropy() + LogitKD(4) if teacher else CrossEntropy()
    options = {"epochs": 1, "device": "cpu", "progress": False, **options}
    return lambda: fit(student, train, objective, teacher=teacher, **options).last["loss"]


def sgd(parameters: Any, *, fused: bool | None = None) -> torch.optim.Optimizer:
    """Return the default optimiser of ``fit``, if asked for with all parameters in one kernel."""
    return torch.optim.SGD(
        parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=fused
    )


def _epoch_by_hand(train: Images) -> nn.Module:
    """Take the steps of ``fit`` written out: forward, backward, optimiser, and nothing else."""
    student, teacher = models.plain(8, seed=0).train(), pretrained("res16")
    optimizer, steps = sgd(student.parameters()), -(-len(train) // 128)
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
