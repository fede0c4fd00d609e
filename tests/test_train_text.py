"""``python -m kdcourse train`` on texts: whose they are, what is measured, and what is refused."""

import inspect
import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_train_command import rows, stopping, timeless, weights
from toys import same
from toys import weights as weights_of

from kdcourse import CrossEntropy, models
from kdcourse.__main__ import main
from kdcourse.errors import ArgumentError
from kdcourse.files import FileError
from kdcourse.language import Characters, Lines, Nats, Written, nats_per_token, read_lines, wordnet
from kdcourse.language.writing import check_manner
from kdcourse.places import COURSE
from kdcourse.prediction_term import judge_of
from kdcourse.train import plan, texts
from kdcourse.train.options import Options
from kdcourse.train.parser import EXAMPLES
from kdcourse.train.recipes import methods

SMALL = ["--batch-size", "8", "--device", "cpu", "--optimizer", "adamw", "--learning-rate", "0.01"]
KD = ["--loss", "CrossEntropy() + 0.5 * LogitKD(1)"]
ANIMALS = ("cat", "dog", "hen")
LINES = [f"{a} {b} {c}" for a in ("a", "the") for b in ANIMALS for c in ("ran", "sat")]


@pytest.fixture
def mine(tmp_path):
    """A file of twelve lines, some of them twice."""
    path = tmp_path / "mine.txt"
    path.write_text("\n".join([*LINES, "", *LINES[:3], " "]))
    return path


def train(path, folder, *arguments, student="lm-1x8", epochs=2):
    given = ["--data", str(path), "--student", student, "--epochs", str(epochs), *SMALL]
    return main(["train", *given, *arguments, "--out", str(folder)])


@pytest.fixture
def taught(mine, tmp_path):
    """Arguments that name a teacher which has learned these lines a little."""
    assert train(mine, tmp_path / "teacher", student="lm-2x8") == 0
    return ["--teacher", "lm-2x8", "--teacher-weights", _student(tmp_path / "teacher")]


def _student(folder):
    return str(folder / "student.safetensors")


def result(folder):
    return json.loads((folder / "result.json").read_text())


# --- data and measures


def test_lines_are_shared_out_and_equal_ones_count_once(mine):
    splits = read_lines(mine)
    assert [len(part) for part in splits] == [8, 2, 2]
    assert sorted(line for part in splits for line in part.lines) == sorted(LINES)
    assert read_lines(mine) == splits != read_lines(mine, seed=1)
    inputs, target = splits.test.lessons(vocabulary := Characters.of(splits.train.texts))
    assert vocabulary.decode(inputs)[0].rstrip("\n") == "\n" + splits.test.lines[0]
    assert vocabulary.decode(target)[0] == splits.test.lines[0] + "\n"


def test_lines_are_those_of_an_editor(tmp_path):
    held = "\ufeffab\u2028c\r\nde\x0cf\r\n\x0c\nab\u2028c\ng\n"
    (tmp_path / "mine.txt").write_bytes(held.encode())
    lines = [line for part in read_lines(tmp_path / "mine.txt") for line in part.lines]
    assert sorted(lines) == ["ab\u2028c", "de\x0cf", "g"]


def test_what_are_no_lines_is_refused():
    with pytest.raises(TypeError, match="lines must be a list"):
        Lines("abc")
    with pytest.raises(ArgumentError, match=r"lines must hold no end of a line, got 'a.nb'"):
        Lines(("a\nb",))


def test_what_is_no_file_of_lines_is_named(tmp_path):
    with pytest.raises(FileError, match="nothing"):
        read_lines(tmp_path / "nothing.txt")
    (tmp_path / "two.txt").write_text("a\nb\na\n")
    with pytest.raises(ArgumentError, match="at least three different lines, got 2"):
        read_lines(tmp_path / "two.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="lines of text"):
        read_lines(tmp_path / "bytes.txt")


def test_nats_by_their_definition():
    some = Lines(("ab", "b"))
    vocabulary = Characters.of(some.texts)
    model = models.language_model(8, 1, 2, len(vocabulary), seed=1).double()
    inputs, target = some.lessons(vocabulary)
    log_p = model(inputs).log_softmax(-1).detach()
    each = [
        -float(log_p[n, place, token])
        for n, row in enumerate(target.tolist())
        for place, token in enumerate(row)
        if token >= 0
    ]
    assert len(each) == 5  # characters and ends
    expected = pytest.approx(math.fsum(each) / 5, rel=1e-6)
    assert nats_per_token(model, (inputs, target)) == expected
    measure = Nats()
    for row, goal in zip(inputs, target, strict=True):  # in any batches
        measure.update(model(row[None]).movedim(-1, 1).detach(), goal[None])
    assert measure.compute() == expected
    measure.reset()
    with pytest.raises(ArgumentError, match="a token somewhere"):
        measure.compute()
    with pytest.raises(ArgumentError, match=r"shape \(N, V, T\)"):
        measure.update(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


def test_language_models_by_name():
    model = models.by_name("lm-2x8", classes=5, seed=1)
    assert (model.stages, model.length) == (2, 80)
    assert model(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 5)
    other = models.language_model(8, 2, 4, 5, seed=1)
    assert same(weights_of(model), weights_of(other))


# --- what is written


def test_what_is_written(mine, tmp_path, capsys):
    assert train(mine, tmp_path / "run") == 0
    shown = capsys.readouterr().out.splitlines()
    found = result(tmp_path / "run")
    assert shown[:-1] == [f"the student writes: {text}" for text in found["written"]]
    assert shown[-1] == (
        f"{found['test_nats']:.4f} nats a character in the test, in {tmp_path / 'run'}"
    )
    assert all("validation_nats" in row for row in rows(tmp_path / "run"))
    vocabulary = Characters(found["vocabulary"])
    with safe_open(_student(tmp_path / "run"), "pt") as file:
        assert file.metadata() == {"vocabulary": vocabulary.characters}
    student = models.by_name("lm-1x8", classes=len(vocabulary))
    student.load_state_dict(load_file(_student(tmp_path / "run")))
    nats = nats_per_token(student, read_lines(mine).test.lessons(vocabulary))
    assert found["test_nats"] == pytest.approx(nats, abs=1e-6)
    assert train(mine, tmp_path / "run") == 0  # finished, and told again
    assert capsys.readouterr().out.splitlines() == shown


def test_the_courses_definitions(tmp_path, capsys):
    more = ["--images", "16", "--validation", "8", "--keep", "best"]
    assert train("definitions", tmp_path / "run", *more, epochs=1) == 0
    words = {line.split(": ")[1].split(":")[0] for line in capsys.readouterr().out.splitlines()[:5]}
    assert words <= set(wordnet().test.words)
    assert len(words) == 5
    assert len(result(tmp_path / "run")["vocabulary"]) == 83


def test_without_validation(mine, tmp_path):
    assert train(mine, tmp_path / "run", "--validation", "0", epochs=1) == 0
    assert not [name for name in rows(tmp_path / "run")[0] if "validation" in name]


# --- whose texts

SOURCES = {
    "data": KD,
    "the teacher's": ["--texts", "Written(greedy=True)"],
    "the student's": ["--texts", "OnPolicy(share=0.5)", "--loss", "LogitKD(1)"],
    "both's": ["--texts", "OnPolicy(share=0.5, teacher=teacher)", "--loss", "LogitKD(1)"],
}


@pytest.mark.parametrize("given", SOURCES.values(), ids=SOURCES)
def test_a_run_that_was_stopped_ends_as_a_whole_one(given, mine, taught, tmp_path, monkeypatch):
    given = [*taught, *given]
    assert train(mine, tmp_path / "whole", *given, epochs=3) == 0
    with stopping(monkeypatch):
        train(mine, tmp_path / "stopped", *given, epochs=3)
    assert train(mine, tmp_path / "stopped", *given, epochs=3) == 0
    assert timeless(tmp_path / "stopped") == timeless(tmp_path / "whole")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_sources_are_given_what_the_command_knows(mine, taught):
    options = Options(
        student="lm-1x8", data=str(mine), teacher="lm-2x8", teacher_weights=(taught[-1],)
    )
    made = replace(options, texts="Written(temperature=0.7)", batch_size=4, seed=3, device="cpu")
    prepared = plan.prepare(made)
    lessons = prepared.lessons(prepared.images)
    source = lessons["train"]
    assert isinstance(source, Written)
    assert source.model is prepared.teacher
    assert lessons["teacher"] is None  # labels are all that is learned, and it writes them
    assert (source.length, source.batch_size, source.seed) == (prepared.images.length, 4, 3)
    assert source.how == {"temperature": 0.7}
    assert source.all is None  # nothing is written before the first batch


def test_terms_know_where_classes_and_channels_are(mine, taught):
    options = Options(
        student="lm-1x8",
        data=str(mine),
        teacher="lm-2x8",
        teacher_weights=(taught[-1],),
        loss="CrossEntropy() + LogitKD(1) + AttentionTransfer(['stage1'])",
        device="cpu",
    )
    objective = plan.prepare(options).objective
    assert judge_of(objective).class_dim == -1
    assert (objective.terms[1].class_dim, objective.terms[1].ignore_index) == (-1, -1)
    assert judge_of(CrossEntropy()).class_dim == 1


def test_a_student_takes_over_its_teachers_vocabulary(taught, tmp_path, capsys):
    fewer = tmp_path / "fewer.txt"
    fewer.write_text("a cat\na hen\ntea\nten\n")
    assert train(fewer, tmp_path / "run", *taught, *KD, epochs=1) == 0
    assert result(tmp_path / "run")["vocabulary"] == result(tmp_path / "teacher")["vocabulary"]
    fewer.write_text("a cat\na hen\ntea\nzoo\n")
    assert train(fewer, tmp_path / "other", *taught, *KD, epochs=1) == 1
    shown = capsys.readouterr().err
    assert "--data: " in shown
    assert "characters that are not in the teacher's vocabulary: 'z'" in shown


@pytest.mark.parametrize("held", ["", "aa"])
def test_a_vocabulary_that_is_none_is_named_by_its_option(held, mine, taught, tmp_path, capsys):
    save_file(load_file(taught[-1]), tmp_path / "other.safetensors", {"vocabulary": held})
    other = [*taught[:-1], str(tmp_path / "other.safetensors")]
    assert train(mine, tmp_path / "run", *other, *KD) == 1
    told = "--teacher-weights: characters must be at least one, and each once"
    assert told in capsys.readouterr().err


def test_changed_texts_are_named_by_their_option(mine, tmp_path, capsys):
    assert train(mine, tmp_path / "run") == 0
    (tmp_path / "run" / "result.json").unlink()
    mine.write_text("\n".join(reversed(LINES)))
    assert train(mine, tmp_path / "run") == 1
    assert f"--data: the texts of {mine} changed after the run" in capsys.readouterr().err


def test_seeds(mine, tmp_path, capsys):
    assert train(mine, tmp_path / "run", "--seeds", "0-1", "--jobs", "1", epochs=1) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split("  ")[0] == "seed"
    assert "test, nats" in shown[0]
    mean = result(tmp_path / "run")["test_nats"]["mean"]
    assert shown[-1] == f"mean {mean:.4f} nats a character in the test, in {tmp_path / 'run'}"


def test_longer_texts_and_a_model_for_them(tmp_path, capsys):
    long = tmp_path / "long.txt"
    long.write_text("\n".join(letter * 90 for letter in "abc"))
    assert train(long, tmp_path / "run") == 1
    assert (
        "--student: the student reads 80 characters, and the longest text has 91: cut the texts, "
        'or make a net by "language_model(width, depth, heads, length=91)"'
    ) in capsys.readouterr().err
    longer = "language_model(8, 1, 2, length=91)"
    assert train(long, tmp_path / "run", student=longer, epochs=1) == 0


# --- a first look, recipes, mistakes


def test_a_dry_run_writes_nothing(mine, taught, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    for given in SOURCES.values():
        data = ["--data", str(mine), "--student", "lm-1x8", *SMALL]
        assert main(["train", *data, *taught, *given, "--dry-run"]) == 0
        shown = capsys.readouterr().out
        assert "8 texts of at most 13 characters" in shown
        assert "multiply-adds per text" in shown
        assert "1 steps of 8 texts an epoch, on cpu" in shown
    assert sorted(tmp_path.iterdir()) == before


RECIPE = COURSE / "examples" / "definitions.toml"


@pytest.mark.parametrize("method", methods(str(RECIPE)))
def test_the_example_recipe(method, capsys):
    quick = ["--images", "32", "--batch-size", "4", "--device", "cpu", "--dry-run"]
    assert main(["train", str(RECIPE), "--method", method, *quick]) == 0
    assert "32 texts of at most 78 characters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--augment", "Flip()"], "--augment: is for images, and --data"),
        (["--views", "Consistent(Flip())"], "--views: is for images"),
        (["--cache", "2"], "--cache: is for images"),
        (["--image-size", "8"], "--image-size: is for images"),
        (["--student", "plain2"], "--student: the student fails on the inputs of data"),
        (["--student", "lm-1x9"], "--student: width must be a multiple of heads"),
        (["--student", "language_model(8, 1, 2, 5)"], "--student: the student knows 5 characters"),
        (["--texts", "Written()"], "--texts: there is no --teacher who could write"),
        (["--texts", "OnPolicy(share=2)"], "--texts: 'OnPolicy(share=2)' at character 1: share"),
        (["--texts", "OnPolicy(top_k=2)"], "there is no argument top_k"),
        (["--texts", "OnPolicy(temperature=0)"], "--texts: 'OnPolicy(temperature=0)' at charact"),
        (["--texts", "Written(greedy=3)", "TAUGHT"], "greedy must be True or False, got 3"),
        (["--texts", "OnPolicy(length=500)"], "length must be at most 81, as the model reads 80"),
        (["--texts", "OnPolicy(length=1)"], "length must be above that of the prompts, 1"),
        (["--texts", "OnPolicy()"], "--texts: a student has no labels for the texts that it wr"),
        (["--texts", "LogitKD()"], "--texts: 'LogitKD()' makes none of the texts that --help"),
        (["--data", "nothing.txt"], "--data: nothing.txt cannot be read as lines of text"),
        (["--images", "9"], "--images: there are 8 to train on"),
        (["--validation", "0", "--keep", "best"], "--keep: the best is found by texts to validat"),
        (["--batch-size", "7", "--accumulate", "2"], "--batch-size: the last batch of an epoch h"),
        (["--loss", "AttentionTransfer(['stage9'])", "TAUGHT"], "--loss: LanguageModel has no lay"),
        (["--loss", "Saliency()", "TAUGHT"], "--loss: "),
        (["TAUGHT"], "--teacher: there is a teacher, but the objective"),
        (["--teacher", "res16", "--loss", "LogitKD(1)"], "--teacher: the teacher fails on the i"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_names_its_option(arguments, message, mine, tmp_path, request, capsys):
    if arguments[-1] == "TAUGHT":
        arguments = [*arguments[:-1], *request.getfixturevalue("taught")]
        capsys.readouterr()
    assert train(mine, tmp_path / "run", *arguments) == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_help_tells_how_texts_are_written():
    for name in inspect.signature(check_manner).parameters:
        assert name in EXAMPLES


def test_texts_are_what_has_a_dot_or_a_slash():
    given = Options(student="plain2")
    for name in ("definitions", "mine.txt", "folder/mine", "./mine"):
        assert replace(given, data=name).reads_texts
    for name in ("fashion-mnist", "CIFAR-10", "no_such_set"):
        assert not replace(given, data=name).reads_texts
    assert texts.SHOWN == 5
