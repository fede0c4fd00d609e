"""The command line of ``python -m kdcourse train``, derived from :class:`Options`."""

import argparse
import inspect
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_args

from kdcourse.train.language import Maker, is_schedule, words
from kdcourse.train.options import GROUPS, Options, dashed

ABOUT = """Train a net on labels or with a teacher; on a CPU, on a GPU, or under torchrun on many.
It can also be a language model, on the definitions that come with the course or a file of texts.

Every epoch is checkpointed: the same command resumes a run that was stopped, even with another
number of processes. Into --out go options.toml, checkpoint.pt, metrics.jsonl (one line per epoch,
accuracies in [0, 1]), student.safetensors, and result.json with the test accuracy in percent, which
is measured once, at the end; with --diagnose also diagnosis.json, with what the doctor has found,
which `python -m kdcourse doctor` reads. With --seeds, each seed has a folder of its own in --out,
and the result.json in --out sums them up."""

EXAMPLES = """examples:
  python -m kdcourse train --student plain8 --teacher res16 --images 4000 \\
      --loss "CrossEntropy() + 4 * LogitKD(temperature=4)" --augment "pad_crop_flip()" --out runs/kd
  python -m kdcourse train --recipes
  python -m kdcourse train resnet56-resnet20 --method teacher --download --out runs/teacher
  python -m kdcourse train resnet56-resnet20 --method kd --out runs/kd \\
      --teacher-weights runs/teacher/student.safetensors
  python -m kdcourse train resnet56-resnet20 --method kd --out runs/many --seeds 0-9 \\
      --teacher-weights runs/teacher/student.safetensors
  python -m kdcourse train --data definitions --student lm-2x48 --teacher lm-4x128 \\
      --teacher-weights runs/teacher/student.safetensors --texts "OnPolicy(share=0.5)" \\
      --loss "LogitKD(1)" --optimizer adamw --learning-rate 0.003 --out runs/texts
  torchrun --nproc-per-node 4 -m kdcourse train resnet56-resnet20 --method teacher --out runs/4

--student, --teacher, --loss, --texts, --views, --augment and --schedule are written in Python, as
in the notebooks, with the names below. Terms can be added up and multiplied by numbers. Layers are
"stem", "stage1", "stage2", "stage3", "embedding", or any other module's name; "stage1.-1.sum" is
what the last ReLU of a stage of residual blocks sees. Leave out what the command knows: student,
channels, classes, epochs, steps and seed; for texts also where the classes, the channels and the
places without a target are. The nets in --teacher take their weights from --teacher-weights, in
order. --student may name the teacher, as in "reuse_classifier(by_name('plain8'), teacher)".

--data may be "definitions", or a file of texts, with a dot or a slash in its name: one text per
line, in UTF-8. Equal lines count once; a tenth is held out to validate on, and another to test on.
Every character is a token, and nets are rated in nats per character. student.safetensors and
result.json hold the vocabulary; a student takes over that of its teacher's weights. A net such as
lm-2x48 (depth, width) reads 80 characters; "language_model(48, 2, 4, length=200)" reads more.
--texts says whose texts to learn from: "data"; "Written()", which the teacher writes once;
"OnPolicy(share=0.5)", half of which the student writes itself, anew for each batch; and
"OnPolicy(share=0.5, teacher=teacher, teacher_share=0.25)", where the teacher writes some, too. All
but "data" take temperature, top_p or greedy: "Written(greedy=True)".

"""


def parser() -> argparse.ArgumentParser:
    """Make the parser; what is not on the command line is not in its result."""
    made = argparse.ArgumentParser(
        prog="python -m kdcourse train",
        description=ABOUT,
        epilog=EXAMPLES + described(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="settings to begin with: a recipe, or a TOML file",
    )
    made.add_argument("--method", metavar="NAME", help="which method of the recipe")
    made.add_argument("--recipes", action="store_true", help="list the recipes and their methods")
    made.add_argument(
        "--dry-run",
        action="store_true",
        help="print parameters, multiply-adds, memory and time, and write nothing",
    )
    group: Any = made
    for spec in fields(Options):
        if spec.name in GROUPS:
            group = made.add_argument_group(GROUPS[spec.name])
        _add(group, spec)
    return made


def _add(group: Any, spec: Field) -> None:
    help = spec.metadata["help"]
    if spec.default not in ("", (), None, False):
        help += f" ({spec.default})"
    common = {"dest": spec.name, "default": argparse.SUPPRESS, "help": help.replace("%", "%%")}
    flag = f"--{dashed(spec.name)}"
    if spec.type is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        return
    for number, metavar in ((int, "N"), (float, "X")):
        if number in (get_args(spec.type) or (spec.type,)):
            common |= {"type": number, "metavar": metavar}
    if spec.metadata["metavar"]:
        common["metavar"] = spec.metadata["metavar"]
    if isinstance(spec.default, tuple):
        common["nargs"] = "+"
    if "bare" in spec.metadata:
        common |= {"nargs": "?", "const": spec.metadata["bare"]}
    group.add_argument(flag, **common)


def described() -> str:
    """List every name that an option may say, with its arguments, by what it makes."""
    kinds: dict[str, list[str]] = {}
    for name, (kind, maker) in words().items():
        kinds.setdefault(kind, [f"{kind}:"]).append(f"  {name}{_arguments(maker)}")
    return "\n\n".join("\n".join(lines) for lines in kinds.values())


def _arguments(maker: Maker) -> str:
    """Write the arguments of a class or function, without types."""
    signature = inspect.signature(maker)
    if is_schedule(maker):
        return ""
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if not isinstance(parameter.default, Path)  # which is this machine's
    ]
    return str(signature.replace(parameters=shown, return_annotation=signature.empty))
