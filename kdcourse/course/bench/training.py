"""Images per second of a distillation epoch: ``fit`` against the usual way to write it.

The usual way is that of PyTorch's tutorial on knowledge distillation: a ``Dataset`` that transforms
one image at a time, a ``DataLoader``, a teacher that is asked about every batch. Both sides train
the same student on equally many images, with the same augmentation, loss, optimiser and schedule.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import FashionMNIST, VisionDataset
from tqdm.auto import tqdm

from kdcourse import models
from kdcourse.augmentation import pad_crop_flip
from kdcourse.course.bench.compare import Store, in_turn, median_ratio
from kdcourse.course.bench.overhead import PerImage, by_fit, sgd
from kdcourse.course.claims.results import RESULTS
from kdcourse.course.claims.table import markdown
from kdcourse.data import Images, fashion_mnist
from kdcourse.teachers import CachedLessons, FoldedTeacher, FrozenTeacher, pretrained
from kdcourse.tips import Consistent
from kdcourse.training.device import one_thread, processor

TUTORIAL, LIVE, CACHED = "as in PyTorch's tutorial", "fit, live teacher", "fit, cached teacher"
LISTED = "ways", "knobs"  # panels without an axis
Way = Callable[[], object]  # trains for one epoch


@dataclass
class Throughput:
    """How fast one way to train is: medians over the rounds.

    Attributes:
        panel: What is compared: ``ways``, ``knobs``, or what the cost grows with.
        setting: Place on the panel's axis, or a running number where the panel has no axis.
        ratio: To the images per second of the first way at this place, taken round by round.
    """

    panel: str
    setting: int
    way: str
    images_per_second: float
    ratio: float
    rounds: int


STORE = Store(RESULTS / "bench-training.json", "python -m kdcourse bench --training", Throughput)
load = STORE.load


def measure(
    *,
    images: int = 4000,
    rounds: int = 9,
    batch_sizes: Sequence[int] = (32, 128, 512),
    widths: Sequence[int] = (8, 16, 32, 48),
    samples: Sequence[int] = (1000, 2000, 4000, 8000),
    store: Store[Throughput] = STORE,
    progress: bool = True,
) -> list[Throughput]:
    """Compare on one thread, store the results with the versions, and return them.

    Ways and knobs get ``rounds`` rounds, the other panels a third as many. ``widths`` are those of
    the teachers, ``samples`` the images in an epoch where the cost is measured against them.
    """
    store.check()
    everything = fashion_mnist().train
    train, fewer = everything[:images], max(1, rounds // 3)

    def panels() -> Iterator[list[Throughput]]:
        yield in_ways("ways", 0, ways(train), images, rounds)
        yield in_ways("knobs", 0, knobs(train), images, rounds)
        for size in batch_sizes:
            yield in_ways("batch size", size, usual(train, batch_size=size), images, fewer)
        for width in widths:
            teacher = models.residual(width, seed=0).eval()
            yield in_ways("width of the teacher", width, usual(train, teacher), images, fewer)
        for size in samples:
            yield in_ways("samples", size, usual(everything[:size]), size, fewer)

    total = 2 + len(batch_sizes) + len(widths) + len(samples)
    bar = tqdm(panels(), total=total, disable=not progress)
    with one_thread():
        results = [row for panel in bar for row in panel]
    store.save(results, images=images, processor=processor())
    return results


def table(results: Sequence[Throughput]) -> str:
    """Return what has no axis as a table in Markdown; the other panels are drawn."""
    first: dict[tuple[str, int], str] = {}
    rows = []
    for row in results:
        if row.panel in LISTED:
            other = first.setdefault((row.panel, row.setting), row.way)
            speed, ratio = f"{row.images_per_second:,.0f}", f"**{row.ratio:.2f}**"
            rows.append((row.way, speed, ratio, other, f"{row.rounds}"))
    return markdown(("an epoch", "images per second", "ratio", "to", "rounds"), rows)


def in_ways(
    panel: str, setting: int, compared: Mapping[str, Way], images: int, rounds: int
) -> list[Throughput]:
    """Time epochs of so many images, one way after the other in every round."""
    seconds = dict(zip(compared, in_turn(list(compared.values()), rounds), strict=True))
    return throughputs(panel, setting, seconds, images)


def throughputs(
    panel: str, setting: int, seconds: Mapping[str, list[float]], images: int
) -> list[Throughput]:
    """Return how fast each way was by the seconds of its epochs, and by its ratio to the first."""
    first, results = next(iter(seconds.values())), []
    for way, taken in seconds.items():
        speed, ratio = images / statistics.median(taken), median_ratio(first, taken)
        results.append(Throughput(panel, setting, way, speed, ratio, len(taken)))
    return results


# The ways.


def usual(
    train: Images, teacher: nn.Module | None = None, *, batch_size: int = 128
) -> dict[str, Way]:
    """Return the tutorial's way and ours, with a live teacher and with a cached one."""
    teacher = pretrained("res16") if teacher is None else teacher
    views = Consistent(pad_crop_flip())
    lessons = CachedLessons(teacher, train, views=views, epochs=1, batch_size=batch_size)
    return {
        TUTORIAL: by_tutorial(OneByOne(train), teacher, batch_size),
        LIVE: by_fit(train, teacher, batch_size=batch_size, augment=pad_crop_flip()),
        CACHED: by_fit(lessons, lessons.teacher),
    }


def ways(train: Images) -> dict[str, Way]:
    """Return all ways: the tutorial's, a faster variant, ours, and ours with every useful knob."""
    teacher, crops = pretrained("res16"), pad_crop_flip()
    lessons = CachedLessons(teacher, train, views=Consistent(crops), epochs=1)
    precision = torch.bfloat16 if has_bfloat16() else False
    fast: dict[str, Any] = {"compile": True, "channels_last": True, "autocast": precision}
    return {
        TUTORIAL: by_tutorial(OneByOne(train), teacher),
        "the same, images as tensors, transforms.v2": by_tutorial(PerImage(train), teacher),
        LIVE: by_fit(train, teacher, augment=crops),
        CACHED: by_fit(lessons, lessons.teacher),
        f"{LIVE}, tuned": by_fit(train, FoldedTeacher(teacher), augment=crops, **fast),
        f"{CACHED}, tuned": by_fit(lessons, lessons.teacher, **fast),
    }


def knobs(train: Images) -> dict[str, Way]:
    """Return ``fit`` with a live teacher, and the same with one thing changed."""
    teacher, way = pretrained("res16"), partial(by_fit, train, augment=pad_crop_flip())
    return {
        LIVE: way(teacher),
        "… batch norm folded into the teacher": way(FoldedTeacher(teacher)),
        "… teacher through torch.compile": way(FrozenTeacher(torch.compile(teacher))),  # type: ignore[arg-type]
        "… student through torch.compile": way(teacher, compile=True),
        "… channels-last": way(teacher, channels_last=True),
        "… fused SGD": way(teacher, optimizer=partial(sgd, fused=True)),
        "… autocast to bfloat16": way(teacher, autocast=torch.bfloat16),
    }


def has_bfloat16() -> bool:
    """Return whether the processor has instructions for bfloat16, which is slow without them."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has for name, has in found.items() if name.endswith("bf16"))


class OneByOne(FashionMNIST):
    """Images as torchvision's data set gives them: PIL images, each transformed on its own."""

    def __init__(self, train: Images):
        transform = transforms.Compose(
            [
                transforms.RandomCrop(train.pixels.shape[-1], padding=2),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(train.mean, train.std),
            ]
        )
        VisionDataset.__init__(self, "", transform=transform)  # past the reading of files
        self.data, self.targets = train.pixels[:, 0], train.target


def by_tutorial(
    images: Dataset,
    teacher: nn.Module,
    batch_size: int = 128,
    *,
    student: nn.Module | None = None,
    workers: int = 0,
) -> Way:
    """Return a way that trains one student further with every call, as in PyTorch's tutorial.

    The student is plain8 by default; it learns where it is, and so does the teacher teach.

    Source: A. Chariton, *Knowledge Distillation Tutorial*, pytorch.org, ``train_knowledge_
    distillation``; with the optimiser, schedule, temperature and weights of :func:`by_fit`.
    """
    student = models.plain(8, seed=0) if student is None else student
    device = next(student.parameters()).device
    loader = DataLoader(
        images, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    cross_entropy, temperature = nn.CrossEntropyLoss(), 4.0

    def epoch() -> float:
        optimizer = sgd(student.parameters())
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=len(loader))
        teacher.eval()
        student.train()
        running_loss = 0.0
        for inputs, labels in loader:
            inputs, labels = inputs.to(device), labels.to(device)
            optimizer.zero_grad()
            with torch.no_grad():
                teacher_logits = teacher(inputs)
            student_logits = student(inputs)
            soft_targets = nn.functional.softmax(teacher_logits / temperature, dim=-1)
            soft_prob = nn.functional.log_softmax(student_logits / temperature, dim=-1)
            difference = soft_targets * (soft_targets.log() - soft_prob)
            soft_targets_loss = difference.sum() / soft_prob.size(0) * temperature**2
            loss = soft_targets_loss + cross_entropy(student_logits, labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            running_loss += loss.item()
        return running_loss / len(loader)

    return epoch
