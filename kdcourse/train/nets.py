"""The student and the teacher that the options ask for."""

import copy
import re
import textwrap
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from kdcourse import files, models
from kdcourse.data import Images
from kdcourse.modes import evaluation_mode
from kdcourse.teachers import (
    ClosedTeacher,
    Ensemble,
    FoldedTeacher,
    FrozenTeacher,
    Teacher,
    shipped,
)
from kdcourse.train import texts
from kdcourse.train.language import Reader, mentions
from kdcourse.train.options import OptionError, Options, blaming
from kdcourse.train.texts import Corpus
from kdcourse.training import as_teacher


def made(
    options: Options,
    given: dict[str, Any],
    images: Images | Corpus,
    *,
    need_weights: bool,
    read_weights: bool,
) -> tuple[nn.Module, nn.Module | None]:
    """Return student and teacher; one may be made of the other, which is made first.

    Args:
        options: All that is to be known.
        given: What the command knows, by the names of parameters.
        images: A few of those to train on.
        need_weights: Whether a teacher must be told its weights.
        read_weights: Whether they are read; not if nets do not have their final sizes yet.
    """
    weights = {"need_weights": need_weights, "read_weights": read_weights}
    if not mentions(options.student, "teacher"):
        student = _student(options, given, images, read_weights=read_weights)
        return student, _teacher(options, given | {"student": student}, **weights)
    if (teacher := _teacher(options, given, **weights)) is None:
        raise OptionError("--student: there is no --teacher that it could be made of")
    given = given | {"teacher": teacher}
    return _student(options, given, images, read_weights=read_weights), teacher


def try_out(net: nn.Module, images: Images | Corpus, who: str) -> None:
    """Require a net that takes such inputs."""
    if isinstance(images, Corpus):
        texts.try_out(net, images, who)
        return
    with evaluation_mode(net), torch.no_grad():
        net(images[:2].inputs())


def _net(text: str, given: dict[str, Any], *kinds: str) -> tuple[nn.Module, list[nn.Module]]:
    """Return what a short name (``wrn-16-2``) or an expression makes, and its fresh nets."""
    if re.fullmatch(r"[\w-]+", text):
        like = {name: given[name] for name in ("channels", "classes", "seed") if name in given}
        net = models.by_name(text, **like)
        return net, [net]
    reader = Reader(text, given, *kinds)
    return reader.made, reader.nets


def _student(
    options: Options, given: dict[str, Any], images: Images | Corpus, *, read_weights: bool
) -> nn.Module:
    """Return the student, with fresh weights or those that it begins with."""
    with blaming("student"):
        student, _ = _net(options.student, given, "nets")
        try_out(student, images, "student")
    if options.student_weights and read_weights:
        with blaming("student-weights"):
            load_weights(student, Path(options.student_weights))
    return student


def _teacher(
    options: Options, given: dict[str, Any], *, need_weights: bool, read_weights: bool
) -> nn.Module | None:
    """Return the teacher: one that ships with the course, a net with weights, or an expression."""
    files, text = [Path(name) for name in options.teacher_weights], options.teacher
    if text == "none":
        if files:
            raise OptionError("--teacher-weights: there is no --teacher to load them into")
        return None
    with blaming("teacher"):
        if not files and text in shipped.RECIPES:
            text = f"pretrained({text!r})"
        teacher, nets = _net(text, given, "teachers", "nets")
        first = next((m for m in teacher.modules() if isinstance(m, nn.Conv2d)), None)
        if first is not None and first.in_channels != given.get("channels", first.in_channels):
            raise ValueError(
                f"{options.teacher} was trained on images of {first.in_channels} channel(s), these "
                f"have {given['channels']}"
            )
        if isinstance(teacher, Teacher) and teacher.follows_student:
            copy.deepcopy(teacher).update(given["student"], 1)  # to see whether it can
    if need_weights or files:
        with blaming("teacher-weights"):
            if len(nets) != len(files):
                raise ValueError(
                    f"{options.teacher!r} makes {len(nets)} net(s) and takes as many safetensors "
                    "files, such as the student.safetensors of an earlier run, in the order of "
                    f"their names; got {len(files)}"
                )
            for net, path in zip(nets, files, strict=True):
                if read_weights:
                    load_weights(net, path)
    return teacher.eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a model's weights from a safetensors file, or say why that cannot be."""
    if not path.is_file():
        raise ValueError(f"{path} cannot be read: there is no such file")
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        advice = ""
        if isinstance(error, SafetensorError):
            advice = (
                "; it must be a safetensors file, such as safetensors.torch.save_file makes of the "
                "state_dict in a .pt file"
            )
        raise ValueError(f"{path} cannot be read: {files.why(error)}{advice}") from None
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), 300)
        raise ValueError(f"{path} holds the weights of another net: {reason}") from None


def folded(model: nn.Module) -> Teacher:
    """Make faster the nets in a teacher whose hidden layers nobody asks for."""
    teacher = as_teacher(model)
    if isinstance(teacher, Ensemble):
        teacher.members = nn.ModuleList(folded(member) for member in teacher.members)
    elif isinstance(teacher, ClosedTeacher):
        teacher.model = folded(teacher.model)
    return FoldedTeacher(teacher.model) if type(teacher) is FrozenTeacher else teacher
