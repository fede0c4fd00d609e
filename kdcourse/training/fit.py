"""The one training loop: every scheme of the course composes :func:`fit`."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from kdcourse import processes
from kdcourse.checks import check_choice, check_number
from kdcourse.data import Augmentation, Images, Views, replay_seed
from kdcourse.training.device import choose_device
from kdcourse.training.epochs import Batches, Epochs
from kdcourse.training.history import History
from kdcourse.training.learner import Learner
from kdcourse.training.objective import Objective
from kdcourse.training.run import MakeOptimizer, MakeScheduler, Run
from kdcourse.training.terms import CrossEntropy

Log = Callable[[dict[str, float]], None]


def fit(
    student: nn.Module,
    train: Batches,
    objective: Objective | None = None,
    *,
    teacher: nn.Module | None = None,
    validation: Images | None = None,
    epochs: int = 15,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    optimizer: MakeOptimizer | None = None,
    scheduler: MakeScheduler | None = None,
    augment: Augmentation | None = None,
    views: Views | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    autocast: bool | torch.dtype = False,
    compile: bool = False,
    accumulate: int = 1,
    channels_last: bool = False,
    checkpoint: str | Path | None = None,
    log: Log | None = None,
    on_interrupt: str = "return",
    progress: bool = True,
) -> History:
    """Train a student, with or without a teacher: ``min_f L(f) + λ · dist(f, f_large)``.

    >>> fit(student, train, CrossEntropy() + 4.0 * LogitKD(temperature=4), teacher=teacher)

    Training is a function of the initial weights and ``seed``: the order of the images, their
    augmentations and any dropout can be replayed. Torch's global generator is left as it was.

    *Many processes.* Where ``torchrun`` has started several (:func:`kdcourse.processes.joined`),
    each takes its share of every batch, and the weights are those of one process with the whole
    batch, up to rounding. Two things differ: dropout draws on its own in every process, and batch
    norm sees the statistics of its own share (those of the main process are kept), unless
    ``torch.nn.SyncBatchNorm`` takes its place. Only the main process writes the checkpoint.

    Args:
        student: any module from inputs to logits ``(N, K)``; trained in place. It learns on
            ``device`` and then goes back to where it was, and so does the teacher.
        train: an in-memory set, or anything that yields ``(inputs, target)`` batches anew each
            epoch and has a length (a ``DataLoader``); if it has a ``set_epoch``, that is called
            before. The inputs may be a pair: what the student and what the teacher sees. A target
            of −1 stands for no label.
        objective: sum of terms; labels alone without one.
        teacher: a module or :class:`Teacher`; asked in eval mode and without gradients. One that
            follows the student (:class:`kdcourse.teachers.MomentumTeacher`) does so at every step.
        validation: set on which accuracy is measured after each epoch.
        epochs: passes through ``train``.
        batch_size: images per batch (of an in-memory set), in all processes together.
        learning_rate: peak of the default one-cycle schedule.
        weight_decay: of the default optimiser, SGD with Nesterov momentum 0.9.
        optimizer: makes another optimiser from the parameters. Unless there is a ``scheduler``
            too, its rate follows the one-cycle schedule with peak ``learning_rate``.
        scheduler: makes another schedule from the optimiser and the number of steps; stepped
            after every batch. :func:`constant` keeps the rate.
        augment: batched augmentation of an in-memory set; teacher and student see the same.
        views: in its place, what each of them sees (:mod:`kdcourse.tips`).
        seed: of order, augmentation and dropout.
        device: CUDA, MPS or CPU, the best there is by default.
        autocast: mixed precision, or its dtype.
        compile: run the student through ``torch.compile``.
        accumulate: take every batch in so many parts and add up their gradients, which needs so
            much less memory. The step is the same up to rounding, but batch norm, and losses that
            compare samples, see one part at a time.
        channels_last: keep images and features as ``(N, H, W, C)`` in memory while training.
        checkpoint: file to save to after every epoch and to resume from. A run that was killed
            ends, when called again, with the weights of an uninterrupted one, also in another
            number of processes.
        log: called with the row of the history after every epoch, in the main process.
        on_interrupt: on Ctrl-C or a stopped kernel, ``"return"`` the history so far (the student
            keeps what it learned) or ``"raise"``, as many processes always do.
        progress: show a progress bar.

    Returns:
        The history of every term, one row an epoch.

    Raises:
        ValueError: settings that cannot work, or a checkpoint of another run.
        FloatingPointError: the loss is no longer finite.
        LostProcessError: another process has ended.
    """
    aim = CrossEntropy() if objective is None else objective
    if aim.needs_teacher and teacher is None:
        raise ValueError(f"the objective {aim!r} needs a teacher, and there is none")

    def make(steps: int) -> Run:
        return Run(
            student,
            aim,
            teacher,
            steps=steps,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            optimizer=optimizer,
            scheduler=scheduler,
            autocast=autocast,
            compile=compile,
            accumulate=accumulate,
            channels_last=channels_last,
        )

    models = [student] if teacher is None else [student, teacher]
    try:
        return fit_learner(
            make,
            models,
            train,
            validation=validation,
            epochs=epochs,
            batch_size=batch_size,
            augment=augment,
            views=views,
            seed=seed,
            device=device,
            checkpoint=checkpoint,
            log=log,
            on_interrupt=on_interrupt,
            progress=progress,
            settings={"learning_rate": learning_rate, "weight_decay": weight_decay},
        )
    finally:
        if channels_last:
            for model in models:
                model.to(memory_format=torch.contiguous_format)


def fit_learner(
    make: Callable[[int], Learner],
    models: Sequence[nn.Module],
    train: Batches,
    *,
    settings: dict[str, Any],
    validation: Images | None = None,
    epochs: int = 15,
    batch_size: int = 128,
    augment: Augmentation | None = None,
    views: Views | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    log: Log | None = None,
    on_interrupt: str = "return",
    progress: bool = True,
) -> History:
    """Run the epochs of one student, or of several models that learn together.

    Args:
        make: makes the learner from the number of steps, once its models are on their device.
        models: everything that has to go to the device, and back to where it was.
        settings: what else distinguishes this training from others, for the checkpoint.
        train, validation, epochs, batch_size, augment, views, seed, device, checkpoint,
            log, on_interrupt, progress: as for :func:`fit`.
    """
    check_choice("on_interrupt", on_interrupt, ("return", "raise"))
    check_number("epochs", epochs, 1)
    place = choose_device(device)
    homes = [(model, _device(model)) for model in models]
    for model in models:
        model.to(place)
    source = Epochs(train, place, batch_size, augment, views, seed)
    steps = epochs * len(source)
    learner = make(steps)
    source.check_parts(processes.count(), learner.accumulate)
    settings = {
        "epochs": epochs,
        **settings,
        "validation": 0 if validation is None else len(validation),
        **source.settings,
        **learner.settings,
    }
    history = History()
    if checkpoint is not None and processes.from_main(Path(checkpoint).is_file):
        history.rows = learner.resume(checkpoint, settings)

    modes = [(model, model.training) for model in learner.students]
    silent = not (progress and processes.is_main())
    bar = tqdm(total=steps, initial=learner.taken, disable=silent, unit="step")
    try:
        with (
            torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
            processes.losses_told(_advice(checkpoint)),
        ):
            for epoch in range(len(history), epochs):
                # Of dropout, which differs between processes, and of a DataLoader.
                torch.manual_seed(replay_seed(seed, epoch) + processes.rank())
                for model in learner.students:
                    model.train()
                row = {"epoch": epoch + 1, **learner.epoch(source.batches(epoch), bar)}
                if validation is not None:
                    row |= learner.validate(validation)
                    bar.set_postfix({k: f"{v:.3f}" for k, v in row.items() if "validation" in k})
                history.rows.append(row)
                if checkpoint is not None:
                    learner.save(checkpoint, settings, history)
                if log is not None and processes.is_main():
                    log(row)
    except KeyboardInterrupt:
        if on_interrupt == "raise" or processes.count() > 1:
            raise
        history.interrupted = True
        warnings.warn(
            f"interrupted after {len(history)} of {epochs} epochs; the student keeps what it "
            "learned" + ("" if checkpoint is None else ", and the same call resumes"),
            stacklevel=3,
        )
    finally:
        bar.close()
        for model, mode in modes:
            model.train(mode)
        for model, home in homes:
            model.to(home)
    return history


def _advice(checkpoint: str | Path | None) -> str:
    if checkpoint is None:
        return "without a checkpoint, training has to start anew"
    return f"the same command resumes from {checkpoint}"


def _device(model: nn.Module) -> torch.device | None:
    """Where a model's weights are; None, which moves nothing, for a model without any."""
    return next((p.device for p in model.parameters()), None)
