"""One training, from options to a measured student."""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from kdcourse import files, metrics, models, processes
from kdcourse.data import Splits, from_torchvision
from kdcourse.files import write
from kdcourse.teachers import WrongCacheError
from kdcourse.train import texts
from kdcourse.train.images import data_set
from kdcourse.train.options import OptionError, Options, blaming, dashed, from_toml, read_toml
from kdcourse.train.plan import Plan, prepare, some
from kdcourse.train.record import MEASURES, METRICS, Record, Row, summary_writer
from kdcourse.train.texts import Corpus, CorpusSplits
from kdcourse.training import History, checkpoint, choose_device, fit
from kdcourse.training.checkpoint import OtherRunError

try:
    import fcntl
except ImportError:  # on Windows, where nobody keeps others out
    fcntl = None  # type: ignore[assignment]

OPTIONS, CHECKPOINT, CACHE = "options.toml", "checkpoint.pt", "answers"
STUDENT, RESULT = "student.safetensors", "result.json"
RESULTS = {"epochs", "parameters", "seconds", "processes", "device", "torch"}


def run(
    options: Options, splits: Splits | CorpusSplits | None = None, *, progress: bool = True
) -> dict[str, Any] | None:
    """Train by options, or go on where such a training was stopped.

    Args:
        options: All that is to be known.
        splits: The data of these options, where they have been read already.
        progress: Whether to show a progress bar.

    Returns:
        What stands in ``result.json``; None in all processes but the main one.
    """
    plan, folder = checked(options), Path(options.out)
    advice = f"the same command resumes from {folder / CHECKPOINT}"
    with (
        processes.joined(options.device) as device,
        processes.losses_told(advice),
        held(folder) as hold,
    ):
        result = processes.from_main(lambda: opened(folder, options))
        if result is None:
            splits = splits or load(options)
            if plan.guessed:
                plan = prepare(options, splits.train)
            processes.from_main(lambda: write(folder / OPTIONS, options.toml()))
            with _changes_told(options):
                place = choose_device(device)
                result = _train(plan, splits, place, folder, hold, progress=progress)
        processes.wait()
        return result if processes.is_main() else None


def checked(options: Options) -> Plan:
    """Make what the options ask for, before any work, and before anything is written."""
    if not options.out:
        raise OptionError("--out: say which folder to write to")
    if options.tensorboard:
        with blaming("tensorboard"):
            summary_writer()
    return prepare(options)


@contextmanager
def held(folder: Path) -> Iterator[Callable[[], None]]:
    """Keep other runs out of the folder; the system lets go of it if this one is killed.

    Yields:
        What takes the folder again, should it have been removed meanwhile.
    """
    with ExitStack() as stack:
        held: list[int] = []

        def take() -> None:
            with blaming("out"), files.told(folder):
                folder.mkdir(parents=True, exist_ok=True)
                if fcntl is None or any(map(partial(_same_file, folder), held)):
                    return
                file = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, file)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise OptionError(f"--out: another run is writing to {folder} now") from None
                held[:] = [file]

        processes.from_main(take)
        yield take


def _same_file(path: Path, file: int) -> bool:
    return os.path.samestat(path.stat(), os.fstat(file))


@contextmanager
def _changes_told(options: Options) -> Iterator[None]:
    """Name the option whose files hold something else than when the run was begun."""
    try:
        yield
    except (WrongCacheError, OtherRunError) as error:
        changed = error.setting if isinstance(error, OtherRunError) else error.differs
        if changed == "teacher":
            what = ", ".join(options.teacher_weights) or f"the weights of {options.teacher}"
            name = "teacher-weights" if options.teacher_weights else "teacher"
        elif changed in ("images", "train", "validation"):
            kind = "texts" if options.reads_texts else "images"
            name, what = "data", f"the {kind} of {options.data}"
            teachers = options.cache or options.texts != Options.texts  # its answers, or its texts
            if teachers and changed == "train":
                what += ", or the teacher's weights,"
        else:
            name = "out" if isinstance(error, OtherRunError) else "cache"
            raise OptionError(f"--{name}: {error}") from None
        raise OptionError(
            f"--{name}: {what} changed after the run in {options.out} was begun; put back what was "
            "there, or choose another --out"
        ) from error


def opened(folder: Path, options: Options) -> dict[str, Any] | None:
    """Return the result in the folder, if any; refuse a run with other settings."""
    path = folder / OPTIONS
    if any(folder.glob("seed-*/" + OPTIONS)):
        raise OptionError(f"--out: {folder} holds a training of many seeds; choose another")
    if path.is_file():
        begun = Options(**from_toml(read_toml(path), str(path))).settings
        for name, value in options.settings.items():
            if begun[name] != value:
                raise OptionError(
                    f"--{dashed(name)}: the run in {folder} was begun with {begun[name]!r}, "
                    f"here it is {value!r}; choose another --out"
                )
    result = _finished(folder) if (folder / RESULT).is_file() else None
    if result is None:
        with blaming("out"):
            files.check_writable(folder)
        if (folder / RESULT).is_file():  # the checkpoint holds what it is made from
            print(f"kdcourse: the result in {folder} is damaged, and made anew", file=sys.stderr)
    return result


def _finished(folder: Path) -> dict[str, Any] | None:
    """Return what stands in ``result.json``; None if that or what belongs to it is damaged."""
    try:
        result = json.loads((folder / RESULT).read_text())
        rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
        with safe_open(folder / STUDENT, "pt"):  # which looks at the length of the file
            pass
    except (ValueError, OSError, SafetensorError):
        return None
    whole = isinstance(result, dict) and result.keys() >= RESULTS and len(rows) == result["epochs"]
    return result if whole and result.keys() & MEASURES.keys() else None


def load(options: Options) -> Splits | CorpusSplits:
    """Read the data; first one process of each machine, which may have to download them."""
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    splits = None
    for turn in (True, False):
        if turn is first:
            splits = _read(options)
        processes.wait()
    assert splits is not None
    return replace(splits, train=some(splits.train, options))


def _read(options: Options) -> Splits | CorpusSplits:
    if options.reads_texts:
        return texts.read(options)
    with blaming("data"):
        return from_torchvision(
            data_set(options.data),
            options.data_root,
            validation=options.validation,
            download=options.download,
            image_size=options.image_size,
        )


def _train(
    plan: Plan,
    splits: Splits | CorpusSplits,
    device: torch.device,
    folder: Path,
    hold: Callable[[], None],
    *,
    progress: bool,
) -> dict[str, Any]:
    """Train, measure on the test set, and write down what came out."""
    options = plan.options
    if isinstance(splits, CorpusSplits):
        plan.knobs |= splits.validation.rated
    elif splits.validation:
        plan.knobs["validation"] = splits.validation
    plan.knobs |= {"device": device, "keep": options.keep}
    lessons = plan.lessons(splits.train.to(device), epochs=options.cache, path=folder / CACHE)
    with ExitStack() as stack:
        record: Record | None = None
        if processes.is_main():
            rows = _rows(folder / CHECKPOINT)
            record = Record(folder, rows, tensorboard=options.tensorboard)
            stack.callback(record.close)

        def log(row: Row) -> None:  # in the main process
            assert record is not None
            hold()
            record(row)

        history = fit(
            plan.student,
            **lessons,
            objective=plan.objective,
            checkpoint=folder / CHECKPOINT,
            on_interrupt="raise",
            progress=progress,
            log=log,
        )
    if progress and history.seconds_to_first_step is not None:
        began = f"first step after {history.seconds_to_first_step:.1f} s"
        print(f"{began}; steps were {history.capture}", file=sys.stderr)
    return processes.from_main(lambda: _finish(plan, splits, history, device, folder))


def _rows(path: Path) -> list[Row]:
    """Return the rows of a checkpoint, if it is one; if it is not, fit tells so."""
    state = checkpoint.load(path) if path.is_file() else None
    return state.get("rows", []) if isinstance(state, dict) else []


def _finish(
    plan: Plan,
    splits: Splits | CorpusSplits,
    history: History,
    device: torch.device,
    folder: Path,
) -> dict[str, Any]:
    """Store the student, and measure it on the test set: once, and last."""
    write(folder / OPTIONS, plan.options.toml())  # again, should they have been removed
    student = plan.student
    weights = {name: value.contiguous() for name, value in student.state_dict().items()}
    test, about = splits.test, None
    if isinstance(test, Corpus):
        measured = texts.tested(student.to(device), test, plan.options.seed)
        about = {texts.VOCABULARY: test.vocabulary.characters}
    else:
        measured = {"test_accuracy": round(100 * metrics.accuracy(student.to(device), test), 4)}
    write(folder / STUDENT, save(weights, about))
    result = {
        **measured,
        "epochs": len(history),
        "kept": history.kept["epoch"],
        "parameters": models.count_parameters(student),
        "seconds": round(sum(history["seconds"]), 1),
        "processes": processes.count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "seed": plan.options.seed,
        "python": platform.python_version(),
    }
    write(folder / RESULT, json.dumps(result, indent=1) + "\n")
    return result
