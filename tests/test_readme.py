"""README and docs: programs and commands run as they are printed; tables are those stored."""

import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_foreign_models import bert, text
from torch import nn
from toys import images, net

from kdcourse import data, models
from kdcourse.__main__ import main
from kdcourse.course.docs import PAGES, digest, figures, render
from kdcourse.language import Characters
from kdcourse.places import COURSE

README, GUIDE, LOOPS = (COURSE / name for name in ("README.md", "docs/guide.md", "docs/loops.md"))
COMMANDS = [
    command
    for page in (README, GUIDE)
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines()
    if "kdcourse train" in command
]


class AsDictionary(nn.Module):
    """Returns more than logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return {"logits": self.model(inputs), "other": None}


def programs(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 9 * 1024


def test_the_wheel_has_the_name_that_is_said():
    assert f"kdcourse-{metadata.version('kdcourse')}-py3-none-any.whl" in README.read_text()


def test_there_are_programs():
    assert [len(programs(page)) for page in (README, GUIDE)] == [2, 16]
    assert len(COMMANDS) == 13


def test_programs_run_one_after_the_other(tmp_path, monkeypatch):
    def cifar100(download):
        colours = images(40, channels=3)
        return data.Splits(colours, colours, colours)

    monkeypatch.chdir(tmp_path)  # two of them save a checkpoint
    monkeypatch.setattr(data, "cifar100", cifar100)
    monkeypatch.setattr(models, "resnet", lambda depth: models.residual(2, channels=3, classes=4))
    names = {
        "my_student": net(seed=1),
        "my_teacher": net(seed=2),
        "my_loader": list(images(40).batches(20)),
        "my_rows": [{"image": one, "label": 1} for one in images(40).inputs()],
        "large": net(4),
        "my_images": images(40),
        "assistant": net(3),
        "student": net(2),
        "net_a": net(seed=3),
        "net_b": net(seed=4),
        "noisy": lambda inputs: inputs + 0.1,
        "my_inputs": images(8).inputs(),
        "my_labels": images(8).target,
        "my_dict_model": AsDictionary(net(5)),
        "make_net": lambda seed: net(seed=seed),
        "my_texts": [text()],
        "my_classifier": bert(16),
        "language_model": nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9)),
        "large_language_model": nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9)),
        "my_pages": [
            (pages := torch.arange(24).view(4, 6) % 9, pages.masked_fill(pages > 6, -100))
        ],
        "segmenter": nn.Conv2d(1, 5, 3, padding=1),
        "large_segmenter": nn.Conv2d(1, 5, 5, padding=2),
        "my_scenes": [(torch.randn(4, 1, 6, 6), torch.tensor([0, 4, 255]).repeat(4, 6, 2))],
    }
    weights = tmp_path / "runs/pupil/student.safetensors"
    weights.parent.mkdir(parents=True)
    vocabulary = {"vocabulary": Characters.of(["distillation:\n"]).characters}
    save_file(models.by_name("lm-1x32", classes=10).state_dict(), weights, vocabulary)
    for page in (README, GUIDE):
        for program in programs(page):
            exec(program.replace("epochs=1000", "epochs=60"), names)
    assert len(names["history"]) == 30
    assert (tmp_path / "run.pt").is_file()
    assert repr(names["hinted"]).count("FeatureHint") == 1
    assert len(names["generations"]) == 3
    assert (tmp_path / "long.pt").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, tmp_path, monkeypatch, capsys):
    """Each is tried with --dry-run, which takes a few steps on random images."""
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "runs/teacher/student.safetensors"
    weights.parent.mkdir(parents=True)
    teacher = models.by_name("resnet56", channels=3, classes=100)
    save_file(teacher.state_dict(), weights)
    (tmp_path / "runs/fsp-first").mkdir()
    begun = models.by_name("resnet20", channels=3, classes=100)
    save_file(begun.state_dict(), tmp_path / "runs/fsp-first/student.safetensors")
    (tmp_path / "runs/writer").mkdir()
    writer = models.by_name("lm-2x64", classes=83)
    save_file(writer.state_dict(), tmp_path / "runs/writer/student.safetensors")
    words = shlex.split(command, comments=True)
    given = words[words.index("train") :]
    quick = [] if "--recipes" in given else ["--dry-run", "--batch-size", "8", "--device", "cpu"]
    quick += ["--no-compile"] if "--compile" in given else []
    assert main([*given, *quick]) == 0
    shown = capsys.readouterr().out
    assert ("published, %" in shown) if "--recipes" in given else ("epochs, validation" in shown)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_that_are_stored(page):
    text = page.read_text(encoding="utf-8")
    assert "<!--" in text
    assert render(text) == text


@pytest.mark.parametrize(
    "page", [*PAGES, GUIDE, LOOPS, COURSE / "CONTRIBUTING.md"], ids=lambda p: p.name
)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
    for name in re.findall(
        r"`((?:kdcourse|tests|notebooks|training|teachers)/[\w/.]+\.\w+)`", text
    ):
        places = [(COURSE / start / name).exists() for start in ("", "kdcourse")]
        assert any(places) or "NAME" in name.upper()


def test_figures_show_what_is_stored():
    for name, figure in figures().items():
        with Image.open(COURSE / name) as picture:
            assert picture.text["Description"] == digest(figure), f"{name}: make docs"


def test_every_figure_is_described():
    for page in PAGES:
        shown = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for about, path in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", shown):
            assert len(about) > 40, path
            assert (Path(page).parent / path).is_file()
