"""A teacher's answers, asked for once: patient training at the price of training without a teacher.

What a teacher says of an augmented image can be stored only if the same augmentation comes back;
otherwise teacher and student no longer see the same view. Here epochs are *replayed*: epoch number
e shows the views of epoch e mod R, drawn from seeds, so that after R epochs the teacher is done.

>>> lessons = CachedLessons(teacher, train, views=Consistent(augment), epochs=50)
>>> fit(student, lessons, LogitKD(4), teacher=lessons.teacher, epochs=1000)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kdcourse import processes
from kdcourse.batch import Batch, SeparateViews, share
from kdcourse.checks import check_outputs, check_positive
from kdcourse.data import Images, Views
from kdcourse.errors import ArgumentError
from kdcourse.objective import Outputs
from kdcourse.signatures import checked
from kdcourse.teachers.answers import Answers
from kdcourse.training.fingerprint import described, fingerprint
from kdcourse.training.teacher import Teacher, as_teacher, follows


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
        path: A folder of its own to keep the answers in, mapped into memory. Another program can
            use it if teacher, images, views and seed are the same. Without one, the answers end
            with this object, and are kept in memory as long as they take less than a gigabyte.
            Many processes share the folder.

    Raises:
        WrongCacheError: The folder holds other answers; the message says what differs.
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
        if path is not None and " at 0x" in repr(views):
            raise ArgumentError(
                "views",
                "views must tell by their repr what they do, so that another program finds its own "
                f"answers, got {views!r}",
            )
        shape = (epochs, len(images), self._answer(images[:1].inputs()).shape[1])
        folder = None if path is None else Path(path)
        self.answers = Answers(shape, self.identity(), folder)

    def __len__(self) -> int:
        return self.images.steps(self.batch_size)

    @property
    def samples(self) -> int:
        """The number of images of an epoch."""
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to show next; :func:`kdcourse.training.fit` does so."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        number = self.epoch % self.epochs
        known = self.answers.knows(number)
        part = processes.part()
        rows = torch.arange(len(self.images)).split(self.batch_size)
        batches = self.images.batches(
            self.batch_size, seed=self.seed, epoch=number, views=self.views, part=part
        )
        for whole, ((inputs, theirs), target) in zip(rows, batches, strict=True):
            own = share(whole, part)
            first, last = int(own[0]), int(own[-1]) + 1
            if not known:
                self.answers.keep(number, first, self._answer(theirs))
            logits = self.answers.repeat(number, slice(first, last))
            yield SeparateViews(inputs, logits.to(inputs.device)), target
        if not known:
            self.answers.complete(number)

    def _answer(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.asked.show(inputs).logits
        if logits is None:
            raise ArgumentError(
                "teacher", "the teacher shows probabilities only: there are no logits to record"
            )
        check_outputs("teacher", "the teacher", logits)
        return logits.float()

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
