"""The one training loop: every scheme of the course composes :func:`fit`."""

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from tqdm.auto import tqdm

from kdcourse import processes
from kdcourse.checks import check_positive
from kdcourse.data import replay_seed
from kdcourse.logit import CrossEntropy
from kdcourse.modes import kept_modes, training_mode
from kdcourse.objective import Objective
from kdcourse.randomness import own_randomness
from kdcourse.training.best import Best
from kdcourse.training.capture import own_stream
from kdcourse.training.device import choose_device
from kdcourse.training.epochs import Batches, Epochs
from kdcourse.training.fingerprint import fingerprint
from kdcourse.training.history import History
from kdcourse.training.judged import first_lesson
from kdcourse.training.knobs import Knobs, Log, StopTraining, takes_knobs
from kdcourse.training.learner import Learner
from kdcourse.training.parallel import synchronized
from kdcourse.training.rules import (
    check_batch_norm,
    check_lesson,
    check_nets,
    check_source,
    check_student,
    check_teacher,
    check_validation,
)
from kdcourse.training.run import Run
from kdcourse.training.teacher import as_teacher

INTERRUPTED: WeakSet[nn.Module] = WeakSet()  # students that were stopped in the middle


@takes_knobs
def fit(
    student: nn.Module,
    train: Batches,
    objective: Objective | None = None,
    *,
    teacher: nn.Module | None = None,
    **knobs: Any,
) -> History:
    """Train a student, with or without a teacher: ``min_f L(f) + λ · dist(f, f_large)``.

    >>> fit(student, train, CrossEntropy() + 4.0 * LogitKD(temperature=4), teacher=teacher)

    Training is a function of the initial weights and ``seed``: the order of the images, their
    augmentations and any dropout can be replayed. Torch's global generator is left as it was.

    *Many processes.* Where ``torchrun`` has started several (:func:`kdcourse.processes.joined`),
    each takes its share of every batch, and the weights are those of one process with the whole
    batch, up to rounding. Two things differ: dropout draws on its own in every process, and batch
    norm sees the statistics of its own share (those of the main process are kept), except with
    ``sync_batch_norm=True``. Only the main process writes the checkpoint.

    Args:
        student: Any module that maps inputs to predictions: logits ``(N, K)``, or of tokens, pixels
            and other places as the terms are told; trained in place. It learns on
            ``device`` and then goes back to where it was, and so does the teacher. It learns in
            train mode, but a part in eval mode whose weights are all frozen stays as it is, and so
            does a single layer in eval mode of a part in train mode.
        train: An in-memory set, or anything that yields ``(inputs, target)`` batches anew each
            epoch (a ``DataLoader``); if it, its sampler or its data set has a ``set_epoch``, that
            is called before. A stream, which has no length, needs ``steps``: it is gone through
            once, and begun anew only where it ends; the number of the pass is its epoch. After a
            checkpoint, it goes on by its ``state_dict``, or else by passing over what was taken
            before. The inputs are what both models are called with: a tensor, or tensors in tuples
            and dictionaries, all with N samples. Where each model sees its own, they are
            :class:`kdcourse.batch.SeparateViews`. A target of −1 stands for no label. Batches
            ``(inputs, target, weight)`` say how much each place, or each sample, counts in losses
            on predictions.
        objective: A sum of terms; labels alone without one.
        teacher: A module or :class:`Teacher`, asked in eval mode and without gradients. One that
            follows the student (:class:`kdcourse.teachers.MomentumTeacher`) does so at every step.
        knobs: Every other option, with its default, is explained in
            :class:`kdcourse.training.Knobs`: ``epochs``, ``learning_rate``, ``checkpoint``, ….

    Returns:
        The history of every term, one row an epoch; with ``diagnose=True``, what a doctor has found
        is its ``diagnosis``.

    Raises:
        ArgumentError: Settings that cannot work together (found before any work is done), batches
            that do not go with them (by the first one), or a checkpoint of another run.
        FloatingPointError: The loss is no longer finite; the message says what is to blame.
        LostProcessError: Another process has ended.
    """
    chosen = Knobs(**knobs)
    aim = CrossEntropy() if objective is None else objective
    check_student(student)
    check_teacher(aim, teacher, chosen)
    models = [student] if teacher is None else [student, teacher]

    def make(source: Epochs) -> Run:
        return Run(student, aim, teacher, source=source, **{**knobs, "steps": source.steps})

    return fit_learner(make, models, train, chosen, teacher=teacher)


def fit_learner(
    make: Callable[[Epochs], Learner],
    models: Sequence[nn.Module],
    train: Batches,
    knobs: Knobs,
    *,
    teacher: nn.Module | None = None,
) -> History:
    """Run the epochs of one student, or of several models that learn together.

    The learner is made from the batches once all models are on the device, from which they go back
    to where they were. The teacher is the one that is asked about the batches, if there is one.
    """
    begun = time.perf_counter()
    place, count = choose_device(knobs.device), processes.count()
    check_batch_norm(knobs, place, count)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        kept_modes(models),
        _moved(models, place, knobs.channels_last),
    ):
        source = Epochs(train, place, knobs)
        learner = make(source)
        learner.source = source
        rating = learner.ratings[0]
        learner.best = Best(learner.rated, rating.lowest) if knobs.keep == "best" else None
        parts = count * knobs.accumulate
        check_source(source, learner.students, learner.objectives, teacher, parts)
        check_validation(knobs.validation, learner.students, learner.ratings)
        learned = [*learner.students, *learner.objectives]
        with synchronized(learned if knobs.sync_batch_norm and count > 1 else []):
            return _run_epochs(learner, source, knobs, begun)


def _settings(learner: Learner, source: Epochs, knobs: Knobs) -> dict[str, Any]:
    """Return all that the result depends on, by name."""
    validation = type(knobs.validation).__name__
    if knobs.validation is not None:
        validation += f" [{fingerprint(knobs.validation)}]"
    ends = {"steps": knobs.steps, "epochs": source.count, "keep": knobs.keep}
    if knobs.keep == "best":
        ends["best_by"] = learner.ratings[0].best_by
    return {**ends, "validation": validation, **source.settings, **learner.settings}


@contextmanager
def _moved(models: Sequence[nn.Module], place: torch.device, channels_last: bool) -> Iterator[None]:
    """Move models to a device, and leave them where and as they were."""
    homes = [next((p.device for p in model.parameters()), None) for model in models]
    try:
        for model in models:
            model.to(place)
        yield
    finally:
        for model, home in zip(models, homes, strict=True):
            model.to(home)
            if channels_last:
                model.to(memory_format=torch.contiguous_format)


def _run_epochs(learner: Learner, source: Epochs, knobs: Knobs, begun: float) -> History:
    rating, checkpoint = learner.ratings[0], knobs.checkpoint
    history = History(keep=knobs.keep, best_by=rating.best_by, lowest=rating.lowest)
    settings: dict[str, Any] = {}
    advice = "without a checkpoint, training has to start anew"
    resumed = checkpoint is not None and processes.main_has(Path(checkpoint), "checkpoint")
    if checkpoint is not None:
        learner.begin(checkpoint, resumed)
    if checkpoint is not None or processes.count() > 1:
        settings = _settings(learner, source, knobs)
        processes.check_same(settings)
    if checkpoint is not None:
        advice = f"the same command resumes from {checkpoint}"
        if resumed:
            history.rows = learner.resume(checkpoint, settings)
        else:  # for whoever stops it in the first epoch
            learner.save(checkpoint, settings, history)
        if source.unrepeatable and len(history) < source.count:
            warnings.warn(
                f"a run that is stopped and resumed may see other batches than one that is not: "
                f"{source.unrepeatable}",
                stacklevel=5,
            )
    for student in learner.students:
        if checkpoint is None and student in INTERRUPTED:
            warnings.warn(
                "the student goes on from what it had learned when it was interrupted: make it "
                "anew to start from the beginning",
                stacklevel=5,
            )
        INTERRUPTED.discard(student)
    if not resumed:
        for objective in learner.objectives:
            objective.begin()

    steps = learner.steps_from(source)
    silent = not (knobs.progress and processes.is_main())
    bar = tqdm(total=source.steps, initial=learner.taken, disable=silent, unit="step")
    try:
        with (
            own_randomness(learner.device) as seed_all,
            own_stream(learner.device) if not steps.reason else nullcontext(),
            processes.losses_told(advice),
            training_mode(learner.students) as enter_training_mode,
        ):
            for epoch in range(len(history), source.count):
                # Of dropout, which differs between processes, and of a DataLoader.
                seed_all(replay_seed(knobs.seed, epoch, processes.rank()))
                enter_training_mode()
                row = {"epoch": epoch + 1, **learner.epoch(source, epoch, steps, bar)}
                if knobs.validation is not None:
                    row |= learner.validate(knobs.validation)
                    bar.set_postfix({k: f"{v:.3f}" for k, v in row.items() if "validation" in k})
                history.rows.append(row)
                learner.tell(history.rows)
                if learner.best is not None:
                    learner.best.see(history.rows)
                if checkpoint is not None:
                    learner.save(checkpoint, settings, history)
                if processes.from_main(partial(_stopped_by, knobs.log, row)):
                    break
    except KeyboardInterrupt:
        if knobs.on_interrupt == "raise" or processes.count() > 1:
            raise
        history.interrupted = True
        INTERRUPTED.update(learner.students)
        warnings.warn(
            f"interrupted after {len(history)} of {source.count} epochs; the student keeps what it "
            "learned" + ("" if checkpoint is None else ", and the same call resumes"),
            stacklevel=5,
        )
    finally:
        bar.close()
        source.close()
    if learner.best is not None:
        learner.best.restore()
    history.capture = steps.outcome
    history.diagnoses = learner.reports(history.rows)
    if learner.began is not None:
        history.seconds_to_first_step = learner.began - begun
    return history


def _stopped_by(log: Log | None, row: dict[str, float]) -> bool:
    """Call the log with a row; return whether it ends the training."""
    try:
        if log is not None:
            log(row)
    except StopTraining:
        return True
    return False


def rehearse(
    student: nn.Module,
    train: Batches,
    objective: Objective,
    *,
    teacher: nn.Module | None = None,
    parts: int | None = None,
    **knobs: Any,
) -> None:
    """Find out on a few samples, before any work, whether everything goes together.

    What :func:`fit` would refuse before its first step is refused here, and what would fail in that
    step fails here; the validation set is not looked at.
    Terms that size themselves do so; nothing else is changed.

    The arguments are those of :func:`fit`, but images may be blank, and ``parts`` is the number of
    parts into which a batch will be split; by default as many as now.

    Raises:
        ArgumentError: The message says what does not go together, ``argument`` where.
        ValueError: The objective cannot judge what the two nets show.
    """
    chosen = Knobs(**knobs)
    check_student(student)
    check_teacher(objective, teacher, chosen)
    if parts is None:
        parts = processes.count() * chosen.accumulate
    check_positive(parts=parts)
    asked = None if teacher is None else as_teacher(teacher, chosen.output)
    models = [student] if asked is None else [student, asked]
    place = choose_device(chosen.device)
    check_nets(student, objective, asked, chosen, place)
    check_batch_norm(chosen, place, parts // chosen.accumulate)
    with _moved([*models, objective], place, channels_last=False):
        source = Epochs(train, place, chosen)
        check_source(source, [student], [objective], teacher, parts)
        lesson = first_lesson(objective, student, asked, source)
        check_lesson(lesson, objective)
        with torch.no_grad():  # on a copy: some terms change with every batch
            copy.deepcopy(objective)(lesson)
