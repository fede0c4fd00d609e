"""What is stored of the losses of other libraries is what is found, and what the page shows."""

import re

import pytest

from kdcourse.conformance.foreign import LOSSES
from kdcourse.course.bench import conformance
from kdcourse.logit import kd_loss
from kdcourse.places import COURSE

STORED = {(row.library, row.loss): row for row in conformance.load()}
TESTED = ("torch", "torchdistill", "timm", "torchmetrics")  # in the extra for tests


def test_every_loss_of_other_libraries_is_stored():
    assert list(STORED) == [(one.library, one.written) for one in LOSSES]
    assert len({library for library, _ in STORED}) >= 9
    assert len(STORED) >= 12


@pytest.mark.parametrize(
    "one", [one for one in LOSSES if one.library in TESTED], ids=lambda one: one.written
)
def test_what_is_stored_is_what_is_found(one):
    stored, here = STORED[one.library, one.written], conformance.version_of(one)
    if stored.version != here:
        pytest.skip(f"{one.library} {here} is not the one that was checked")
    found = conformance.conventions_of(one)
    assert (found.factor, found.convention) == (stored.factor, stored.convention)
    assert list(found.breaks) == list(stored.breaks)
    assert found.differs == stored.differs


def test_what_is_known_of_other_libraries_was_found():
    """What their sources, read by people, say."""
    known = {
        ("torch", "KLDivLoss()"): "1 / K",
        ("nvidia-modelopt", "LogitsDistillationLoss(temperature=τ)"): "1 / K",
        ("torchdistill", "KDLoss(…, temperature=τ, alpha=0.5), without labels"): "1 / τ²",
        ("keras", "LogitsDistillation(temperature=τ)"): None,
        ("timm", "LogitDistillationTask(…, temperature=τ)"): "1",
    }
    assert {name: STORED[name].factor for name in known} == known
    keras = STORED["keras", "LogitsDistillation(temperature=τ)"]
    assert "KL of raw logits, clipped to [1e-07, 1]" in keras.convention


def test_a_library_that_is_not_here_keeps_its_rows(tmp_path, monkeypatch):
    store = conformance.Store(tmp_path / "conformance.json", "", conformance.Conventions)
    gone = conformance.ForeignLoss("gone", "gone()", "kd", lambda: __import__("gone"))
    row = conformance.Conventions("gone", "1.0", "gone()", "kd", "1", "it is kd_loss", True)
    store.save([row])
    monkeypatch.setattr(conformance, "LOSSES", [gone, LOSSES[0]])
    missing = conformance.measure(store=store, progress=False)
    assert missing == ["gone is left out: No module named 'gone'"]
    assert [one.library for one in store.load()] == ["gone", "torch"]


def test_the_page_shows_them_and_its_programs_run():
    page = (COURSE / "docs/conformance.md").read_text()
    assert all(f"`{row.loss}`" in page for row in STORED.values())
    program = re.search(r"```python\n(import kdcourse\n.*?)```", page, flags=re.DOTALL)[1]
    exec(program, {"my_kd_loss": kd_loss})
