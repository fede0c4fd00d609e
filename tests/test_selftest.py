import shutil
from importlib import metadata

import pytest

from kdcourse import data
from kdcourse.course import selftest
from kdcourse.places import COURSE
from kdcourse.teachers import shipped


def test_all_is_well_here():
    report = selftest.report().splitlines()
    assert [line.split()[:2] for line in report[:-1]] == [["✓", name] for name in selftest.CHECKS]
    assert report[-1] == "Ready."


@pytest.mark.parametrize(
    ("required", "problem"),
    [
        ("no-such-package>=1", "no-such-package is missing"),
        ("torch>=99", f"torch is {metadata.version('torch')}, not >=99"),
        ("no-such-package>=1; extra == 'test'", None),
    ],
)
def test_the_installation_is_compared_with_what_is_required(monkeypatch, required, problem):
    monkeypatch.setattr(metadata, "requires", lambda _: [required, "torch>=2"])
    finding = selftest.check("installation")
    assert bool(finding.remedy) == bool(problem)
    if problem:
        assert problem in finding.found
        assert "make install" in str(finding)


def test_missing_and_damaged_images(monkeypatch, tmp_path):
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path))
    assert "FileNotFoundError" in selftest.check("images").found
    shutil.copytree(COURSE / "data" / "FashionMNIST", tmp_path / "FashionMNIST")
    labels = tmp_path / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-1])
    finding = selftest.check("images")
    assert data.CorruptedFileError.__name__ in finding.found
    assert "git checkout" in finding.remedy


def test_a_damaged_teacher(monkeypatch):
    def damaged(name):
        raise RuntimeError(f"{name} is corrupted")

    monkeypatch.setattr(shipped, "pretrained", damaged)
    finding = selftest.check("teachers")
    assert "res16 is corrupted" in finding.found
    assert "python -m kdcourse teachers" in finding.remedy


def test_a_device_that_does_not_compute(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr("kdcourse.training.fit", broken)
    monkeypatch.setattr(selftest, "images", lambda: "")
    report = selftest.report()
    assert "✗ device" in report
    assert "→ Use the CPU" in report
    assert report.splitlines()[-1] == "1 of 4 checks failed: follow the arrows."
