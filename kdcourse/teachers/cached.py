"""A teacher's answers, asked for once: patient training at the price of training without a teacher.

What a teacher says of an augmented image can be stored only if the same augmentation comes back;
otherwise teacher and student no longer see the same view. Here epochs are *replayed*: epoch number
e shows the views of epoch e mod R, drawn from seeds, so that after R epochs the teacher is done.

>>> lessons = CachedLessons(teacher, train, views=Consistent(augment), epochs=50)
>>> fit(student, lessons, LogitKD(4), teacher=lessons.teacher, epochs=1000)
"""

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdcourse import processes
from kdcourse.batch import Batch, SeparateViews, share
from kdcourse.checks import check_positive
from kdcourse.data import Images, Views
from kdcourse.errors import ArgumentError
from kdcourse.objective import Outputs
from kdcourse.signatures import checked
from kdcourse.training.fingerprint import described, fingerprint
from kdcourse.training.teacher import Teacher, as_teacher, follows

MOST_IN_MEMORY = 2**30  # bytes of answers; more are kept in a temporary file, mapped into memory


class WrongCacheError(ValueError):
    """A file of answers that another teacher gave, or to other views of other images."""


class RecordedTeacher(Teacher):
    """Repeats what was recorded: its inputs are the answers, ``(N, K)``."""

    recorded = True  # for the lessons it belongs to, and for no others
    about = "only logits were recorded"
    reason = "use a loss on predictions, or the teacher itself"

    def show(self, inputs: Tensor, layers: Sequence[str] = ()) -> Outputs:
        """Show the logits; asking for layers is an error."""
        self.check_shown(layers)
        return Outputs(logits=inputs)


@checked
class CachedLessons:
    """Batches of what the student sees and what the teacher said of it.

    Each epoch yields ``(SeparateViews(inputs, teacher_logits), target)``. The teacher is asked when
    an epoch is shown for the first time, and never again. Training is the same, bit by bit, as with
    the teacher itself on these views. Under ``torchrun`` every process asks it about its own
    samples.

    Args:
        teacher: A module or teacher whose weights do not change, on the device of the images.
        images: The set to train on.
        views: What student and teacher see, such as :class:`kdcourse.tips.Consistent`; its
            ``repr`` must tell its settings.
        epochs: The number R of different epochs; N·R·K numbers are stored.
        batch_size: Images per batch.
        seed: Seed of the order and the augmentations.
        path: A file to keep the answers in, mapped into memory. Another program can use it if
            teacher, images, views and seed are the same. Without one, the answers end with this
            object, and are kept in memory as long as they take less than a gigabyte. Many
            processes share the file.

    Raises:
        WrongCacheError: The file holds other answers; the message says what differs.
    """

    shares_out = True  # every process gets samples of its own

    def __init__(
        self,
        teacher: nn.Module,
        images: Images,
        *,
        views: Views,
        epochs: int = 50,
        batch_size: int = 128,
        seed: int = 0,
        path: str | Path | None = None,
    ):
        check_positive(epochs=epochs, batch_size=batch_size)
        if follows(teacher):
            raise ArgumentError(
                "teacher",
                "a teacher that follows its student cannot be cached: it says something else "
                "every time",
            )
        self.images, self.views = images, views
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.asked = as_teacher(teacher)
        self.teacher = self.only_teacher = RecordedTeacher()
        self.labelled = getattr(views, "labelled", True) and bool((images.target >= 0).all())
        self.epoch = 0
        shape = (epochs, len(images), self._answer(images[:1].inputs()).shape[1])
        self.answers, self.known = self._open(shape, None if path is None else Path(path))

    def __len__(self) -> int:
        return self.images.steps(self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to show next; :func:`kdcourse.training.fit` does so."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        number = self.epoch % self.epochs
        part = processes.part()
        rows = torch.arange(len(self.images)).split(self.batch_size)
        batches = self.images.batches(
            self.batch_size, seed=self.seed, epoch=number, views=self.views, part=part
        )
        for whole, ((inputs, theirs), target) in zip(rows, batches, strict=True):
            own = share(whole, part)
            first, last = int(own[0]), int(own[-1]) + 1
            if not self.known[number]:
                self.answers[number, first:last] = self._answer(theirs).cpu().numpy()
            logits = torch.from_numpy(self.answers[number, first:last].copy())
            yield SeparateViews(inputs, logits.to(inputs.device)), target
        if not self.known[number]:
            if isinstance(self.answers, np.memmap):
                self.answers.flush()  # they reach the disk before they count as known
            processes.wait()
            self.known[number] = True

    def _answer(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.asked.show(inputs).logits
        if logits is None:
            raise ArgumentError(
                "teacher", "the teacher shows probabilities only: there are no logits to record"
            )
        return logits.float()

    def _open(self, shape: tuple[int, ...], path: Path | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the answers and which epochs are known, from files if there are any."""
        if path is None:
            known = np.zeros(self.epochs, bool)
            if 4 * math.prod(shape) <= MOST_IN_MEMORY:
                return np.zeros(shape, np.float32), known
            with tempfile.TemporaryFile() as aside:
                return np.memmap(aside, np.float32, "w+", shape=shape), known
        marks = path.with_suffix(".known")
        processes.from_main(lambda: self._create(path, marks, shape))
        answers = np.memmap(path, np.float32, "r+", shape=shape)
        return answers, np.memmap(marks, np.bool_, "r+", shape=(self.epochs,))

    def _create(self, path: Path, marks: Path, shape: tuple[int, ...]) -> None:
        """Make the files, unless they are there and belong to these lessons."""
        card = path.with_suffix(".json")
        belongs = self.identity()
        if card.is_file() and marks.is_file() and path.is_file():
            stored = json.loads(card.read_text())
            stored["bytes"] = str(path.stat().st_size)
            belongs["bytes"] = str(4 * math.prod(shape))
            for name, value in belongs.items():
                if stored.get(name) != value:
                    raise WrongCacheError(
                        f"{path} holds other answers: {name} was {stored.get(name)}, is {value}"
                    )
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        np.memmap(path, np.float32, "w+", shape=shape)
        np.memmap(marks, np.bool_, "w+", shape=(self.epochs,))
        card.write_text(json.dumps(belongs, indent=1))

    def identity(self) -> dict[str, str]:
        """Return what the answers depend on."""
        return {
            "teacher": fingerprint(self.asked),
            "images": fingerprint(self.images),
            "views": described(self.views),
            "epochs": str(self.epochs),
            "batch_size": str(self.batch_size),
            "seed": str(self.seed),
        }
