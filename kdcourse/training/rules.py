"""What goes together, checked once and before any work, whichever procedure trains.

Every error is a :class:`kdcourse.errors.ArgumentError` that names the argument at fault.
"""

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from kdcourse import processes
from kdcourse.batch import (
    Inputs,
    are_classes,
    blaming_model,
    call,
    map_samples,
    map_tensors,
    shapes,
)
from kdcourse.checks import (
    check_choice,
    check_labels,
    check_logits,
    check_matrix,
    check_module,
    check_target,
)
from kdcourse.data import Images
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.metrics import Samples, in_batches
from kdcourse.models import capture
from kdcourse.modes import kept_buffers, training_mode
from kdcourse.objective import MEANS, Gradual, Lesson, Objective, Outputs, Term
from kdcourse.prediction_term import EntryTerm, PredictionTerm, judge_of
from kdcourse.predictions import place_shape
from kdcourse.signatures import describe
from kdcourse.training.epochs import Epochs
from kdcourse.training.history import COLUMNS
from kdcourse.training.knobs import Knobs
from kdcourse.training.rating import Rating
from kdcourse.training.teacher import Teacher, follows


def check_objective(objective: object) -> None:
    """Require a sum of terms."""
    if not isinstance(objective, Objective):
        raise ArgumentTypeError(
            "objective",
            "objective must be a sum of terms, such as CrossEntropy() + 4 * LogitKD(), got "
            + describe(objective)
            + ": call it in the loss of a Term" * inspect.isroutine(objective),
        )
    for term in [objective, *vars(objective).get("_modules", {}).get("terms", ())]:
        if "_modules" not in vars(term):
            kind = type(term).__name__
            raise ArgumentTypeError("objective", f"{kind} must call super().__init__() in its own")
    inside = Counter(one for _, term in objective.parts() for one in term.modules())
    for one, often in inside.items():
        if isinstance(one, Gradual) and often > 1:
            raise ArgumentError(
                "objective",
                f"{one!r} counts its steps, and is inside of {often} terms: give each one of its "
                "own (copy.deepcopy)",
            )
    for name in objective.names:
        if name in COLUMNS:
            raise ArgumentError(
                "objective", f"no term may be named {name}, as another column of the history"
            )
    for _, term in objective.parts():
        check_choice(f"mean_over of {type(term).__name__}", term.mean_over, MEANS)


def check_optimizer(optimizer: Optimizer, trained: Sequence[nn.Parameter]) -> None:
    """Require an optimiser that holds all that is to be trained, and needs one gradient a step."""
    kind = type(optimizer).__name__
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ArgumentError(
            "optimizer",
            f"optimizer must need one gradient a step, got {kind}, whose step needs a closure that "
            "computes the loss again and again",
        )
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    missing = sum(id(weight) not in held for weight in trained)
    if missing:
        raise ArgumentError(
            "optimizer",
            f"optimizer must hold every parameter that it is made from, got {kind} without "
            f"{missing} of {len(trained)}: freeze those that are not to learn "
            "(requires_grad_(False))",
        )


def check_scheduler(scheduler: LRScheduler, optimizer: Optimizer, steps: int) -> None:
    """Require a schedule of this optimiser that is as long as the training."""
    kind = type(scheduler).__name__
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ArgumentError(
            "scheduler",
            f"scheduler must not be a {kind}, which waits for a validation loss: schedules are "
            "stepped after every batch (kdcourse.training.schedules)",
        )
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ArgumentError(
            "scheduler", f"scheduler must be of the optimizer, got {kind} of another"
        )
    length = getattr(scheduler, "total_steps", steps)
    if length < steps:
        raise ArgumentError(
            "scheduler", f"scheduler must last {steps} steps (batches), got {kind} of {length}"
        )


def check_all_trained(student: nn.Module, trained: Sequence[nn.Parameter]) -> None:
    """Require that no weight was made or unfrozen after the optimiser."""
    held = {id(weight) for weight in trained}
    for name, weight in student.named_parameters():
        if weight.requires_grad and id(weight) not in held:
            raise ArgumentError(
                "student",
                f"{name} of the student was made or unfrozen in training: do so before, so that "
                "the optimizer holds it",
            )


def check_enough(objective: Objective, part: int) -> None:
    """Require of the first batch, or each part of it, as many samples as the terms compare."""
    for _, term in objective.parts():
        samples = part * (processes.count() if term.mean_over == "batch" else 1)
        if samples < term.least:
            raise ArgumentError(
                "batch_size",
                f"{term!r} compares at least {term.least} samples, and a batch, or a part of one, "
                f"holds {samples}",
            )


def check_reached(
    objective: Objective, terms: Mapping[str, Tensor], features: Mapping[str, Tensor]
) -> None:
    """Require that every term depends on a weight of the student that can be trained."""
    for name, (weight, term) in zip(objective.names, objective.parts(), strict=True):
        looked_at = [features[one] for one in term.student_layers if term.at_places is None]
        frozen = bool(looked_at) and not any(one.requires_grad for one in looked_at)
        own = terms[name].requires_grad  # of a projection, say
        if weight and (frozen or not own):
            raise ArgumentError(
                "objective",
                f"{name} depends on no weight that can be trained{' but its own' * own}: is all "
                "that lies before its layers frozen, or computed without gradients? (A weight of 0 "
                "only measures.)",
            )


def check_student(student: nn.Module, name: str = "student") -> None:
    """Require a module with weights that can be trained."""
    check_weights(name, student)
    if not any(weight.requires_grad for weight in student.parameters()):
        kind = type(student).__name__
        raise ArgumentError(name, f"{name} ({kind}) must have a weight that can be trained")
    for what, one in student.named_parameters():
        if one.is_inference():
            raise ArgumentError(
                name,
                f"{what} of {name} was made in inference_mode, and cannot learn: make it outside",
            )


def check_weights(name: str, model: nn.Module) -> None:
    """Require a module whose weights are there, and are numbers."""
    check_module(name, model)
    weights = dict(model.named_parameters())
    for what, one in _tensors(model):
        if isinstance(one, (UninitializedParameter, UninitializedBuffer)):
            raise ArgumentError(
                name, f"the size of {what} of {name} is not known yet: call it with a batch once"
            )
        if one.is_meta:
            raise ArgumentError(name, f"{what} of {name} is on the meta device: it has no values")
        placeholder = what not in weights  # which may hold anything
        if placeholder and not what.endswith(("running_mean", "running_var")):
            continue
        if one.is_floating_point() and bool(one.isnan().any()):
            raise ArgumentError(name, f"{what} of {name} holds NaN")


def check_validation(
    samples: Samples | None, students: Iterable[nn.Module] = (), ratings: Iterable[Rating] = ()
) -> None:
    """Require a set on which students can be rated; each tries it on the first batch."""
    if samples is None:
        return
    if isinstance(samples, Images) and bool((samples.target < 0).any()):
        raise ArgumentError("validation", "validation has images without labels")
    with torch.random.fork_rng(devices=[]):
        first = next(in_batches(samples, name="validation"), None)
        if first is None or first[1] is None or len(first[1]) == 0:
            raise ArgumentError("validation", "validation must hold samples (inputs, target)")
        for student, rating in zip(students, ratings, strict=True):
            rating.try_out(student, first)


def check_one_tensor(inputs: Inputs, objective: Objective) -> None:
    """Require inputs with respect to which predictions can be differentiated."""
    if not isinstance(inputs, Tensor):
        raise ArgumentError(
            "objective",
            f"{objective!r} differentiates by the inputs, which must be one tensor for that, got "
            f"{shapes(inputs)}",
        )


def check_teacher(objective: Objective, teacher: nn.Module | None, knobs: Knobs) -> None:
    """Require a teacher where one is asked, and only there."""
    check_objective(objective)
    if teacher is not None:
        check_weights("teacher", teacher)
    if teacher is None and objective.needs_teacher:
        raise ArgumentError(
            "teacher", f"the objective {objective!r} needs a teacher, and there is none"
        )
    if teacher is None and knobs.views is not None:
        raise ArgumentError("views", f"there is no teacher to see what {knobs.views!r} shows it")
    if teacher is not None and not objective.needs_teacher and not follows(teacher):
        raise ArgumentError(
            "teacher", f"there is a teacher, but the objective {objective!r} never asks it"
        )


def check_nets(
    student: nn.Module,
    objective: Objective,
    teacher: Teacher | None,
    knobs: Knobs,
    device: torch.device,
) -> None:
    """Require that both nets show what the objective looks at, and can be trained that way."""
    if teacher is not None and student in teacher.modules():
        raise ArgumentError("teacher", "the teacher is the student itself: teach with a copy of it")
    if teacher is not None:
        check_apart(student, teacher, "teacher", "teacher and student")
        check_apart(objective, teacher, "objective", "teacher and objective")
        teacher.check_student(student)
    if knobs.compile and objective.needs_input_gradient:
        raise ArgumentError(
            "compile", "torch.compile cannot differentiate twice: use compile=False here"
        )
    if knobs.channels_last and device.type == "cpu":
        check_channels_last(student, teacher, objective)
    try:
        with capture(student, objective.student_layers):
            pass
        if teacher is not None:
            teacher.check_shown(
                objective.teacher_layers, input_gradient=objective.needs_input_gradient
            )
    except ValueError as error:
        raise ArgumentError("objective", str(error)) from None
    for _, term in objective.parts():
        if teacher is not None and term.needs_logits and not teacher.shows_logits:
            raise ArgumentError(
                "objective", f"{term!r} needs logits, and the teacher shows probabilities only"
            )
        check_classes(term, teacher)


def check_classes(term: Term, teacher: Teacher | None) -> None:
    """Require a teacher that shares out probabilities among the classes that a term compares."""
    places, dim = term.at_places, None if teacher is None else teacher.class_dim
    if dim is None or not term.needs_teacher or not isinstance(places, PredictionTerm):
        return
    kind = type(teacher).__name__
    if isinstance(places, EntryTerm):
        raise ArgumentError(
            "teacher",
            f"the {kind} shares out probabilities among classes, and {term!r} has none: show it "
            "logits (an Ensemble by combine='logits')",
        )
    if dim != places.class_dim:
        raise ArgumentError(
            "teacher",
            f"the {kind} has class_dim={dim}, and {term!r} {places.class_dim}: give both the same",
        )


def check_batch_norm(knobs: Knobs, device: torch.device, count: int) -> None:
    """Require GPUs where batch norm is to see the samples of so many processes."""
    if knobs.sync_batch_norm and count > 1 and device.type != "cuda":
        raise ArgumentError(
            "sync_batch_norm",
            "sync_batch_norm needs a GPU in every process (torch.nn.SyncBatchNorm), got "
            f"{count} processes on {device.type}: leave it out, or train in one process",
        )


def check_apart(model: nn.Module, other: nn.Module, argument: str, who: str) -> None:
    """Require that nothing of a model that learns, but for frozen weights, is part of another."""
    changing = {*_memory(model)} - {
        one.untyped_storage().data_ptr() for one in model.parameters() if not one.requires_grad
    }
    shared = changing & _memory(other)
    if shared:
        names = [n for n, one in _tensors(model) if one.untyped_storage().data_ptr() in shared]
        raise ArgumentError(
            argument,
            f"{who} share the weights or buffers {', '.join(names[:3])}: one would change with the "
            "other, take a copy (copy.deepcopy)",
        )


def check_lesson(lesson: Lesson, objective: Objective) -> None:
    """Require of the first batch that both nets show logits, and of labels that are looked at."""
    terms, judge = [term for _, term in objective.parts()], judge_of(objective)
    theirs = None if lesson.teacher is None else lesson.teacher.logits
    if all(term.teacher_layers for term in terms if term.needs_teacher):
        theirs = None  # nobody looks at them
    for who, logits in (("student", lesson.student.logits), ("teacher", theirs)):
        if logits is not None or who == "student":
            check_logits(who, f"the {who}", logits, judge.class_dim)
            if logits.dim() < 2 and not isinstance(judge, EntryTerm):  # type: ignore[union-attr]
                shape = tuple(logits.shape)  # type: ignore[union-attr]
                raise ArgumentError(
                    who,
                    f"the {who}'s logits must have shape (N, K), got {shape}: say where they are "
                    "in what it returns (output=lambda returned: ...)",
                )
    on_labels = [term for term in terms if term.needs_labels or term.mean_over == "labels"]
    if on_labels:
        _check_labels(lesson, on_labels)
    if lesson.weight is not None:
        _check_no_numbers(lesson.weight)
    check_one_class_dim(objective, lesson)


def check_one_class_dim(objective: Objective, lesson: Lesson) -> None:
    """Require of all terms that they look for the classes in one dimension, that of the labels."""
    logits, target = lesson.student_logits, lesson.target
    shape, looking = tuple(logits.shape), {}
    for _, part in objective.parts():
        term = part.at_places
        if isinstance(term, EntryTerm) or not isinstance(term, PredictionTerm):
            continue
        if abs(term.class_dim) < len(shape):  # or else the loss says so
            looking[repr(part)] = {term.class_dim % len(shape)}
    told = {dim for dim in range(1, len(shape)) if place_shape(logits, dim) == [*target.shape]}
    if told and are_classes(target):
        looking[f"labels {tuple(target.shape)}"] = told
    for (one, here), (other, there) in combinations(looking.items(), 2):
        if not here & there:
            raise ArgumentError(
                "objective",
                f"the classes of predictions {shape} are in dimension {min(here)} for {one}, and "
                f"in dimension {min(there)} for {other}: give every term the same class_dim",
            )


def _check_no_numbers(weight: Tensor) -> None:
    """Refuse as weights what many data sets yield third: the numbers of the samples."""
    if weight.dim() != 1 or weight.is_floating_point() or len(weight) < 3:
        return
    given = weight.tolist()
    if len({*given}) == len(given):
        first = ", ".join(map(str, given[:3]))
        raise ArgumentError(
            "train",
            f"the third entry of a batch is the weights of its samples, got different integers, "
            f"[{first}, …], as if they were the samples' numbers: let train yield (inputs, target) "
            "alone, or make weights floating point",
        )


def _check_labels(lesson: Lesson, on_labels: Iterable[Term]) -> None:
    """Require of the first batch the labels that terms look at."""
    here = replace(  # where values can be read
        lesson,
        student=Outputs(logits=lesson.student_logits.detach().cpu()),
        target=lesson.target.cpu(),
        inputs=map_tensors(Tensor.cpu, lesson.inputs),
        weight=None if lesson.weight is None else lesson.weight.cpu(),
    )
    for term in on_labels:
        if isinstance(term.at_places, PredictionTerm):
            term.at_places.check_labels(here)
            continue
        check_matrix("the student's logits", here.student_logits)
        samples, classes = here.student_logits.shape
        if term.needs_labels:
            check_target(here.target, samples, classes, "the labels of train")
        else:
            check_labels("train", here.target, samples, classes)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _memory(model: nn.Module) -> set[int]:
    """Return where the weights and buffers of a model lie."""
    return {one.untyped_storage().data_ptr() for _, one in _tensors(model)} - {0}


def check_source(
    source: Epochs,
    students: Iterable[nn.Module],
    objectives: Iterable[Objective],
    teacher: nn.Module | None,
    parts: int,
) -> None:
    """Require that the batches hold what the objectives need, and can be split.

    A batch has so many parts in all processes together. Recorded answers can be repeated only to
    the lessons in which they were given.
    """
    source.check_parts(parts)
    for student in students:
        _check_smallest(source, student, parts)
    lessons_teacher = getattr(source.train, "only_teacher", None)
    if lessons_teacher is not None and teacher is not None and teacher is not lessons_teacher:
        raise ArgumentError(
            "teacher", "these lessons hold their teacher's answers: pass their own as the teacher"
        )
    if lessons_teacher is None and getattr(teacher, "recorded", False):
        raise ArgumentError("teacher", "a recorded teacher answers the lessons it belongs to only")
    labels = source.labels
    for objective in objectives:
        terms = [term for _, term in objective.parts()]
        need = [term for term in terms if term.needs_labels] if labels != "all" else []
        if labels == "none":
            need += [term for term in terms if term.mean_over == "labels"]
        if need:
            views = source.knobs.views
            unlabelled = "train has samples without" if views is None else f"{views!r} shows no"
            argument = "train" if views is None else "views"
            raise ArgumentError(argument, f"{unlabelled} labels, which {need[0]!r} needs")


def _check_smallest(source: Epochs, student: nn.Module, parts: int) -> None:
    """Refuse a single sample, at the end of an epoch, from which batch norm cannot learn."""
    norms = any(isinstance(part, _NormBase) for part in student.modules())
    together = source.knobs.sync_batch_norm and parts > source.knobs.accumulate
    if source.smallest(parts) != 1 or not norms or together:
        return
    inputs, _, target = source.sample()
    one = map_samples(lambda samples: samples[:1], inputs, len(target))
    kept, drawn = kept_buffers(student), torch.random.fork_rng(devices=[])
    with (
        kept,
        drawn,
        training_mode([student]) as enter,
        blaming_model("student", one),
        torch.no_grad(),
    ):
        enter()
        call(student, one, "student", source.knobs.output)


def check_channels_last(
    student: nn.Module, teacher: nn.Module | None, objective: Objective
) -> None:
    """Refuse gradients that oneDNN cannot take: see :func:`kdcourse.data.in_order`."""
    differentiated = [student]
    if teacher is not None and objective.needs_input_gradient:
        differentiated.append(teacher)
    for name, part in chain.from_iterable(model.named_modules() for model in differentiated):
        if (
            isinstance(part, nn.Conv2d)
            and part.kernel_size == (1, 1)
            and max(part.stride) > 1
            and part.in_channels < 16
        ):
            raise ArgumentError(
                "channels_last",
                f"channels_last cannot be used on a CPU with {name}, a strided 1×1 convolution of "
                f"{part.in_channels} channels: with fewer than 16, oneDNN writes past its memory",
            )
