"""A language teacher's answers about fixed texts, asked for once: k tokens of each prediction.

Texts come back as they are, unlike images with their views: one pass tells all that the teacher has
to say of them. Kept are, for every token that is to be learned, k tokens and log-probabilities.

>>> lessons = CachedTexts(teacher, *words.lessons(vocabulary), path="answers")
>>> fit(student, lessons, TopKKD(class_dim=-1, ignore_index=-1), teacher=lessons.teacher)
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdcourse import processes
from kdcourse.batch import Inputs, SeparateViews
from kdcourse.checks import check_outputs, check_positive, check_same_shape, check_temperature
from kdcourse.data import replay
from kdcourse.errors import ArgumentError
from kdcourse.language.vocabulary import NO_TOKEN, check_token_rows
from kdcourse.methods.top_k import TopK, sampled_answers, top_k_answers
from kdcourse.objective import Outputs
from kdcourse.precision import HOTTEST
from kdcourse.signatures import checked
from kdcourse.teachers.answers import Answers
from kdcourse.teachers.cached import RecordedTeacher
from kdcourse.training.fingerprint import fingerprint
from kdcourse.training.teacher import as_teacher, follows

AT_ONCE = 64  # texts that the teacher is asked about together, by whichever process


@checked
def answer_bytes(k: int, classes: int, tokens: int = 1) -> int:
    """Return the bytes that answers take: of each token 2k for log-probabilities, and k tokens.

    A token takes the bytes of the smallest integer that holds all: 1 up to 256 classes, 2 up to
    32,768, and 4. All log-probabilities of a token would take 2 · classes in order; here their
    tokens are kept as well.

    Args:
        k: Log-probabilities that are kept of each prediction.
        classes: V, of the vocabulary.
        tokens: How many predictions; 10⁶ for the storage of a million tokens.
    """
    check_positive(k=k, classes=classes, tokens=tokens)
    return tokens * min(k, classes) * (2 + _smallest(classes).itemsize)


def _smallest(classes: int) -> torch.dtype:
    kinds = (torch.uint8, torch.int16, torch.int32)
    return next(kind for kind in kinds if classes - 1 <= torch.iinfo(kind).max)


class _RecordedAnswers(RecordedTeacher):
    """Repeats what was recorded: its inputs are the answers."""

    shows_logits = False
    about = "only the answers of k tokens were recorded"
    reason = "use TopKKD, or the teacher itself"

    def show(self, inputs: Inputs, layers: Sequence[str] = ()) -> Outputs:
        """Show the answers; asking for layers is an error."""
        self.check_shown(layers)
        return Outputs(top_k=inputs)


@checked
class CachedTexts:
    """Batches of texts, and what the teacher said of k tokens at each place.

    Each epoch yields ``(SeparateViews(inputs, answers), target)``, in an order of its own. The
    teacher is asked at the first batch, about all texts, and never again. Nothing is kept of places
    without a target, where the target is −1: their answers are NaN, so that a term has to be told
    ``ignore_index=-1``. In many processes each takes its own part of every batch; those that share
    a folder share the asking, too.

    Args:
        teacher: A language model, or a teacher, whose weights do not change.
        inputs: Tokens ``(N, T)``, such as :meth:`kdcourse.language.Definitions.lessons` and
            :meth:`kdcourse.language.Written.lessons` return,
        target: with the next ones, ``(N, T)``, −1 where nothing is to be learned.
        k: How many log-probabilities of each prediction to keep.
        sampled: Whether to keep k draws (:func:`kdcourse.methods.top_k.sampled_answers`) in place
            of the k largest.
        temperature: τ of the teacher.
        batch_size: Texts a batch.
        seed: Of the order, and of the draws.
        path: A folder of its own to keep the answers in, mapped into memory. Another program can
            use it if teacher, texts, k, temperature and, of draws, seed are the same. Without one,
            they end with this object.

    Attributes:
        tokens: The number of places with a target.
        bytes: What their answers take (:func:`answer_bytes`), in memory or in the file.

    Raises:
        WrongCacheError: The folder holds other answers; the message says what differs.
    """

    shares_out = True  # every process gets texts of its own

    def __init__(
        self,
        teacher: nn.Module,
        inputs: Tensor,
        target: Tensor,
        *,
        k: int = 16,
        sampled: bool = False,
        temperature: float = 1.0,
        batch_size: int = 64,
        seed: int = 0,
        path: str | Path | None = None,
    ):
        check_token_rows("inputs", inputs)
        check_token_rows("target", target)
        check_same_shape("target", target, "inputs", inputs)
        check_positive(k=k, batch_size=batch_size)
        check_temperature(temperature, high=HOTTEST)
        if follows(teacher):
            raise ArgumentError("teacher", "a teacher that follows its student cannot be cached")
        self.inputs, self.target, self.learned = inputs, target, target != NO_TOKEN
        self.tokens = int(self.learned.sum())
        if self.tokens == 0:
            raise ArgumentError("target", "target must hold a token that is to be learned")
        self.sampled, self.temperature = sampled, temperature
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.asked = as_teacher(teacher)
        self.teacher = self.only_teacher = _RecordedAnswers()
        self.classes = self._logits(slice(1)).shape[-1]
        self.k = min(k, self.classes)
        self.bytes = answer_bytes(self.k, self.classes, self.tokens)
        self._places = self.learned.flatten().cumsum(0).view_as(target) - 1
        shape = 1, self.tokens, answer_bytes(self.k, self.classes)
        folder = None if path is None else Path(path)
        self.answers = Answers(shape, self._depends(), folder, np.uint8)

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch_size)

    @property
    def samples(self) -> int:
        """The number of texts of an epoch."""
        return len(self.inputs)

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of an epoch, whose order it takes."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[SeparateViews, Tensor]]:
        if not self.answers.knows(0):
            self._record()
        order = torch.randperm(len(self.inputs), generator=replay(self.seed, self.epoch))
        number, of = processes.part()
        for rows in order.split(self.batch_size):
            own = rows.tensor_split(of)[number]
            yield SeparateViews(self.inputs[own], self._repeat(own)), self.target[own]

    def _record(self) -> None:
        """Ask the teacher about all texts, a few at a time."""
        parts = range(math.ceil(len(self.inputs) / AT_ONCE))
        number, of = processes.part() if self.answers.folder is not None else (0, 1)
        for part in parts[number::of]:
            rows = slice(part * AT_ONCE, (part + 1) * AT_ONCE)
            learned = self.learned[rows]
            if bool(learned.any()):
                logits = self._logits(rows)[learned.to(self._device)]
                first = int(self._places[rows][learned][0])
                self.answers.keep(0, first, self._packed(self._told(logits, part)))
        self.answers.complete(0)

    def _told(self, logits: Tensor, part: int) -> TopK:
        if not self.sampled:
            return top_k_answers(logits, self.k, temperature=self.temperature)
        draw = replay(self.seed, part, logits.device)
        return sampled_answers(logits, self.k, temperature=self.temperature, generator=draw)

    def _packed(self, answers: TopK) -> Tensor:
        """Return answers as bytes ``(P, B)``."""
        parts = answers.log_probabilities.half(), answers.indices.to(_smallest(self.classes))
        return torch.cat([part.view(torch.uint8) for part in parts], dim=1)

    def _repeat(self, rows: Tensor) -> TopK:
        """Return what was recorded of some texts, NaN where nothing was."""
        learned = self.learned[rows]
        kept = self.answers.repeat(0, self._places[rows][learned].numpy())
        log_p, tokens = kept.split([2 * self.k, kept.shape[1] - 2 * self.k], dim=1)
        size, shape = _smallest(self.classes), (*learned.shape, self.k)
        values = torch.full(shape, math.nan, dtype=torch.float16)
        named = torch.zeros(shape, dtype=size)
        values[learned] = log_p.contiguous().view(torch.float16)
        named[learned] = tokens.contiguous().view(size)
        return TopK(named, values, self.temperature)

    @property
    def _device(self) -> torch.device:
        return next(self.asked.parameters(), self.inputs).device

    @torch.no_grad()
    def _logits(self, rows: slice) -> Tensor:
        inputs = self.inputs[rows]
        logits = self.asked.show(inputs.to(self._device)).logits
        if logits is not None:
            check_outputs("teacher", "the teacher", logits)
        if logits is None or logits.shape[:-1] != inputs.shape:
            got = "none" if logits is None else tuple(logits.shape)
            raise ArgumentError(
                "teacher", f"teacher must show logits (N, T, V) of tokens (N, T), got {got}"
            )
        return logits

    def _depends(self) -> dict[str, str]:
        """Return what the answers depend on."""
        drawn = f"drawn by seed {self.seed}" if self.sampled else "largest"
        return {
            "teacher": fingerprint(self.asked),
            "texts": fingerprint(self.inputs, self.target),
            "k": f"{self.k} {drawn}",
            "temperature": f"{self.temperature:g}",
        }

    def identity(self) -> dict[str, str]:
        """Return what the batches depend on."""
        order = {"batch_size": str(self.batch_size), "seed": str(self.seed)}
        return {**self._depends(), **order}
