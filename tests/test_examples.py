"""Examples: each is short, runs small, prints what it returns, and stands in the table."""

import importlib.util
import re
import runpy

import pytest
import torch
from toys import same, terms, weights

from kdcourse import CrossEntropy, LogitKD, claims, data, fit, language, metrics, models, teachers
from kdcourse.course.claims.online import shifted
from kdcourse.places import COURSE

FOLDER = COURSE / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))
SMALL = {"images": 400, "epochs": 1}
SEEDS = {5: "five", 10: "ten", 30: "thirty"}


@pytest.fixture(scope="module")
def splits():
    whole = data.fashion_mnist()
    return data.Splits(whole.train[:5000], whole.validation[:200], whole.test[:400])


def by_predictions(net, splits):
    return metrics.accuracy(net, splits.test)


def by_neighbours(net, splits):
    return metrics.neighbour_accuracy(net, splits.train[: SMALL["images"]], splits.test)


def by_letters(net, splits):
    """The share of letters of test definitions that a language model foresees."""
    inputs, target = language.wordnet().test[:300].lessons(language.wordnet().vocabulary)
    right = metrics.predict(net, inputs).argmax(dim=2) == target
    return float(right[target >= 0].float().mean())


JUDGES = {  # who does not judge a net by its predictions for the test images
    "on_policy": by_letters,
    "seed": by_neighbours,
    "self_supervised": by_neighbours,
    "correction": lambda net, splits: metrics.accuracy(net, shifted(splits.test, 0.5, 0.1, 1)),
}


def claims_in(text):
    return re.findall(r'claims\.load\("([\w-]+)"\)', text)


def table():
    """Return script, address of the paper and notebook of every row."""
    script, paper = r"\[`(.+)`\]\(\1\)", r"\[(.+)\]\(https://arxiv.org/abs/\2\)"
    row = rf"^\| {script} \| .+ \| {paper} \| \[.+\]\((.+)\) \|$"
    return re.findall(row, (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_prints_how_good_the_net_is_that_it_returns(path, splits, monkeypatch, capsys):
    monkeypatch.setattr(data, "fashion_mnist", lambda: splits)
    net = runpy.run_path(str(path))["main"](**SMALL)
    shown = capsys.readouterr().out
    own = shown.partition("\nMean of seeds")[0]
    score = JUDGES.get(path.stem, by_predictions)(net, splits)
    assert f" {score:.1%}" in own
    assert "nan" not in own
    shares = [float(share) for share in re.findall(r"([\d.]+)%", own)]
    assert len(shares) >= 2
    assert all(0 <= share <= 100 for share in shares)
    for name in claims_in(path.read_text("utf-8")):
        assert str(claims.load(name)) in shown


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_fits_a_screen_and_says_what_it_is(path):
    text = path.read_text("utf-8")
    about, told = text.split('"""')[1], claims_in(text)
    assert len(text.splitlines()) <= 60
    assert f"\nRun: python examples/{path.name}\nPrints" in about
    (named,) = re.findall(r"\(claims?\s([^)]+)\)", about) or [""]
    assert re.split(r"\sand\s", named) == (told or [""])
    if told:
        assert re.search(rf"\s{SEEDS[len(claims.load(told[0]).runs)]}\s", about)
    else:
        assert "No claim" in about
    assert importlib.util.find_spec(path.stem) is None  # which it would hide from what it imports


def test_the_table_has_a_row_for_every_script():
    assert sorted(script for script, _, _ in table()) == [path.name for path in SCRIPTS]


@pytest.mark.parametrize(("script", "paper", "notebook"), table())
def test_rows_of_the_table_are_right(script, paper, notebook):
    (first, *_) = re.findall(r"arXiv (\d+\.\d+)", (FOLDER / script).read_text("utf-8"))
    assert first == paper
    assert (FOLDER / notebook).resolve().is_file()


def test_the_bare_loop_is_that_of_the_course():
    """The same batches make the same weights, bit by bit."""
    loop = runpy.run_path(str(FOLDER / "plain_pytorch.py"))["train"]
    teacher = teachers.pretrained("res16").eval()
    draw = data.replay(0)
    batches = [
        (torch.randn(16, 1, 28, 28, generator=draw), torch.arange(16) % 10) for _ in range(3)
    ]
    for objective, source in (
        (CrossEntropy(), None),
        (CrossEntropy() + 3.0 * LogitKD(4), teacher),
    ):
        own, ours = models.by_name("plain8", seed=0), models.by_name("plain8", seed=0)
        loop(own, batches, 2, source)
        fit(ours, batches, objective, teacher=source, epochs=2, device="cpu", progress=False)
        assert same(weights(own), weights(ours))


def test_nets_of_your_own_learn(splits, monkeypatch):
    """Where gradients were not clipped, KD led them to one answer for all images."""
    monkeypatch.setattr(data, "fashion_mnist", lambda: splits)
    net = runpy.run_path(str(FOLDER / "own_model.py"))["main"](images=1000, epochs=3)
    assert metrics.accuracy(net, splits.test) > 0.5


def test_every_method_of_the_field_trains(splits):
    """A step with each: the weights of the table are those of their scale."""
    methods = runpy.run_path(str(FOLDER / "methods.py"))["METHODS"]
    teacher = models.by_name("res16", seed=1)
    for name, method in methods.items():
        student, objective = models.by_name("plain16"), CrossEntropy() + method()
        asked = teacher if objective.needs_teacher else None
        options = {"epochs": 1, "batch_size": 32, "progress": False}
        history = fit(student, splits.train[:32], objective, teacher=asked, **options)
        assert history.last["loss"] > 0, name


def test_every_method_of_the_field_has_a_line():
    lines = (FOLDER / "methods.py").read_text("utf-8")
    folder = COURSE / "kdcourse" / "methods"
    known = {
        kind.__name__
        for kind in terms()
        if (folder / f"{kind.__module__.rpartition('.')[2]}.py").is_file()
    }
    elsewhere = {  # docs/guide.md, notebook 8 and the examples of language models
        *("GeneralizedJSD", "SkewedKL", "TopKKD", "AttentionRelation"),
        *("UniversalLogitKD", "ChunkLikelihood"),
        "SimKD",  # an example of its own
    }
    assert {name for name in known - elsewhere if f"kd.{name}(" not in lines} == set()
