"""The report as a whole: an object, a page, and a command."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from toys import CLASSES, images, net, train

from kdcourse import data, metrics, models
from kdcourse.__main__ import main
from kdcourse.data import Splits
from kdcourse.evaluation import (
    PARTS,
    TEACHER,
    Exported,
    _figures,
    _page,
    _writing,
    export,
    fit_temperature,
)
from kdcourse.evaluation.cost import Latency
from kdcourse.evaluation.resampling import Interval
from kdcourse.files import FileError
from kdcourse.teachers import ClosedTeacher, Ensemble
from kdcourse.train import command

SLOW = ("export", "robustness", "cost")
QUIET = {"resamples": 100, "progress": False}


def report(student=None, teacher=None, test=None, **options):
    """Measure little nets; what takes longer only where it is asked for."""
    given = {"without": SLOW, **QUIET, **options}
    test = images(40) if test is None else test
    return metrics.report(student or net(), teacher or net(4, seed=2), test, **given)


@pytest.fixture(scope="module")
def whole():
    """A report with all its parts, on two students of which one has learned; nothing exported."""
    test = replace(images(60, seed=3), classes=("a", "b <i>", "c", "d"), name="quadrants")
    learned, teacher = net(seed=1), net(4, seed=2)
    train(learned, epochs=3)
    train(teacher, epochs=4)
    students = {"labels": net(seed=1), "KD & co": learned}
    given = {"validation": images(48, seed=4), "without": ["export"], **QUIET}
    found = metrics.report(students, teacher, test, **given)
    forms = {
        "int8": Exported(15_000, 0.25, 0.991, "rounded"),
        "ONNX": Exported(None, None, None, "not exported: pip install 'kdcourse[export]'"),
    }
    return replace(found, left_out={}, export=dict.fromkeys(students, forms))


# --- what is measured


def test_differences_are_to_the_first_student_and_to_the_teacher(whole):
    assert whole.baseline == "labels"
    found = {name: one.top_1.value for name, one in whole.accuracy.items()}
    taught = whole.accuracy["KD & co"]
    assert taught.minus_baseline.value == pytest.approx(found["KD & co"] - found["labels"])
    assert taught.minus_teacher.value == pytest.approx(found["KD & co"] - found["teacher"])
    assert whole.accuracy["labels"].minus_baseline is None
    assert whole.accuracy[TEACHER].minus_teacher is None
    by_class = {name: one[0].other for name, one in whole.classes.items()}
    assert by_class["KD & co"] == whole.classes["labels"][0].accuracy  # against the baseline
    assert whole.robustness["KD & co"].minus_baseline is not None


def test_numbers_are_those_of_metrics():
    student, teacher, test = net(), net(4, seed=2), images(40)
    found = report(student, teacher, test)
    assert found.accuracy["student"].top_1.value == pytest.approx(metrics.accuracy(student, test))
    predictions = [metrics.predict(one, test) for one in (student, teacher)]
    like = found.fidelity["student"]
    assert like.agreement.value == pytest.approx(metrics.agreement(*predictions))
    embeddings = [metrics.embed(one, test) for one in (student, teacher)]
    assert like.cka.value == pytest.approx(metrics.linear_cka(*embeddings), abs=1e-6)


@pytest.mark.parametrize("kind", ["pair", "loader", "images"])
def test_images_come_as_they_do_elsewhere(kind):
    test = images(40)
    given = {
        "pair": (test.inputs(), test.target),
        "loader": list(test.batches(16, shuffle=False)),
        "images": test,
    }[kind]
    found = report(test=given, without=("export", "cost"))
    assert found.accuracy == report(test=test).accuracy
    assert ("robustness" in found.left_out) == (kind != "images")


def test_temperatures_are_fitted_on_validation_images():
    student, held = net(), images(48, seed=4)
    found = report(student, validation=held).calibration["student"]
    assert found.temperature == fit_temperature(metrics.predict(student, held), held.target)
    assert found.scaled is not None
    alone = report(student).calibration["student"]
    assert (alone.temperature, alone.scaled) == (None, None)
    assert alone.plain == found.plain


class Counted:
    """Batches that note when they are gone through."""

    def __init__(self, name, order):
        self.batches, self.name, self.order = list(images(40).batches(16)), name, order

    def __iter__(self):
        self.order.append(self.name)
        return iter(self.batches)


def test_the_test_images_are_read_once_and_after_the_validation(monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None)  # ONNX has a test of its own
    order = []
    given = {"test": Counted("test", order), "validation": Counted("validation", order)}
    found = report(without=(), **given)
    assert order == ["validation", "test"]
    assert found.left_out.keys() == {"robustness"}  # of which batches do not tell the pixels
    assert found.export["student"].keys() == {"torch.export", "ONNX", "int8"}


def test_parts_can_be_left_out():
    found = report(without=PARTS)
    assert found.left_out == dict.fromkeys(PARTS, "left out, as asked for")
    assert not any(getattr(found, part) for part in PARTS)
    assert found.accuracy["student"]
    assert "left out, as asked for" in _page.page(found)


def test_a_student_without_a_teacher():
    found = metrics.report(net(), None, images(40), without=SLOW, **QUIET)
    assert set(found.left_out) - set(SLOW) == {"fidelity", "classes"}
    assert "no teacher to compare with" in _page.page(found)


def test_teachers_of_other_kinds():
    for teacher in (ClosedTeacher(net(4)), Ensemble(net(3), net(4))):
        found = report(teacher=teacher)
        assert found.fidelity["student"].cka is None
        assert found.fidelity["student"].note == "teacher has no layer 'embedding' to show"
        assert found.fidelity["student"].kl.value > 0
        assert "has no layer" in _page.page(found)


def test_layers_may_have_other_names():
    found = report(layer=("stage2", "stage3"))
    assert 0 < found.fidelity["student"].cka.value <= 1


def test_on_every_device_there_is(device):
    found = report(net().to(device), net(4, seed=2).to(device), validation=images(48))
    assert found.conditions["device"].startswith(device.type)


TEXTS = [(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.int64))]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"student": {}}, "student must name at least one"),
        ({"student": {"teacher": net()}}, "none of them 'teacher'"),
        ({"without": ["accuracy"]}, "without must be one of 'calibration', .*, got 'accuracy'"),
        ({"without": "export"}, "without must be a list"),
        ({"baseline": "KD"}, "baseline must be one of 'student', got 'KD'"),
        ({"test": images(8).inputs()}, "test must be .*got Tensor"),
        (
            {"test": TEXTS},
            r"test must hold images \(N, C, H, W\), got \(2, 5\): a report is for im",
        ),
        ({"test": images(8).unlabelled()}, r"the target of test must lie in \[0, 4\)"),
        ({"test": images(8)[:0]}, "test must hold at least one image"),
        ({"student": torch.nn.Flatten(2)}, r"outputs of the student must have shape \(N, K\)"),
        ({"student": torch.nn.Sequential(net(), torch.nn.Softmax(1))}, "the student returns prob"),
        ({"student": {"KD": models.plain(2, channels=3)}}, "student 'KD' fails on the inputs of"),
        ({"resamples": 1}, "resamples must be an integer of at least 2"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(given, told):
    arguments = {"student": net(), "teacher": net(4), "test": images(8), **QUIET, **given}
    with pytest.raises((ValueError, TypeError), match=told):
        metrics.report(**arguments)


# --- how it is shown


class Structure(HTMLParser):
    """Notes tags, and what is not closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_from_elsewhere(whole, tmp_path):
    whole.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"https?:|<script|<link|<img|@import|url\(|\bsrc=|\bhref=", page)


def test_the_page_is_well_formed_and_can_be_read_aloud(whole):
    found = Structure(_page.page(whole))
    assert found.open == []
    tags = [tag for tag, _ in found.tags]
    assert dict(found.tags)["html"]["lang"] == "en"
    assert tags.count("title") == tags.count("h1") == 1
    assert all(at.get("scope") in ("row", "col") for tag, at in found.tags if tag == "th")
    figures = [attributes for tag, attributes in found.tags if tag == "svg"]
    assert len(figures) == 1 + 6 + 1 + 2  # Pareto, reliability of three nets, severities, classes
    assert all(one["role"] == "img" and len(one["aria-label"]) > 10 for one in figures)
    assert len({one["aria-label"] for one in figures}) == len(figures)


def test_the_page_says_how_certain_it_is_and_on_what_it_was_measured(whole):
    page = _page.page(whole)
    for words in (
        "bootstrap over the test images (100 draws of the test images, seed 0)",
        "They do not cover what other seeds of training would have changed.",
        "60 of quadrants",
        f"torch {torch.__version__}",
        "1 thread(s)",
        "KD &amp; co",
        "b &lt;i&gt;",
        "not exported: pip install &#x27;kdcourse[export]&#x27;",
    ):
        assert words in page
    assert "<i>" not in page
    text = re.sub("<[^>]+>", "", page)
    for one in whole.accuracy.values():
        value, low, high = (
            f"{100 * x:.2f}" for x in (one.top_1.value, one.top_1.low, one.top_1.high)
        )
        assert f"{value} [{low}, {high}]" in text


def luminance(colour):
    colour = colour if len(colour) == 6 else "".join(2 * one for one in colour)
    channels = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_words_and_marks_stand_out_in_light_and_dark():
    light, dark = _page.STYLE.split("@media")
    for scheme in (light, dark[: dark.index("}}")]):
        found = dict(re.findall(r"--(\w+):#([0-9a-f]+)", scheme))
        paper = luminance(found["paper"])
        for name, least in {"ink": 4.5, "quiet": 4.5, **{f"n{n}": 3 for n in range(6)}}.items():
            one, other = sorted((luminance(found[name]), paper))
            assert (other + 0.05) / (one + 0.05) >= least, name


def test_in_a_notebook_and_in_print(whole):
    shown, printed = whole._repr_html_(), str(whole)
    assert Structure(shown).open == []
    assert shown.count("<svg") == 1
    assert len(printed.splitlines()[0]) == len(printed.splitlines()[1])
    for name, one in whole.accuracy.items():
        assert re.search(rf"^{name} +{100 * one.top_1.value:.2f} \[", printed, re.MULTILINE)


def test_as_json(whole, tmp_path):
    whole.save(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found["accuracy"]["KD & co"]["top_1"]["value"] == whole.accuracy["KD & co"].top_1.value
    assert found["export"]["labels"]["int8"]["bytes"] == whole.export["labels"]["int8"].bytes
    assert set(found) >= {"conditions", "left_out", *PARTS}


def test_the_front_is_that_of_accuracy_and_latency(whole):
    for batch in (1, 128):
        times = {name: whole.cost[name].latency[batch].median for name in whole.cost}
        right = {name: whole.accuracy[name].top_1.value for name in whole.cost}
        on = [
            name
            for name in times
            if not any(
                times[other] <= times[name]
                and right[other] >= right[name]
                and (times[other], right[other]) != (times[name], right[name])
                for other in times
            )
        ]
        assert whole.pareto(batch) == on


def test_a_report_of_many_classes_shows_those_that_changed_most(whole):
    change = whole.classes["labels"][0]
    many = tuple(
        replace(change, name=f"class {n}", difference=replace(change.difference, value=n / 100))
        for n in range(100)
    )
    page = _page.page(replace(whole, classes={"labels": many}))
    (drawn,) = re.findall(r'<section id="classes">.*?<svg.*?</svg>', page, re.DOTALL)
    assert "class 0<" in drawn
    assert "class 99<" in drawn
    assert "class 50<" not in drawn
    assert "class 50<" in page


def test_the_names_of_nets_that_cost_the_same_and_are_as_good_do_not_overlap():
    point = Latency(1.0, 0.9, 1.1), Interval(80.0, 79.0, 81.0)
    drawn = _figures.accuracy_against_latency(
        {"one": point, "other": point}, ["one"], {"one": 1, "other": 2}, ""
    )
    heights = [float(y) for y in re.findall(r'y="([\d.]+)" class="name"', drawn)]
    assert len(heights) == 2
    assert abs(heights[0] - heights[1]) >= 12


def test_a_long_name_may_be_broken():
    path = "/runs/of/somebody/with/many/folders/kd"
    shown = _writing.table([["net", "accuracy"], [path, "1"], ["kd", "2"]], "")
    assert f'<th scope="row" class="long">{path}<' in shown
    assert '<th scope="row">kd<' in shown


def test_the_classes_of_two_nets_that_say_the_same_have_a_readable_axis(whole):
    changes = whole.classes["labels"]
    none = replace(changes[0].difference, value=0.0, low=0.0, high=0.0)
    same = tuple(replace(one, difference=none) for one in changes)
    page = _page.page(replace(whole, classes={"labels": same}))
    (drawn,) = re.findall(r'<section id="classes">.*?<svg.*?</svg>', page, re.DOTALL)
    assert ">+1<" in drawn
    assert "Lost: none; gained: none." in page


# --- the command


@pytest.fixture(scope="module")
def splits():
    found = data.fashion_mnist()
    return Splits(found.train[:100], found.validation[:60], found.test[:60])


@pytest.fixture(scope="module")
def runs(tmp_path_factory, splits):
    """Two finished runs: one with a teacher, one without."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(command, "from_torchvision", lambda *_, **__: splits)
        fixed = ["train", "--student", "plain2", "--epochs", "1", "--batch-size", "50"]
        fixed += ["--device", "cpu", "--out"]
        taught = ["--teacher", "res16", "--loss", "CrossEntropy() + LogitKD(4)"]
        assert main([*fixed, str(folder / "kd"), *taught]) == 0
        assert main([*fixed, str(folder / "alone")]) == 0
    return folder


@pytest.fixture
def asked(splits, monkeypatch, tmp_path):
    """Call the command in a folder of its own."""
    monkeypatch.setattr(command, "from_torchvision", lambda *_, **__: splits)
    monkeypatch.chdir(tmp_path)

    def asked(*arguments, without="export,robustness,cost"):
        fixed = ["report", "--device", "cpu", "--without", without]
        return main([*fixed, *map(str, arguments)])

    return asked


def test_a_run_is_reported(asked, runs, tmp_path, capsys):
    assert asked(runs / "kd", "--out", "out/kd.html", without="export") == 0
    result = json.loads((runs / "kd" / "result.json").read_text())
    printed = capsys.readouterr().out
    assert re.search(rf"^kd +{result['test_accuracy']:.2f} \[", printed, re.MULTILINE)
    assert re.search(r"^teacher +\d\d\.\d\d \[", printed, re.MULTILINE)
    assert printed.endswith("report: out/kd.html\n")
    assert "<title>Report: kd</title>" in (tmp_path / "out/kd.html").read_text(encoding="utf-8")


def test_runs_are_compared_with_the_one_without_a_teacher(asked, runs, tmp_path):
    assert asked(runs / "kd", runs / "alone", "--out", "both.json") == 0
    found = json.loads((tmp_path / "both.json").read_text(encoding="utf-8"))
    assert (found["students"], found["baseline"]) == (["kd", "alone"], "alone")
    assert found["conditions"]["teacher of kd"] == "res16"
    assert found["calibration"]["kd"]["temperature"] > 0
    assert asked(runs / "kd", runs / "alone", "--out", "both.json", "--baseline", "kd") == 0
    path = f"{runs / 'kd'}/"  # as a shell completes it
    assert asked(runs / "kd", runs / "alone", "--out", "both.json", "--baseline", path) == 0
    found = json.loads((tmp_path / "both.json").read_text(encoding="utf-8"))
    assert found["baseline"] == "kd"


def refused(asked, capsys, *arguments, **options):
    assert asked(*arguments, **options) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("kdcourse: ")
    return said[0].removeprefix("kdcourse: ")


def copied(runs, folder, **options):
    """Copy a run whose options differ."""
    shutil.copytree(runs / "kd", folder)
    path = folder / "options.toml"
    text = path.read_text()
    for name, value in options.items():
        text = re.sub(rf"^{name} = .*$", f"{name} = {json.dumps(value)}", text, flags=re.MULTILINE)
    path.write_text(text)
    return folder


def test_what_cannot_be_reported_is_said_in_one_line(asked, runs, tmp_path, capsys):
    def said(*arguments, **options):
        return refused(asked, capsys, *arguments, **options)

    assert (
        said("nowhere")
        == "nowhere holds no run of train, or not all of it: there is no options.toml"
    )
    begun = copied(runs, tmp_path / "begun")
    (begun / "result.json").unlink()
    assert (
        said(begun) == f"{begun} holds no run of train, or not all of it: there is no result.json"
    )
    copied(runs, tmp_path / "ten" / "seed-0")
    assert "name one of them, such as" in said(tmp_path / "ten")
    texts = copied(runs, tmp_path / "texts", data="definitions", validation=100)
    assert "a report is for image classifiers" in said(texts)
    cifar = copied(runs, tmp_path / "cifar", data="cifar10")
    assert "--data is fashion-mnist and cifar10" in said(runs / "kd", cifar)
    other = copied(runs, tmp_path / "other", student="plain3")
    assert "holds the weights of another net" in said(other)
    assert "a run is named twice" in said(runs / "kd", runs / "kd")
    part = said(runs / "kd", without="exports")
    assert part.startswith("--without: unknown part 'exports'; did you mean export?")
    assert said(runs / "kd", "--baseline", "al").startswith("--baseline: unknown run 'al'")
    assert said(runs / "kd", "--out", tmp_path).endswith("is a folder; name a file in it")
    assert said(runs / "kd", "--device", "tpu").startswith("--device: ")
    assert not (tmp_path / "report.html").exists()


def test_no_run_at_all(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report"])
    assert ended.value.code == 2
    assert "the following arguments are required: RUN" in capsys.readouterr().err


def test_the_help_lists_every_part(capsys):
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"leave out {', '.join(PARTS)}:" in shown


def test_a_report_that_cannot_be_written(whole, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError):
        whole.save(tmp_path / "file" / "report.html")


def test_names_of_folders_that_are_not_unique(asked, runs, tmp_path):
    one, two = (copied(runs, tmp_path / name / "kd") for name in "ab")
    teacher = copied(runs, tmp_path / "teacher")
    assert asked(one, two, teacher, "--out", "r.json") == 0
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert found["students"] == [str(one), str(two), str(teacher)]
    assert found["classes"].keys() == {str(one), str(two), str(teacher)}
    assert len(found["classes"][str(one)]) == 10 != CLASSES
