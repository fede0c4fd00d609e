"""All options of a training: from the command line, from a TOML file, and to one."""

import json
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin

from kdcourse.checks import check_number
from kdcourse.train.language import unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class OptionError(ValueError):
    """An option that cannot work; the message begins with its name."""


@contextmanager
def blaming(option: str) -> Iterator[None]:
    """Name an option in the errors that its value causes."""
    try:
        yield
    except OptionError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        raise OptionError(f"--{option}: {error}") from error


def _option(default: Any, group: str, help: str, metavar: str = "", **rest: Any) -> Any:
    return field(
        default=default, metadata={"group": group, "help": help, "metavar": metavar, **rest}
    )


NET, DATA, LEARN, RUN = "nets and objective", "data", "learning", "running"


@dataclass(frozen=True)
class Options:
    """What can be said of a training; a TOML file may say the same, by the options' names.

    Options marked ``free`` may change between a run and its continuation.
    """

    student: str = _option("", NET, "net to train: plain8, res16, resnet20, wrn-16-2, …", "NET")
    teacher: str = _option(
        "none", NET, "who teaches: res16, resnet56, \"Ensemble(pretrained('res16'), …)\"", "TEACHER"
    )
    teacher_weights: tuple[str, ...] = _option(
        (), NET, "weights of the teacher's nets, in the order of their names", "FILE"
    )
    loss: str = _option(
        "CrossEntropy()",
        NET,
        "sum of terms: 'CrossEntropy() + 4 * LogitKD(temperature=4)'",
        "TERMS",
    )
    data: str = _option("fashion-mnist", DATA, "a classification set of torchvision", "NAME")
    data_root: str | None = _option(
        None, DATA, "folder of the data ($KDCOURSE_DATA, or the course's)", "DIR", free=True
    )
    download: bool = _option(False, DATA, "fetch data that are missing", free=True)
    images: int | None = _option(None, DATA, "train on so many images only", "N")
    validation: int = _option(5000, DATA, "images held out to validate on; 0 for none", "N")
    image_size: int | None = _option(None, DATA, "resize images to this height and width", "PX")
    augment: str = _option("none", DATA, "augmentation: 'pad_crop_flip(4)'", "AUGMENTATION")
    views: str = _option(
        "none", DATA, "what student and teacher see: 'FunctionMatching(crop_flip())'", "VIEW"
    )
    cache: int = _option(
        0, DATA, "replay so many different epochs, for which the teacher is asked once", "EPOCHS"
    )
    epochs: int = _option(15, LEARN, "passes through the images", "N")
    batch_size: int = _option(128, LEARN, "images a step, of all processes together", "N")
    accumulate: int = _option(1, LEARN, "make each step in so many parts, to save memory", "N")
    learning_rate: float = _option(0.1, LEARN, "peak of the schedule", "X")
    schedule: str = _option(
        "one_cycle", LEARN, "of the learning rate: 'at_epochs([150, 180])'", "SCHEDULE"
    )
    weight_decay: float = _option(5e-4, LEARN, "of SGD", "X")
    momentum: float = _option(0.9, LEARN, "of SGD; one-cycle swings by 0.05 around it", "X")
    nesterov: bool = _option(True, LEARN, "Nesterov's form of momentum")
    seed: int = _option(0, LEARN, "of initial weights, order, augmentation", "N")
    device: str | None = _option(
        None, RUN, "cpu, cuda, cuda:1 or mps; the best there is by default", "NAME", free=True
    )
    autocast: str = _option(
        "none", RUN, "mixed precision: none, auto, bfloat16 or float16", "DTYPE", bare="auto"
    )
    compile: bool = _option(False, RUN, "run the student through torch.compile", free=True)
    channels_last: bool = _option(False, RUN, "keep images and weights channels last", free=True)
    tensorboard: bool = _option(False, RUN, "write TensorBoard's files, too", free=True)
    out: str = _option(
        "",
        RUN,
        "folder to write to, seen by all machines; the same command resumes there",
        "DIR",
        free=True,
    )

    def __post_init__(self) -> None:
        """Check what can be checked without making anything."""
        for spec in fields(self):
            with blaming(dashed(spec.name)):
                _check_type(spec, getattr(self, spec.name))
        least = {"validation": 0, "cache": 0, "seed": 0} | dict.fromkeys(
            ("images", "image_size", "epochs", "batch_size", "accumulate"), 1
        )
        for name, low in least.items():
            if (value := getattr(self, name)) is not None:
                with blaming(dashed(name)):
                    check_number("the value", value, low)
        for name, high in (("learning_rate", 1e6), ("weight_decay", 1e6), ("momentum", 1.0)):
            with blaming(dashed(name)):
                check_number("the value", getattr(self, name), 0.0, high, open_high=True)
        if self.nesterov and self.momentum == 0:
            raise OptionError("--nesterov: needs a momentum above 0; say --no-nesterov")
        if not self.student:
            raise OptionError("--student: say which net to train")
        with blaming("autocast"):
            if self.autocast not in (choices := ("none", "auto", "bfloat16", "float16")):
                raise unknown("dtype", self.autocast, choices)

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


NAMES = [spec.name for spec in fields(Options)]


def dashed(name: str) -> str:
    """Write a field's name as its option, without the leading dashes."""
    return name.replace("_", "-")


def from_toml(table: dict[str, Any], source: str) -> dict[str, Any]:
    """Turn a table of a TOML file into fields of :class:`Options`.

    Raises:
        OptionError: a key that is no option, naming the file.
    """
    known = [dashed(name) for name in NAMES]
    for key in table:
        if key not in known:
            raise OptionError(f"{source}: {unknown('option', key, known)}")
    return {
        key.replace("-", "_"): tuple(value) if isinstance(value, list) else value
        for key, value in table.items()
    }


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        OptionError: it cannot be read, naming the file and the place.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: {error}") from None


def _check_type(spec: Field, value: Any) -> None:
    """Require a value of a field's type; from a file, anything might come."""
    kinds = get_args(spec.type) if isinstance(spec.type, types.UnionType) else (spec.type,)
    if get_origin(spec.type) is tuple:
        fits = isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    elif spec.type is float:
        fits = type(value) in (int, float)
    else:
        fits = type(value) in kinds
    if not fits:
        names = {"int": "an integer", "float": "a number", "str": "a text", "bool": "true or false"}
        wanted = next((names[k.__name__] for k in kinds if k.__name__ in names), "a list of texts")
        raise ValueError(f"the value must be {wanted}, got {value!r}")
