"""What options say is read, never run; whatever cannot be read is refused with its place."""

import inspect
import re
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toys import net, terms

import kdcourse
from kdcourse.objective import Objective
from kdcourse.train.language import Reader, words
from kdcourse.train.options import OptionError, Options, blaming
from kdcourse.train.parser import described
from kdcourse.train.plan import prepare


def read(text, given=None, *kinds):
    return Reader(text, given or {}, *kinds).made


def names(kind):
    return [name for name, (made, _) in words().items() if made == kind]


def weights(text):
    return [(weight, type(term).__name__) for weight, term in read(text).parts()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CrossEntropy()", [(1, "CrossEntropy")]),
        ("CrossEntropy() + 4 * LogitKD(4)", [(1, "CrossEntropy"), (4, "LogitKD")]),
        ("LogitKD()*2 + 1e-3 * CrossEntropy()", [(2, "LogitKD"), (1e-3, "CrossEntropy")]),
        ("2*(CrossEntropy() + 3*LogitKD())", [(2, "CrossEntropy"), (6, "LogitKD")]),
        ("25*63/64*RKDDistance()", [(25 * 63 / 64, "RKDDistance")]),
        ("-1*-2*LogitKD()", [(2, "LogitKD")]),
        ("  CrossEntropy()\n  + LogitKD()", [(1, "CrossEntropy"), (1, "LogitKD")]),
    ],
)
def test_an_objective_is_what_python_makes_of_it(text, expected):
    assert weights(text) == [(pytest.approx(weight), name) for weight, name in expected]
    names = {name: getattr(kdcourse, name) for name in ("CrossEntropy", "LogitKD", "RKDDistance")}
    assert repr(read(text)) == repr(eval(" ".join(text.split()), names))


def test_arguments_are_literals_and_calls():
    term = read('LogitKD(2, divergence="reverse", scale=False, rows=None)')
    assert (term.temperature, term.divergence, term.scale, term.rows) == (2, "reverse", False, None)
    layers = read("AttentionTransfer(['stage1', ('stage2', 'layer2')], power=-1/-2)")
    assert layers.student_layers == ("stage1", "stage2")
    assert layers.teacher_layers == ("stage1", "layer2")
    assert layers.power == 0.5
    assert repr(read("crop_flip((0.2, 1))")) == repr(kdcourse.augmentation.crop_flip((0.2, 1)))


def test_what_the_command_knows_need_not_be_said():
    known = {"student": net(), "channels": 1, "classes": 7, "steps": 10, "epochs": 5, "seed": 3}
    reader = Reader("Ensemble(by_name('plain2'), resnet(8), MomentumTeacher(student))", known)
    small, large = reader.nets
    assert [member.model for member in reader.made.members][:2] == [small, large]
    assert (small.classes, large.classes) == (7, 7)
    assert large.stem[0].in_channels == 1
    assert read("cosine_momentum(0.5)", known)(10) == 1
    assert read("at_epochs([1, 2])", known)
    assert read("WarmUp(LogitKD(), steps=4)", known).steps == 4
    assert read("WarmUp(LogitKD(), epochs=4)", known).steps is None
    assert read("constant", known) is kdcourse.training.constant


HOSTILE = [
    "__import__('os').system('touch x')",
    "__import__('os')",
    "eval('1')",
    "pretrained('../../x')",
    "card('res16')",
    "pack(plain(2), 'x')",
    "save('x', {})",
    "write('x', 'y')",
    "whole('x')",
    "from_torchvision('CIFAR10', download=True)",
    "train_teacher('res16', 'x')",
    "fit(plain(2), [])",
    "correct(plain(2), [], checkpoint='x')",
    "self_distill(plain(2), [], augment=Flip())",
    "CachedLessons(plain(2), [], views=Flip(), path='x')",
    "open('x', 'w')",
    "exit()",
    "print(1)",
    "LogitKD().__class__",
    "LogitKD().loss",
    "(lambda: 1)()",
    "[x for x in [1]]",
    "{1: 2}",
    "LogitKD(*[1])",
    "LogitKD(**{})",
    "LogitKD(**seed)",
    "LogitKD()()",
    "kdcourse.LogitKD()",
    "-(-'a')",
    "+1",
    "~1",
    "'a' % 1",
    "'a' + 'b'",
    "'a' 'b' * 3",
    "LogitKD() @ LogitKD()",
    "[*[1]]",
    "await_()",
    "LogitKD(1j)",
    "f'{LogitKD()}'",
    "LogitKD() if 1 else 2",
    "(y := 3)",
    "9**9**9",
    "'a' * 999999999",
    "[0] * 999999999",
    "1 << 999999999",
    "LogitKD()[0]",
    "not 1",
    "b'x'",
    "...",
    "Teacher()",
    "Term()",
    "Objective([])",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_refused_with_their_place(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"at character \d+: "):
        read(text)
    with pytest.raises(ValueError, match=r"at character \d+: "):
        read(f"CrossEntropy() + LogitKD({text})")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("   ", "cannot be read"),
        ("LogitKD() +", "cannot be read"),
        ("LogitKD() LogitKD()", "near character"),
        (
            "CrossEntropy() - LogitKD()",
            "'CrossEntropy() - LogitKD()' at character 1: understood are calls of public names",
        ),
        ("  3 - LogitKD()", "'3 - LogitKD()' at character 3: understood are"),
        ("é\n - LogitKD()", "'é - LogitKD()' at character 1: understood are"),
        ("CrossEntropy() + -LogitKD()", "'-LogitKD()' at character 18: understood are"),
        ("LogitKD() * LogitKD()", "unsupported operand"),
        ("CrossEntropy() + 3", "unsupported operand"),
        ("LogitKD(1/0)", "'1/0' at character 9: division by zero"),
        ("CrossEntropy() + é()", "'é' at character 18: there is no such name"),
        ("é() + LogitKDD()", "'é' at character 1: there is no such name"),
        ("LogitKDD()", "did you mean LogitKD?"),
        ("LogitKD", "'LogitKD' at character 1: write LogitKD()"),
        (
            "ce + 0.9*kd(temperature=4)",
            "'ce' at character 1: there is no such name; understood are calls of public names, "
            "literals, sums and products, such as CrossEntropy() + 4 * LogitKD(temperature=4)",
        ),
        ("pad-crop-flip", "--help lists the names; did you mean pad_crop_flip?"),
        ("pad-crop-flip(4)", "did you mean pad_crop_flip?"),
        ("function-matching", "did you mean FunctionMatching?"),
        ("LogitKD(temprature=1)", "'temprature'; did you mean temperature?"),
        ("LogitKD(1, temperature=2)", "multiple values for argument 'temperature'"),
        ("LogitKD(temperature=1, temperature=2)", "at character 1: an argument stands there twice"),
        ("DecoupledKD(1, 2, 3, 4)", "takes from 1 to 4 positional arguments but 5 were given"),
        ("AttentionTransfer()", "missing 1 required positional argument: 'layers'"),
        ("AttentionTransfer('s1')", "layers must be a list"),
        ("CrossEntropy() + LogitKD(0)", "'LogitKD(0)' at character 18: temperature must"),
        ("LogitKD(True)", "temperature must be a real number, got bool"),
        ("1e999*CrossEntropy()", "the factor of a term must be finite"),
        ("LogitKD(" * 500 + ")" * 500, "nested too deeply|cannot be read|at character"),
        ("CrossEntropy()" + "+CrossEntropy()" * 20000, "nested too deeply"),
        ("9" * 5000 + "*CrossEntropy()", "cannot be read"),
        ("9" * 4000 + "*CrossEntropy()", "too large to convert"),
        ("CrossEntropy()\0", "cannot be read|null bytes"),
        ("\ud800", "surrogates"),
    ],
    ids=lambda value: value[:30].encode("ascii", "replace").decode(),
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match="|".join(map(re.escape, message.split("|")))) as refused:
        read(text)
    assert len(str(refused.value)) < 400 + len(text)


def test_the_question_of_newer_pythons_is_not_asked_twice(monkeypatch):
    """From 3.13 on, Python itself asks whether another argument was meant."""

    def newer(temperature=1.0, **others):
        raise TypeError(
            "newer() got an unexpected argument 'temprature'. Did you mean 'temperature'?"
        )

    newer.__signature__ = inspect.Signature([inspect.signature(newer).parameters["temperature"]])
    monkeypatch.setitem(words(), "LogitKD", ("terms", newer))
    with pytest.raises(ValueError, match="unexpected argument 'temprature'; did you") as refused:
        read("LogitKD(temprature=1)")
    assert str(refused.value).lower().count("did you mean") == 1


PIECES = ["CrossEntropy()", "LogitKD(", "temperature", "0.9", "é", " ", "\n", *"10.-+*/()[],='\""]
LIKELY = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


@given(st.text(max_size=60) | LIKELY)
@example("CrossEntropy() + LogitKD(temperature=4)")
@example("LogitKD(temperature=1e999)")
@example("0*CrossEntropy()")
def test_any_text_is_read_or_an_error_that_names_the_option(text):
    try:
        with blaming("loss"):
            found = read(text)
    except OptionError as error:
        assert str(error).startswith("--loss: ")  # noqa: PT017 (either outcome is right)
    else:
        assert isinstance(found, Objective | int | float | str | list | tuple | bool | None)


WORDS = st.sampled_from([f"{kind.__name__}" for kind in terms()])
VALUES = st.sampled_from(["4", "-1", "0.5", "True", "'stage1'", "['stage1']", "None", "LogitKD()"])
CALLS = st.builds("{}({})".format, WORDS, st.lists(VALUES, max_size=3).map(", ".join))
SUMS = st.lists(CALLS, min_size=1, max_size=3).map(" + 2*".join)


@given(SUMS)
def test_any_sum_of_terms_makes_a_plan_or_an_error_that_names_the_option(loss):
    try:
        plan = prepare(Options(student="plain1", teacher="res16", loss=loss, device="cpu"))
    except OptionError as error:
        assert str(error).startswith(("--loss: ", "--teacher: "))  # noqa: PT017
    else:
        assert len(plan.objective.parts()) == loss.count(" + 2*") + 1


def test_every_term_can_be_said():
    assert names("terms") == [term.__name__ for term in terms()]
    assert {"Ensemble", "ClosedTeacher", "MomentumTeacher"} <= set(names("teachers"))
    assert {"pretrained", "by_name", "plain", "wide_resnet", "Hint"} <= set(names("nets"))
    assert names("momenta") == ["cosine_momentum", "mean_teacher_momentum"]
    assert {"FixedTeacher", "Independent", "Consistent", "FunctionMatching"} <= set(names("views"))
    assert {"Compose", "crop_flip", "pad_crop_flip"} <= set(names("augmentations"))
    assert names("schedules") == ["at_epochs", "constant", "cosine", "one_cycle"]
    lines = described().splitlines()
    for name, (kind, _) in words().items():
        (place,) = [
            i for i, line in enumerate(lines) if line.startswith((f"  {name}(", f"  {name}\n"))
        ] or [lines.index(f"  {name}")]
        assert [line for line in lines[:place] if line.endswith(":")][-1] == f"{kind}:"


def test_what_can_be_said_makes_something_and_does_nothing_else():
    """Nothing that can be said takes a file to write to, or a set to train on."""
    for name, (_, maker) in words().items():
        parameters = inspect.signature(maker).parameters.keys()
        assert not {"checkpoint", "path", "train"} & parameters, name
    harmful = {"fit", "correct", "self_distill", "mutual_learning", "CachedLessons", "save"}
    harmful |= {"from_torchvision", "train_teacher", "whole", "write"}
    assert not harmful & words().keys()


NEW = '''
"""A term in a new file."""

from torch import Tensor

from kdcourse.objective import Lesson, Term


class Nothing(Term):
    """Nothing times a factor."""

    needs_teacher = False

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor

    def loss(self, lesson: Lesson) -> Tensor:
        """Return nothing."""
        return 0 * self.factor * lesson.student_logits.sum()
'''


def test_a_term_in_a_new_file_can_be_said(tmp_path, monkeypatch):
    (tmp_path / "nothing.py").write_text(NEW)
    monkeypatch.setattr(kdcourse, "__path__", [*kdcourse.__path__, str(tmp_path)])
    words.cache_clear()
    try:
        plan = prepare(
            Options(student="plain1", loss="CrossEntropy() + 2 * Nothing(factor=3)", device="cpu")
        )
        assert plan.objective.terms[1].factor == 3
        assert "Nothing(factor=1.0)" in described()
    finally:
        words.cache_clear()
        sys.modules.pop("kdcourse.nothing", None)
        vars(kdcourse).pop("nothing", None)


SOME = {
    "student": "plain1",
    "teacher": "res16",
    "loss": "LogitKD()",
    "augment": "Flip()",
    "views": "Consistent(Flip())",
    "schedule": "constant",
}
LITERALS = ["4", "-1", "0.5", "'stage1'", "None", "[]", "student", *SOME.values()]


@st.composite
def calls(draw, depth=1):
    """A call of any name that may be said, with any arguments."""
    arguments = st.sampled_from(LITERALS) | (calls(depth - 1) if depth else st.nothing())
    name = draw(st.sampled_from(list(words())))
    return f"{name}({', '.join(draw(st.lists(arguments, max_size=2)))})"


@given(st.sampled_from(list(SOME)), calls())
@settings(max_examples=60)
def test_any_call_in_any_option_makes_a_plan_or_an_error_that_names_an_option(option, text):
    chosen = {**SOME, option: text}
    chosen["augment" if option != "augment" else "views"] = "none"
    try:
        prepare(Options(**chosen, device="cpu"))
    except OptionError as error:
        assert re.match("--[a-z-]+: ", str(error))  # noqa: PT017
