"""Bad calls of all that is public, made from its signatures: each is refused, by name.

NaN is no bad call: what holds it gives NaN. That is tested here, too.
"""

import contextlib
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import CLASSES, images

import kdcourse
from kdcourse import augmentation, feature, further, logit, models, tips
from kdcourse.augmentation import Compose, Flip, ResizedCrop
from kdcourse.data import Images
from kdcourse.errors import ArgumentError, ArgumentTypeError, ExplainedError
from kdcourse.language import Characters, Definitions
from kdcourse.logit import softmax
from kdcourse.methods.top_k import top_k_answers
from kdcourse.methods.variational import VariationalHint
from kdcourse.models import by_name, capture
from kdcourse.objective import Objective
from kdcourse.signatures import matches
from kdcourse.teachers import PatchNet, TwoViews, prune, unpack
from kdcourse.training.history import History
from kdcourse.training.learner import Learner

# What is left out, and why: modules, names, or single parameters.
INSIDE = "inside of training, behind the checks of the procedures"
RECORD = "a record of results or settings, which computes nothing"
LEFT_OUT = {
    **dict.fromkeys(("kdcourse.checks", "kdcourse.signatures"), "these are the checks"),
    "kdcourse.errors": "what they raise",
    **dict.fromkeys(
        ("kdcourse.precision", "kdcourse.known_gradient", "chunks"), "arithmetic behind the checks"
    ),
    "kdcourse.grid": "these are checks, too, and arithmetic behind them",
    "kdcourse.training.rules": "these are checks, too",
    "check_pixels": "this is one, too",
    "kdcourse.many_classes": "behind in_chunks and linear_kd_loss",
    "kdcourse.predictions": "the checks and means that losses on predictions share",
    **dict.fromkeys(
        (
            "check_entries",
            "check_numbers",
            "check_token_rows",
            "check_no_end",
            "check_task",
            "check_manner",
        ),
        "these are checks, too",
    ),
    **dict.fromkeys(("judge_of", "answered"), "behind training and metrics"),
    "both_embeddings": "the checks that losses on relations share",
    "both_maps": "the checks that losses on maps share",
    "curriculum_kd_loss.level": "a scalar, which has no parts; its own tests have bad ones",
    "kdcourse.processes": "works between the processes that torchrun starts",
    "kdcourse.batch": "takes batches of anybody's shape apart, for training",
    "kdcourse.files": "behind whatever writes a file",
    "kdcourse.heartbeat": "threads behind the command line, started there with constants",
    "kdcourse.estimate": "puts together what trainings and claims have measured",
    "kdcourse.training.parallel": INSIDE,
    **dict.fromkeys(
        [
            f"kdcourse.training.{name}"
            for name in (
                "best",
                "capture",
                "held",
                "labels",
                "rating",
                "sgd",
                "stream",
                "tally",
                "watch",
            )
        ],
        INSIDE,
    ),
    **dict.fromkeys(
        [
            f"kdcourse.doctor.{name}"
            for name in ("answers", "doctor", "features", "look", "student", "teacher", "terms")
        ],
        "observations and judgements behind fit and watch",
    ),
    "kdcourse.doctor.findings": RECORD,
    **dict.fromkeys(("Watched", "Diagnosis", "known_length"), INSIDE),
    **dict.fromkeys(("own_randomness", "Answers", "intact"), INSIDE),
    "known": "names of teachers from the command line",
    "kdcourse.training.checkpoint": INSIDE,
    "kdcourse.training.history": RECORD,
    "kdcourse.training.device": "torch's own names of devices and dtypes",
    **dict.fromkeys(("training_mode", "kept_modes"), INSIDE),
    **dict.fromkeys(("Mask", "FakeQuantize", "round_input"), "parts of what prune, quantize make"),
    **dict.fromkeys(("Run", "Judged", "Epochs", "Peers", "Peer", "fit_learner", "show"), INSIDE),
    **dict.fromkeys(("first_lesson", "shared_accuracy", "count_right", "in_batches"), INSIDE),
    **dict.fromkeys(
        ("Outputs", "Lesson", "Splits", "Landscape", "Curvature", "Spread", "TopK"), RECORD
    ),
    **dict.fromkeys(
        ("Recipe", "LanguageRecipe", "Definitions", "DefinitionSplits", "Lines", "LineSplits"),
        RECORD,
    ),
    "Read": RECORD,
    "Cache": INSIDE,
    "topk_kd_loss.student_logits": "indices do not tell how many classes there are",
    "wordnet.path": "a file that must hold definitions; its own test has bad ones",
    "read_lines.path": "a file that must hold lines; its own test has bad ones",
    **dict.fromkeys(("cifar10", "cifar100"), "as fashion_mnist, with data that are not here"),
    **dict.fromkeys(("read_set", "parts_of", "parameters_of"), "behind from_torchvision's checks"),
    "takes_knobs": "a decorator",
    "Knobs.validation": "looked at by the procedures, which know what can be measured",
    **dict.fromkeys(
        [
            f"kdcourse.conformance.{name}"
            for name in (
                "calling",
                "convention",
                "explanations",
                "factor",
                "foreign",
                "kinds",
                "trial",
            )
        ],
        "behind check",
    ),
    "ConformanceReport": RECORD,
    "LayerMap": RECORD,
    **dict.fromkeys(("best_in_order", "ends_of_stages"), "behind what a LayerMap proposes"),
    "train_teacher": "runs for minutes; its arguments are those of pretrained",
    **dict.fromkeys(
        [
            *("Accuracy", "Bin", "Calibration", "ClassChange", "Cost", "Exported", "Fidelity"),
            *("Interval", "Latency", "Measurement", "Reliability", "Report", "Robustness"),
        ],
        RECORD,
    ),
    **dict.fromkeys(
        [
            *("accuracy_of", "calibration_of", "class_changes", "compared", "costs_of"),
            *("device_of", "exports_of", "fidelity_of", "middle", "reliability_of"),
            *("robustness_of", "NotMeasuredError"),
        ],
        "behind the checks of metrics.report",
    ),
    "check_answers": "these are checks, too",
    "to_onnx": "needs an extra; its arguments are those of to_torch_export",
}

SAMPLES = 8
# Of prototypes (nested, sparse and quantised tensors) and of trainings of one step.
pytestmark = pytest.mark.filterwarnings("ignore")


class Good:
    """Good values by name or by type of a parameter; of several, the first that matches."""

    def __init__(self, folder: Path):
        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=torch.Generator().manual_seed(0))

        net, other = (models.plain(2, classes=CLASSES, seed=seed) for seed in (1, 2))
        pictures, flip = images(SAMPLES), augmentation.Flip()
        weights = {name: weight.detach() for name, weight in net.named_parameters()}
        logits, target = drawn(SAMPLES, CLASSES), torch.arange(SAMPLES) % CLASSES
        maps, rows = drawn(SAMPLES, 3, 4, 4), drawn(SAMPLES, 5)
        asked = pictures.inputs().requires_grad_()
        tokens = torch.zeros(2, 4, dtype=torch.int64)
        writer = models.language_model(8, 1, 2, 4, length=8, seed=1)
        token_rows = torch.arange(8).view(2, 4) % 2
        self.by_name: dict[str, tuple[Any, ...]] = {
            "student": (net,),
            **dict.fromkeys(
                ("history", "alone"), (History([{"epoch": 1, "validation_accuracy": 0.5}]),)
            ),
            "students": ([net, other],),
            "teacher": (other,),
            "assistants": ([models.plain(2, classes=CLASSES, seed=3)],),
            "members": (net,),
            "make": (lambda seed: models.plain(2, classes=CLASSES, seed=seed),),
            "stem": (nn.Conv2d(1, 2, 3),),
            "stages": ([nn.Identity() for _ in range(3)],),
            "head": (nn.Linear(2, CLASSES),),
            "generator": (further.Generator(4, 2, size=12), torch.Generator()),
            "class_means": (drawn(CLASSES, 5),),
            "class_means.classes": (CLASSES,),
            "variances": (torch.ones(3),),
            "variational_loss.student_means": (maps,),
            "flow_loss.student_features": ([maps, maps],),
            "flow_loss.teacher_features": ([maps, maps],),
            "layer": ("stage2", nn.Linear(5, 2)),
            "layers": (["stage1", "stage2"],),
            "hint": (VariationalHint(4, 6), feature.Hint(4, 6), feature.FeatureHint("stage2")),
            "parts": ([(1.0, logit.LogitKD())],),
            "loss": (logit.kd_loss,),
            "like": ("kd",),
            "place": ("kdcourse.logit:kd_loss",),
            "rehearse.objective": (logit.CrossEntropy(),),
            "train": (rows, pictures),
            "known": (pictures,),
            "asked": (pictures,),
            "samples": (SAMPLES, pictures),
            "inputs": (pictures.inputs(), (rows,), 2),
            "pixels": (pictures.pixels,),
            "images": (pictures, pictures.inputs()),
            "test": (rows,),
            "report.test": (pictures,),
            "report.student": (net,),
            "corruption": ("contrast",),
            "severity": (1,),
            "nets": ({"net": net},),
            "rank_teachers.teachers": ({"large": other},),
            "rank_teachers.judge": (lambda net: 0.0,),
            "costs": ([1.0, 2.0],),
            "qualities": ([1.0, 2.0],),
            "queue": (rows,),
            "mask": (torch.ones(3),),
            "weight": (rows,),
            "student_weight": (rows,),
            "teacher_weight": (rows,),
            "predictions": (logits,),
            "others": (logits,),
            "directions": ([weights, weights],),
            "trajectory": ([weights, weights, weights],),
            "arrays": ({"weight": np.ones((2, 3), np.float32)},),
            "classes": (CLASSES, tuple("abcd")),
            "mean": ((0.5,),),
            "std": ((0.5,),),
            "scale": ((0.3, 1.0),),
            "learning_rate": (0.1, (0.02, 0.1)),
            "steps": (10, [0.5, -0.5], flip),
            "data": (TwoViews(),),
            "milestones": ([1],),
            "name": ("res16",),
            "by_name.name": ("plain2",),
            "dataset": ("FashionMNIST",),
            "depth": (8,),
            "wide_resnet.depth": (10,),
            "count": (2,),
            "k": (2,),
            "rows": (2,),
            "label": (1,),
            "learned_views.model": (PatchNet(),),
            "binary_cross_entropy_loss.target": (logits.sigmoid(),),
            "squared_error_loss.target": (logits,),
            "curriculum_kd_loss.level": (torch.ones(()),),
            "scale_decoupled_loss.student_logits": (maps,),
            "scale_decoupled_loss.teacher_logits": (maps,),
            "channels": ((4, 6),),
            "language_model.width": (8,),
            "sample.model": (writer,),
            "beam_search.model": (writer,),
            "prompts": (tokens[:, :2],),
            "texts": (["ab"], tokens),
            "lessons.texts": (tokens,),
            "read_lines.path": (Path(__file__),),
            "nats_per_token.model": (writer,),
            "nats_per_token.samples": ((tokens, tokens),),
            "nats_by_place.model": (writer,),
            "nats_by_place.samples": ((tokens, tokens),),
            "vocabulary": (Characters("ab:\n"), 4),
            "student_vocabulary": (Characters("ab:\n"),),
            "teacher_vocabulary": (Characters("ab:\n"),),
            "characters": ("ab",),
            "every_other_layer.teacher": (writer,),
            "narrowed.teacher": (writer,),
            "narrowed.width": (8,),
            "batches": ([(tokens, tokens)],),
            "pieces": (["a", "b", "ab"],),
            "spans": (torch.tensor([1, 2]),),
            **dict.fromkeys(
                ("tokens", "one", "other", "student_starts", "teacher_starts", "student_ends"),
                (token_rows,),
            ),
            **dict.fromkeys(("whole_texts.inputs", "whole_texts.target"), (token_rows,)),
            "source": ([],),
            "definitions": (Definitions(("ab",), ("ba",)),),
            **{name: (one,) for name, one in top_k_answers(logits, 2)._asdict().items()},
            "CachedTexts.teacher": (models.language_model(8, 1, 2, 4, length=8, seed=1),),
            "CachedTexts.inputs": (torch.zeros(2, 4, dtype=torch.int64),),
            "CachedTexts.target": (torch.zeros(2, 4, dtype=torch.int64),),
            "scales": ([1, 2],),
            "temperatures": ([1.0, 4.0],),
            "prediction_gradient.inputs": (asked,),
            "prediction_gradient.logits": (net(asked),),
        }
        self.by_ending = {
            "target": target,
            "logits": logits,
            "probabilities": logits.softmax(1),
            "features": maps,
            "gradient": maps,
            "embeddings": rows,
            "vectors": drawn(SAMPLES, 4, 6),
            "hidden": rows,
        }
        self.by_type = (
            *(0.5, 4, "stage2", flip, tips.Consistent(flip), net, logit.LogitKD(), folder / "file"),
            torch.optim.SGD(net.parameters(), 0.1, momentum=0.9),
        )

    def value(self, function: str, parameter: inspect.Parameter) -> Any:
        """Return a good value, or fail."""
        name = parameter.name
        given = self.by_name.get(f"{function}.{name}", self.by_name.get(name, ()))
        ending = self.by_ending.get(name.rpartition("_")[2])
        for value in (*given, ending, *self.by_type):
            if value is not None and matches(value, parameter.annotation):
                return value
        raise LookupError(f"no good value for {function}({parameter})")


# What good calls are given besides what they have to be told: most of it makes them fast.
ALSO = {
    **{"epochs": 1, "batch_size": 4, "device": "cpu", "progress": False, "generations": 2},
    **{"hint_epochs": 1, "points": 3, "samples": SAMPLES, "validation": None},
    **dict.fromkeys(("WarmUp.epochs", "rank_teachers.epochs")),
    "attention_relation_loss.heads": 2,
    "WarmUp.steps": 3,
    "OneView.view": 1,
    "landscape.loss": nn.functional.cross_entropy,
    "from_torchvision.validation": 5,
    "ContextLessons.contexts": ["a"],
    "report.without": ["calibration", "classes", "cost", "robustness", "export"],
    **{"rounds": 1, "resamples": 10},
}

# Bad values, by the kind of the parameter: of another type,
LISTS = (None, "ab", 3, True, [None], [3], {"a": 1})
PAIRS = (*LISTS, (0.5,), (0.1, 0.2, 0.3), (None, 0.5), (float("nan"), 0.5), (0.5, "1"))
WRONG: dict[Any, tuple[Any, ...]] = {
    float: (None, "3", float("nan"), float("inf"), True, 1j, torch.ones(2), [1.0], np.ones(2)),
    int: (None, "3", 1.5, float("nan"), True, 1j, torch.ones(2), [1]),
    bool: (None, 0, 1, "no", 1.0, torch.tensor([True, False])),
    str: (None, 3, 1.5, True, ["a"], b"stage2"),
    Path: (None, 3, 1.5, True, ["a"]),
    Tensor: (None, "logits", 3.0, [[1.0, 2.0]], np.ones((8, 4), np.float32), nn.ReLU()),
    nn.Module: (
        *(None, "res8", 3, models.plain, nn.Linear, [nn.ReLU()]),
        *(torch.ones(2), {"weight": torch.ones(2)}),
    ),
    Callable: (None, "f", 3, [abs]),
    Images: (None, "FashionMNIST", 3, [1, 2], Images, np.ones(3)),
    torch.dtype: (None, "float16", 3, [torch.float16]),
    torch.device: (None, 1.5, [1]),
}
# or of the right one, out of range.
ANY_INTEGER = {"seed", "label", "epoch", "rank", "channel_dim", "ignore_index"}
FROM_ZERO = {"padding", "decimals", "severity", "validation", "held_out", "end", "view"}
FROM_ZERO |= ANY_INTEGER
FROM_THE_END = {"class_dim"}  # -1 is the last
ABOVE_ZERO = {"variance", "temperature", "lowest", "power", "extent", "tolerance", "bend", "clip"}
SHARES = {"probability", "accuracy", "correlation", "sparsity", "share", "leaks", "most"}
SHARES |= {"momentum", "smoothing", "dropout", "correct"}
ANY_NUMBER = {"balance", "activation", "level"}
CHOICES = {"divergence", "shortcut", "nonlinearity", "combine", "updates", "interrupt"}
CHOICES |= {
    "kernel",
    "initialization",
    "by_name.name",
    "pretrained.name",
    "card.name",
    "NarrowNet.start",
}


def kinds(expected: Any) -> Iterator[Any]:
    """Yield the types of which a value may be."""
    if get_origin(expected) in (Union, UnionType):
        for part in get_args(expected):
            yield from kinds(part)
    elif expected is not type(None):
        yield expected


def wrong(expected: Any) -> tuple[Any, ...]:
    """Values of another type than one that is annotated."""
    kind, parts = get_origin(expected) or expected, get_args(expected)
    if kind is Any:
        return ()
    if kind in WRONG:
        return WRONG[kind]
    if kind is tuple and parts[-1] is not ...:
        return PAIRS
    if issubclass(kind, nn.Module):
        return (*WRONG[nn.Module], nn.ReLU())
    return LISTS if parts else (None, "text", 3, kind)


def out_of_range(case: str, name: str, kind: Any, values: Mapping[str, Any]) -> Iterable[Any]:
    """Values of a type, but of no use in a call that is good with other values."""
    what = name.rpartition("_")[2]
    if kind is int:
        return [-1] * (name not in ANY_INTEGER | FROM_THE_END) + [0] * (name not in FROM_ZERO)
    if kind is float:
        low = [-1.0] * (name not in ANY_NUMBER) + [0.0] * (what in ABOVE_ZERO)
        return low + [1.5] * (what in SHARES)
    if kind is str:
        return ["nonsense", ""] if {what, f"{case}.{name}"} & CHOICES else []
    if kind is Tensor and isinstance(values.get(name), Tensor):
        return tensors(case, name, values)
    listed = get_origin(kind) is Sequence and name in NOT_EMPTY and case not in NO_LAYERS
    return [[]] if listed else []


NO_LAYERS = {"capture", "watch"}  # which may be told of none
NOT_EMPTY = {
    "layers",
    "student_features",
    "teacher_features",
    "stages",
    "students",
    "directions",
    "trajectory",
    "scales",
    "temperatures",
}
# Tensors that may be of any shape and dtype, or in which some of it is free.
ANY_TENSOR = {"prompts", "inputs", "samples", "images", "landscape.target", "curvature.target"}
ANY_TENSOR |= {"in_chunks.others", "binary_cross_entropy_loss.target", "squared_error_loss.target"}
ANY_LENGTH = {"logits", "features", "embeddings", "predictions", "queue", "pixels", "train", "test"}
ANY_LENGTH |= {"probabilities", "vectors", "class_means", "tokens", "spans"}
ANY_CLASSES = {"universal_logit_loss", "chunk_likelihood_loss"}
ANY_PLACES = {"softmax.logits", "standardize.logits"}
ANY_PLACES |= {"top_k_answers.logits", "sampled_answers.logits"}
MAY_BE_EMPTY = {"pixels", "queue", "tokens"}


def tensors(case: str, name: str, values: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield tensors that are unlike a good one, each in one respect."""
    good, what = values[name], name.rpartition("_")[2]
    others = [other for other in values if other != name]
    yield torch.nested.nested_tensor([good.detach()[0], good.detach()[0]])
    if good.dim() == 2:
        yield good.to_sparse()
    if any(isinstance(values[other], Tensor | nn.Module | torch.Generator) for other in others):
        yield good.to("meta")
    if {name, f"{case}.{name}"} & ANY_TENSOR:
        return
    yield good.new_zeros(())
    yield good.bool()
    yield good.to(torch.complex64)
    if name not in MAY_BE_EMPTY:
        yield good[:0]
    if name not in ANY_LENGTH:
        yield torch.cat([good, good[:1]])
    if not good.is_floating_point():
        yield good[..., None]
        yield good.float()
        if what == "target" and {"logits", "predictions", "classes"} & {
            other.rpartition("_")[2] for other in others
        }:
            yield good + CLASSES
            yield good - (2 if case == "Images" else 1)  # of which -1 stands for no label
        return
    yield good.long()
    if good.dim() > 1:
        yield good.flatten()
        yield good[:, :0]
    yield good.to(torch.float8_e4m3fn)
    yield torch.quantize_per_tensor(good.detach(), 0.1, 0, torch.quint8)
    if good.dim() == 2 and f"{case}.{name}" not in ANY_PLACES:
        yield good[..., None]
    if what in {"logits", "probabilities", "predictions"}:
        yield good[:, :1]
        if name not in ANY_LENGTH and case not in ANY_CLASSES:
            yield torch.cat([good, good[:, :1]], 1)


def parameters(function: Callable) -> list[inspect.Parameter]:
    signature = inspect.signature(function, eval_str=True).parameters.values()
    return [p for p in signature if p.kind is not p.VAR_KEYWORD]


def cases() -> dict[str, Callable]:
    """What is public, by its name; with (), what such an object does when called."""
    found = {}
    for name, module in kdcourse.public_names().items():
        thing = getattr(importlib.import_module(module), name)
        if name in LEFT_OUT or module in LEFT_OUT:
            continue
        if isinstance(thing, type) and issubclass(thing, BaseException):
            continue
        if parameters(thing):
            found[name] = thing
        mro = thing.__mro__ if isinstance(thing, type) else ()
        called = next((vars(kind)["__call__"] for kind in mro if "__call__" in vars(kind)), None)
        if getattr(called, "__module__", None) == module:
            found[f"{name}()"] = thing
    return found


def call(function: Callable, values: Mapping[str, Any]) -> Any:
    """Call a function with values by name, and begin what begins later."""
    starred = [p.name for p in parameters(function) if p.kind is p.VAR_POSITIONAL]
    before = []
    if starred:
        names = [p.name for p in parameters(function)]
        before = [values[name] for name in names[: names.index(starred[0]) + 1]]
        values = {name: value for name, value in values.items() if name not in names[: len(before)]}
    result = function(*before, **values)
    if isinstance(result, contextlib.AbstractContextManager):
        with result:
            pass
    return result


class TrainedError(Exception):
    """An epoch has begun."""


def outcome(function: Callable, values: Mapping[str, Any], name: str) -> str:
    """Say what comes of a call with a bad value for one parameter."""
    try:
        call(function, values)
    except TrainedError:
        return "trained first"
    except Exception as error:
        words = f": {type(error).__name__}: {error}"
        if not isinstance(error, ValueError | TypeError):
            return "another error" + words
        if not isinstance(error, ExplainedError):
            return "somebody else's words" + words
        named = re.search(rf"(?<!\w){name}(?!\w)", str(error))
        return REFUSED if named else "without a name" + words
    return "accepted"


def shown(value: object) -> str:
    if isinstance(value, Tensor):
        kind = "nested" if value.is_nested else f"{value.layout} {tuple(value.shape)}"
        return f"{value.dtype} {kind} on {value.device}"
    return repr(value)[:60]


REFUSED = "refused by name"
CASES = cases()
COUNTS: Counter[str] = Counter()


def bad_calls(case: str, folder: Path) -> tuple[Callable, dict[str, Any], list[tuple[str, Any]]]:
    """Return what is called, the values of a good call, and bad values by their parameters."""
    good, function = Good(folder), CASES[case]
    if case.endswith("()"):
        needed = [p for p in parameters(function) if p.default is p.empty]
        function = function(*(good.value(case, parameter) for parameter in needed))
    values, bad = {}, []
    for parameter in parameters(function):
        name, expected = parameter.name, parameter.annotation
        also = ALSO.get(f"{case}.{name}", ALSO.get(name))
        if also is not None and matches(also, expected):
            values[name] = also
        elif parameter.default is parameter.empty:
            values[name] = good.value(case, parameter)
    for parameter in parameters(function):
        name, expected = parameter.name, parameter.annotation
        for kind in kinds(expected) if f"{case}.{name}" not in LEFT_OUT else ():
            bad += [(name, value) for value in wrong(kind) if not matches(value, expected)]
            bad += [(name, value) for value in out_of_range(case, name, kind, values)]
    return function, values, bad


@pytest.mark.parametrize("case", CASES)
def test_every_bad_call_is_refused_by_name(case, tmp_path, monkeypatch):
    function, values, bad = bad_calls(case, tmp_path)
    monkeypatch.chdir(tmp_path)
    call(function, values)

    def train(*_):
        raise TrainedError

    monkeypatch.setattr(Learner, "epoch", train)
    files, failures = set(tmp_path.rglob("*")), []
    for name, value in bad:
        found = outcome(function, {**values, name: value}, name)
        COUNTS[found.partition(":")[0]] += 1
        if found != REFUSED:
            failures.append(f"{case}({name}={shown(value)}): {found}")
    assert not failures, "\n" + "\n".join(failures)
    assert set(tmp_path.rglob("*")) == files


def test_there_are_a_thousand_bad_calls(tmp_path):
    made = sum(len(bad_calls(case, tmp_path)[2]) for case in CASES)
    found = ", ".join(f"{count} {what}" for what, count in COUNTS.most_common())
    told = f"{made} bad calls of {len(CASES)} functions and classes; of those made here: {found}"
    print(f"\n{told}")
    assert made >= 1000, told


RETURN_TENSORS = [
    case
    for case, function in CASES.items()
    if inspect.signature(function).return_annotation is Tensor
    and case != "prediction_gradient"  # whose logits were made of its inputs
]


@pytest.mark.parametrize("case", RETURN_TENSORS)
def test_nan_is_never_hidden(case, tmp_path):
    function, values, _ = bad_calls(case, tmp_path)
    for name, value in values.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim():
            broken = value.detach().clone()
            broken[0] = torch.where(broken[0] == broken[0].amax(), torch.nan, broken[0])
            with contextlib.suppress(ExplainedError):  # where NaN is refused
                result = call(function, {**values, name: broken})
                assert not result.isfinite().all(), name


LOGITS = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (lambda: prune(nn.Linear, 0.5), "model must be a torch.nn.Module, got Linear: call the"),
        (lambda: prune("res16", 0.5), "model must be a torch.nn.Module, got str 'res16'"),
        (
            lambda: prune(nn.ReLU().state_dict, 0.5),
            "got method: call it in the forward of",
        ),
        (lambda: prune({"weight": LOGITS}, 0.5), r"got dict: load it into a model \(model.load_st"),
        (lambda: by_name("res8", seed=1.5), "seed must be an integer or None, got float 1.5"),
        (lambda: by_name("res8", seed=True), "seed must be an integer or None, got bool True"),
        (lambda: Compose(Flip(), None), "steps must be a callable, got NoneType"),
        (
            lambda: ResizedCrop(0.5),
            r"scale must be a pair \(a finite real number, a finite",
        ),
        (
            lambda: capture(nn.ReLU(), "relu").__enter__(),
            "layers must be a list, each item a string, got str 'r",
        ),
        (
            lambda: Objective([LOGITS]),
            r"parts must be a list, each item a pair \(.* number, a Term",
        ),
        (
            lambda: unpack({"a": 1}),
            "arrays must be a dictionary of a ndarray by a string, got dict",
        ),
        (lambda: softmax(LOGITS.to_sparse()), r"of shape \(3, 2\) and layout torch.sparse_coo"),
        (
            lambda: softmax(LOGITS.half().to(torch.float8_e5m2)),
            "floating point of at least 16 bits",
        ),
    ],
)
def test_what_was_expected_is_told_and_what_came(bad, told):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=told):
        bad()
