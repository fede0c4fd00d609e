"""How to train: the options of :func:`fit`, which every procedure that trains takes, too."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from kdcourse.batch import Output
from kdcourse.checks import check_callable, check_choice, check_number, check_positive
from kdcourse.data import Augmentation, Views
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.metrics import Samples
from kdcourse.signatures import check_is, describe
from kdcourse.training.rating import Metric

MakeOptimizer = Callable[[Iterable[Any]], Optimizer]
MakeScheduler = Callable[[Optimizer, int], LRScheduler]
Log = Callable[[dict[str, float]], None]
RATE, DECAY = 0.1, 5e-4  # of the default optimiser
EPOCHS = 15  # by default
BATCH = 128  # images, by default
Function = TypeVar("Function", bound=Callable)
NUMBERS = {
    **dict.fromkeys(("epochs", "steps", "batch_size", "seed", "accumulate"), int),
    **dict.fromkeys(("learning_rate", "weight_decay", "clip"), float),
}


class StopTraining(Exception):
    """Raised by a ``log``: the training ends after this epoch, as if it were the last.

    A checkpoint can be resumed; the same call then goes on with the next epoch.
    """


@dataclass(frozen=True)
class Knobs:
    """The options of a training, and their defaults.

    Attributes:
        validation: A set on which the accuracy (of quantities, R²) is measured after each epoch:
            Images, a pair ``(inputs, target)`` of tensors, a ``Dataset`` or a ``DataLoader``.
        metrics: What else is measured on the validation set, by name: objects of ``torchmetrics``,
            or others with ``update(predictions, target)``, ``compute`` and ``reset``. The history
            has a column ``validation_NAME`` for each. Predictions are logits, with the classes in
            dimension 1; which targets do not count, a metric is told by its own ``ignore_index``.
        epochs: The number of passes through the training set; 15 by default.
        steps: In its place, the number of batches after which the training ends, and the length of
            its schedule. An epoch (of the history, the checkpoint, validation and ``log``) is still
            a pass through the set, of which the last is cut short. Of a stream, which has no length
            and needs ``steps``, an epoch is a tenth of the training, rounded up to whole steps;
            where the stream ends, it is begun anew.
        batch_size: Images per batch of an in-memory set, in all processes together; 128 by default.
            Others have batches of their own.
        drop_last: Whether to leave out an epoch's last batch where it is smaller; each epoch leaves
            out other images.
        learning_rate: The peak of the default one-cycle schedule; 0.1 by default, or the rates of
            an ``optimizer`` of your own.
        weight_decay: That of the default optimiser, SGD with Nesterov momentum 0.9; 5·10⁻⁴ by
            default.
        optimizer: Makes another optimiser from the parameters; from pairs of name and parameter
            where its own first parameter is called ``named_parameters``. There, ``student.`` comes
            before the names of the student's, ``objective.`` before those of weights that terms
            have. Unless there is a ``scheduler`` too, its rates follow the one-cycle schedule; its
            momentum stays as it is.
        scheduler: Makes another schedule from the optimiser and the number of steps
            (:mod:`kdcourse.training.schedules`); it is stepped after every batch.
        clip: The largest norm that the gradient of all parameters together may have; a larger one
            is scaled down to it. None leaves gradients as they are.
        augment: A batched augmentation of an in-memory set; teacher and student see the same.
        views: In its place, what each of them sees (:mod:`kdcourse.tips`).
        output: Finds the logits ``(N, K)`` in what the student, its moving average, or a module as
            a teacher returns: ``lambda returned: returned[1]``. By default a tensor is taken as it
            is, and otherwise what is named ``logits`` (transformers) or ``out`` (torchvision), or
            stands first.
        seed: Seed of order, augmentation and dropout.
        device: CUDA, MPS or CPU; the best there is by default.
        autocast: Whether to train in mixed precision, or its dtype.
        compile: Whether to run the student, and a frozen teacher, through ``torch.compile``.
        capture: Whether a step is captured as a CUDA graph and replayed, which saves launching
            kernel by kernel: a small net learns several times faster. ``"auto"`` does so where it
            can and pays, ``True`` where it can, or raises with the reason; ``False`` never.
            :attr:`History.capture` tells what came of it. What changes a step from Python (a
            global counter, say) would stand still; attributes of student, teacher, objective,
            augmentation and views are watched for that.
        accumulate: The number of parts in which every batch is taken, their gradients added up,
            which needs that much less memory. The step is the same up to rounding, but batch norm,
            and losses that compare samples, see one part at a time.
        sync_batch_norm: Whether batch norm sees the samples of all processes
            (``torch.nn.SyncBatchNorm``), and not each one's share of the batch. It needs a GPU in
            every process; with a single process, it changes nothing.
        channels_last: Whether to keep images and features as ``(N, H, W, C)`` in memory.
        checkpoint: A file to save to after every epoch and to resume from. A run that was killed
            ends, when called again, with the weights of an uninterrupted one: bit for bit where
            the arithmetic can be repeated, as on a CPU, in as many processes. In another number of
            them, sums are rounded, and batches shared out, otherwise.
        keep: ``"last"``: the weights are those of the last epoch in the end; or ``"best"``: those
            of the epoch that was best on the validation set, by the first of the ``metrics`` or
            else by the accuracy, of several the first (:attr:`History.kept`). They are the
            student's, those that terms have, and those of a teacher that follows; of students that
            learn together, each keeps its own best.
        log: Called with the row of the history after every epoch, in the main process. It may
            raise :class:`StopTraining`.
        on_interrupt: On Ctrl-C or a stopped kernel, ``"return"`` the history so far (the student
            keeps what it has learned) or ``"raise"``, as many processes always do.
        diagnose: Whether a doctor looks over the first three batches and the last of every epoch,
            which changes nothing in the run: is the teacher still, in eval mode, right, and in
            doubt; does it see what the student sees; how strongly does each term pull, and
            whither; are layers dead; does the student grow worse? It looks between steps, also
            where these are captured or compiled. What it finds is a warning, and is in
            :attr:`History.diagnosis`. A run that resumes is examined from there on.
        progress: Whether to show a progress bar.
    """

    validation: Samples | None = None
    metrics: Mapping[str, Any] | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    drop_last: bool = False
    learning_rate: float | None = None
    weight_decay: float | None = None
    optimizer: MakeOptimizer | None = None
    scheduler: MakeScheduler | None = None
    clip: float | None = None
    augment: Augmentation | None = None
    views: Views | None = None
    output: Output | None = None
    seed: int = 0
    device: torch.device | str | None = None
    autocast: bool | torch.dtype = False
    compile: bool = False
    capture: bool | str = "auto"
    accumulate: int = 1
    sync_batch_norm: bool = False
    channels_last: bool = False
    checkpoint: str | Path | None = None
    keep: str = "last"
    log: Log | None = None
    on_interrupt: str = "return"
    diagnose: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name not in (*NUMBERS, "validation"):  # those are told apart elsewhere
                check_is(field.name, getattr(self, field.name), field.type)
        if self.epochs is not None and self.steps is not None:
            raise ArgumentError(
                "steps", "epochs and steps were both given: either says when the training ends"
            )
        if self.steps is None:
            object.__setattr__(self, "epochs", EPOCHS if self.epochs is None else self.epochs)
        lasting = {"epochs": self.epochs} if self.steps is None else {"steps": self.steps}
        check_positive(batch_size=self.size, accumulate=self.accumulate, **lasting)
        check_choice("on_interrupt", self.on_interrupt, ("return", "raise"))
        check_choice("keep", self.keep, ("last", "best"))
        if self.keep == "best" and self.validation is None:
            raise ArgumentError("keep", "keep='best' needs a validation set, by which to choose")
        for name, metric in (self.metrics or {}).items():
            if isinstance(metric, type) or not isinstance(metric, Metric):
                raise ArgumentTypeError(
                    "metrics",
                    f"the metric {name} must have update, compute and reset, as those of "
                    f"torchmetrics have, got {describe(metric)}",
                )
        if self.metrics and self.validation is None:
            raise ArgumentError("metrics", "metrics need a validation set, on which to measure")
        if self.capture not in ("auto", True, False):
            raise ArgumentError(
                "capture", f"capture must be 'auto', True or False, got {self.capture!r}"
            )
        if isinstance(self.scheduler, type):
            _check_second_argument(self.scheduler)
        if self.log is not None:
            check_callable("log", self.log, {})
        if self.augment is not None and self.views is not None:
            raise ArgumentError(
                "views", "augment and views were both given: views hold their augmentation"
            )
        if self.autocast not in (False, True, torch.float16, torch.bfloat16):
            raise ArgumentError(
                "autocast",
                f"autocast must be True, False, float16 or bfloat16, got {self.autocast}",
            )
        for name in ("learning_rate", "weight_decay"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0.0)
        if self.optimizer is not None and self.weight_decay is not None:
            raise ArgumentError(
                "weight_decay",
                "weight_decay and optimizer were both given: give it to the optimizer",
            )
        if None not in (self.optimizer, self.scheduler, self.learning_rate):
            raise ArgumentError(
                "learning_rate",
                "learning_rate, optimizer and scheduler were all "
                "given: the rate is that of the optimizer",
            )
        if self.clip is not None:
            check_number("clip", self.clip, 0.0, open_low=True)
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral):
            raise ArgumentTypeError("seed", f"seed must be an integer, got {self.seed!r}")
        for name, kind in NUMBERS.items():  # NumPy's numbers cannot be read from a checkpoint
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else kind(value))

    @property
    def size(self) -> int:
        """Images per batch of an in-memory set."""
        return BATCH if self.batch_size is None else self.batch_size

    def make_optimizer(self, named_parameters: list[tuple[str, nn.Parameter]]) -> Optimizer:
        """Make the optimiser of these parameters."""
        parameters = [parameter for _, parameter in named_parameters]
        if self.optimizer is not None:
            return self.optimizer(
                named_parameters if _asks_for_names(self.optimizer) else parameters
            )
        rate = RATE if self.learning_rate is None else self.learning_rate
        decay = DECAY if self.weight_decay is None else self.weight_decay
        return torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True, weight_decay=decay)

    def make_scheduler(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """Make the schedule of so many steps."""
        if self.scheduler is not None:
            return self.scheduler(optimizer, steps)
        rates = [group["lr"] for group in optimizer.param_groups]
        if self.learning_rate is not None:
            if len(set(rates)) > 1:
                raise ArgumentError(
                    "learning_rate",
                    "learning_rate would take the place of the "
                    f"rates {rates} of the optimizer's groups: leave it out",
                )
            rates = [self.learning_rate] * len(rates)
        return OneCycleLR(
            optimizer, rates, total_steps=steps, cycle_momentum=self.optimizer is None
        )


def _asks_for_names(make: MakeOptimizer) -> bool:
    """Whether an optimiser is made from pairs of name and parameter."""
    try:
        return next(iter(inspect.signature(make).parameters), "") == "named_parameters"
    except ValueError:  # some of C do not tell
        return False


def _check_second_argument(schedule: type) -> None:
    """Require of a schedule's class that it takes the number of steps after the optimiser."""
    second = list(inspect.signature(schedule).parameters)[1]
    if second not in ("T_max", "total_iters"):
        kind = schedule.__name__
        raise ArgumentError(
            "scheduler",
            f"scheduler is called with the optimizer and the number of steps, which {kind} would "
            f"take for its {second}: give lambda optimizer, steps: {kind}(optimizer, …)",
        )


def takes_knobs(function: Function) -> Function:
    """Let the signature of a function show the fields of :class:`Knobs` in place of its keywords.

    ``help(function)``, and Shift-Tab in a notebook, then list every option with its default. What
    is none of them is refused by its name.
    """
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    named = {p.name for p in own}
    knobs = [p for name, p in inspect.signature(Knobs).parameters.items() if name not in named]
    shown = [knob.replace(kind=knob.KEYWORD_ONLY) for knob in knobs]
    known = named | {knob.name for knob in shown}

    @functools.wraps(function)
    def refusing(*arguments: Any, **options: Any) -> Any:
        for name in options.keys() - known:
            close = difflib.get_close_matches(name, known, n=1)
            question = (
                f", did you mean {close[0]}?" if close else f"; it has {', '.join(sorted(known))}"
            )
            raise ArgumentTypeError(name, f"{function.__name__} has no option {name}{question}")
        return function(*arguments, **options)

    refusing.__signature__ = signature.replace(parameters=[*own, *shown])  # type: ignore[attr-defined]
    return cast(Function, refusing)
