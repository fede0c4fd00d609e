"""All options of a training: from the command line, from a TOML file, and to one."""

import difflib
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from kdcourse import files
from kdcourse.checks import check_choice, check_number
from kdcourse.errors import ExplainedError
from kdcourse.training.knobs import BATCH, DECAY, EPOCHS, RATE, Knobs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFINITIONS = "definitions"  # the texts that come with the course
OPTION = {"objective": "loss", "train": "data", "scheduler": "schedule"}  # by fit's argument


class OptionError(ValueError):
    """An option that cannot work; the message begins with its name."""


@contextmanager
def blaming(option: str) -> Iterator[None]:
    """Name an option in the errors that its value causes: this one, unless the error names another.

    The library's errors name an argument of :func:`kdcourse.training.fit`.
    """
    try:
        yield
    except OptionError:
        raise
    except Exception as error:  # what an option makes may fail in any way
        argument = error.argument if isinstance(error, ExplainedError) else option
        found = OPTION.get(argument, argument)
        told = files.sentence(error) if isinstance(error, OSError) else error
        raise OptionError(f"--{dashed(found) if found in NAMES else option}: {told}") from error


def meant(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """Return a question with the closest name that exists, if any is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=likeness)
    return f"; did you mean {close[0]}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Make the error for a name that does not exist, with those that do."""
    known = list(known)
    question = meant(name, known) or ";"
    return ValueError(f"unknown {kind} {name!r}{question} known: {', '.join(known)}")


def _option(default: Any, help: str, metavar: str = "", **rest: Any) -> Any:
    return field(default=default, metadata={"help": help, "metavar": metavar, **rest})


# In --help, by their first options.
GROUPS = {"student": "nets and loss", "data": "data", "epochs": "learning", "device": "running"}


@dataclass(frozen=True)
class Options:
    """What can be said of a training; a TOML file may say the same, by the options' names.

    Options marked ``free`` may change between a run and its continuation.
    """

    student: str = _option(
        "",
        "net to train: plain8, resnet20, wrn-16-2, …, lm-2x48, \"reuse_classifier(by_name('res8'), "
        'teacher)"',
        "NET",
    )
    teacher: str = _option(
        "none", "who teaches: res16, resnet56, \"Ensemble(pretrained('res16'), …)\"", "TEACHER"
    )
    teacher_weights: tuple[str, ...] = _option(
        (), "weights of the teacher's nets, in the order of their names", "FILE"
    )
    student_weights: str | None = _option(
        None, "weights of an earlier run, with which the student begins", "FILE"
    )
    loss: str = _option(
        "CrossEntropy()", "terms: 'CrossEntropy() + 4 * LogitKD(temperature=4)'", "TERMS"
    )
    data: str = _option(
        "fashion-mnist",
        "a classification set of torchvision: cifar10, svhn, …; or texts: definitions, mine.txt",
        "NAME",
    )
    texts: str = _option(
        "data", "whose texts to learn from: 'Written()', 'OnPolicy(share=0.5)'", "SOURCE"
    )
    data_root: str | None = _option(
        None, "folder of the data ($KDCOURSE_DATA, or the course's)", "DIR", free=True
    )
    download: bool = _option(False, "fetch the data if they are missing", free=True)
    images: int | None = _option(None, "train on this many images or texts only", low=1)
    validation: int = _option(
        5000, "images held out to validate on (texts: at most as many); 0 for none", low=0
    )
    image_size: int | None = _option(None, "resize images to this height and width", "PX", low=1)
    augment: str = _option("none", "augmentation: 'pad_crop_flip(4)'", "AUGMENTATION")
    views: str = _option(
        "none", "what student and teacher see: 'FunctionMatching(crop_flip())'", "VIEW"
    )
    cache: int = _option(
        0, "replay this many epochs, for which the teacher is asked only once", "EPOCHS", low=0
    )
    epochs: int | None = _option(
        None, f"passes through the data ({EPOCHS}, unless there are --steps)", low=1
    )
    steps: int | None = _option(None, "end after this many batches, instead of --epochs", low=1)
    batch_size: int = _option(BATCH, "images or texts per step, over all processes together", low=1)
    drop_last: bool = _option(Knobs.drop_last, "leave out an epoch's last, smaller batch")
    accumulate: int = _option(
        Knobs.accumulate, "make each step in this many parts, to save memory", low=1
    )
    sync_batch_norm: bool = _option(
        Knobs.sync_batch_norm, "let batch norm see the samples of all processes (GPUs only)"
    )
    optimizer: str = _option("sgd", "what moves the weights", "sgd|adamw")
    learning_rate: float = _option(RATE, "peak of the schedule", low=0, high=1e6)
    schedule: str = _option(
        "one_cycle", "of the learning rate, such as 'at_epochs([150, 180])'", "SCHEDULE"
    )
    weight_decay: float = _option(DECAY, "of the optimizer", low=0, high=1e6)
    momentum: float = _option(
        0.9, "of SGD, or Adam's β₁; one_cycle swings by 0.05 around it", low=0, high=1
    )
    nesterov: bool = _option(True, "Nesterov's form of SGD's momentum")
    clip: float | None = _option(Knobs.clip, "clip the gradient to this norm")
    seed: int = _option(Knobs.seed, "of initial weights, order and augmentation", low=0)
    seeds: str | None = _option(
        None,
        "several, instead of --seed: '0-9' or '0-4,8'; each has a folder of its own",
        "SEEDS",
        free=True,
    )
    device: str | None = _option(
        Knobs.device, "cpu, cuda, cuda:1 or mps; the best by default", "NAME", free=True
    )
    jobs: int | None = _option(
        None,
        "seeds side by side, one thread each (one per core; on a GPU, one per core and 8 GiB free)",
        free=True,
        low=1,
    )
    autocast: str = _option(
        "none", "mixed precision: none, auto, bfloat16 or float16", "DTYPE", bare="auto"
    )
    compile: bool = _option(Knobs.compile, "run both nets through torch.compile", free=True)
    capture: bool = _option(True, "replay a step as a CUDA graph, where possible", free=True)
    channels_last: bool = _option(
        Knobs.channels_last, "keep images and weights in channels-last order", free=True
    )
    keep: str = _option(
        Knobs.keep,
        "weights to keep: those of the last epoch, or of the best on validation data",
        "last|best",
    )
    diagnose: bool = _option(
        Knobs.diagnose, "let a doctor look at some batches, and store what it finds", free=True
    )
    tensorboard: bool = _option(False, "also write files for TensorBoard", free=True)
    out: str = _option(
        "", "folder to write to, on all machines; the same command resumes", "DIR", free=True
    )

    def __post_init__(self) -> None:
        """Check what can be checked without making anything."""
        for spec in fields(self):
            with blaming(dashed(spec.name)):
                _check(spec, getattr(self, spec.name))
        if self.epochs is not None and self.steps is not None:
            raise OptionError("--steps: is instead of --epochs; leave one of them out")
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", EPOCHS)
        with blaming("keep"):
            check_choice("keep", self.keep, ("last", "best"))
        with blaming("optimizer"):
            check_choice("optimizer", self.optimizer, ("sgd", "adamw"))
        if self.keep == "best" and not self.validation:
            what = "texts" if self.reads_texts else "images"
            raise OptionError(f"--keep: the best is found by {what} to validate on (--validation)")
        if self.nesterov and self.momentum == 0:
            raise OptionError("--nesterov: needs a momentum above 0; say --no-nesterov")
        self._check_kind()
        if not self.student:
            raise OptionError("--student: say which net to train")
        if self.cache and self.teacher == "none":
            raise OptionError("--cache: there is no --teacher whose answers could be kept")
        if self.seeds is not None:
            with blaming("seeds"):
                listed_seeds(self.seeds)
        elif self.jobs is not None:
            raise OptionError("--jobs: is for --seeds; torchrun shares one training out")
        with blaming("autocast"):
            if self.autocast not in (choices := ("none", "auto", "bfloat16", "float16")):
                raise unknown("dtype", self.autocast, choices)

    def _check_kind(self) -> None:
        """Refuse what is for images where texts are read, and the other way round."""
        default = {spec.name: spec.default for spec in fields(self)}
        for name in OF_IMAGES if self.reads_texts else ("texts",):
            if getattr(self, name) != default[name]:
                kinds = ("images", "texts") if self.reads_texts else ("texts", "images")
                raise OptionError(
                    f"--{dashed(name)}: is for {kinds[0]}, and --data {self.data} are {kinds[1]}"
                )

    @property
    def reads_texts(self) -> bool:
        """Whether the data are texts: the course's, or a file, whose name has a dot or a slash."""
        return self.data == DEFINITIONS or not re.fullmatch(r"[\w-]*", self.data)

    @property
    def settings(self) -> dict[str, Any]:
        """What distinguishes this training from others."""
        return {s.name: getattr(self, s.name) for s in fields(self) if not s.metadata.get("free")}

    def toml(self) -> str:
        """Write the options as a TOML file, by which the same training can be run again."""
        lines = []
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value is not None and spec.name != "out":
                shown = list(value) if isinstance(value, tuple) else value
                lines.append(f"{dashed(spec.name)} = {json.dumps(shown, ensure_ascii=False)}\n")
        return "".join(lines)


OF_IMAGES = (
    *("data_root", "download", "image_size", "augment", "views", "cache"),
    *("drop_last", "channels_last"),
)
NAMES = [spec.name for spec in fields(Options)]


def dashed(name: str) -> str:
    """Write a field's name as its option, without the leading dashes."""
    return name.replace("_", "-")


def listed_seeds(text: str) -> list[int]:
    """Return the seeds that ``"0-9"``, ``"0,3,7"`` or ``"0-4,8"`` names, in this order."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        if found is None:
            raise ValueError(f"seeds are named as in 0-9, or 0-4,8, got {text!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ValueError(f"the last seed must not be below the first, got {part.strip()!r}")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"every seed must be named once, got {text!r}")
    return seeds


def from_toml(table: dict[str, Any], source: str) -> dict[str, Any]:
    """Turn a table of a TOML file into fields of :class:`Options`; an error names the file."""
    known = [dashed(name) for name in NAMES]
    for key in table:
        if key not in known:
            raise OptionError(f"{source}: {unknown('option', key, known)}")
    return {
        key.replace("-", "_"): tuple(value) if isinstance(value, list) else value
        for key, value in table.items()
    }


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; an error names the file and the place."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: {error}") from None


KINDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def _check(spec: Field, value: Any) -> None:
    """Require a value of a field's type and range; from a file, anything might come."""
    kinds = get_args(spec.type) or (spec.type,)  # of int | None, or of tuple[str, ...]
    if isinstance(spec.default, tuple):
        if not (isinstance(value, tuple) and all(type(part) is str for part in value)):
            raise ValueError(f"the value must be a list of texts, got {value!r}")
    elif type(value) not in kinds and not (type(value) is int and float in kinds):
        raise ValueError(f"the value must be {KINDS[kinds[0]]}, got {value!r}")
    if "low" in spec.metadata and value is not None:
        high = spec.metadata.get("high", math.inf)
        check_number("the value", value, spec.metadata["low"], high, open_high=True)
