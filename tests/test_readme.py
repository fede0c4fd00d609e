"""The README's programs run as they are printed there, on toys."""

import re
from pathlib import Path

from toys import images, net

from kdcourse import data, models

TEXT = (Path(__file__).parents[1] / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


def test_there_are_programs():
    assert len(PROGRAMS) == 4


def test_they_run_one_after_the_other(tmp_path, monkeypatch):
    def cifar100(download):
        colours = images(40, channels=3)
        return data.Splits(colours, colours, colours)

    monkeypatch.chdir(tmp_path)  # one of them saves a checkpoint
    monkeypatch.setattr(data, "cifar100", cifar100)
    monkeypatch.setattr(models, "resnet", lambda depth: models.residual(2, channels=3, classes=4))
    names = {
        "my_student": net(seed=1),
        "my_teacher": net(seed=2),
        "my_loader": list(images(40).batches(20)),
        "large": net(4),
        "my_images": images(40),
        "assistant": net(3),
        "student": net(2),
        "net_a": net(seed=3),
        "net_b": net(seed=4),
        "make_net": lambda seed: net(seed=seed),
    }
    for program in PROGRAMS:
        exec(program.replace("epochs=1000", "epochs=60"), names)
    assert len(names["history"]) == 30
    assert (tmp_path / "run.pt").is_file()
    assert len(names["generations"]) == 3
    assert (tmp_path / "long.pt").is_file()
