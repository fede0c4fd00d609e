"""Every loss of ours conforms to its own kind, and what is planted into it is found."""

from functools import partial

import pytest
import torch
from test_every_loss import CASES

from kdcourse.conformance import check
from kdcourse.conformance.kinds import loss_of_ours, losses_of_ours
from kdcourse.errors import ArgumentError


@pytest.mark.parametrize(("loss", "student", "teacher"), CASES.values(), ids=list(CASES))
def test_every_loss_of_ours_conforms_to_its_own_kind(loss, student, teacher):
    report = check(loss, like=loss, example=(student, teacher))
    assert report.passed, report
    assert report.factor.is_one


def called_by_cases():
    names = set()
    for loss, *_ in CASES.values():
        inner = getattr(loss, "func", loss)
        names |= {inner.__name__, *inner.__code__.co_names}
    return names


@pytest.mark.parametrize("name", losses_of_ours())
def test_every_loss_of_ours_conforms_by_its_name(name):
    try:
        report = check(losses_of_ours()[name], like=name)
    except ArgumentError:  # it takes more, or another shape, and is among the cases above
        assert name in called_by_cases() | {"seed_loss"}
    else:
        assert report.passed, report
        assert report.factor.is_one


@pytest.mark.parametrize("like", ["kd", "attention_transfer", "rkd_distance", "attention_relation"])
def test_what_is_planted_into_any_kind_is_found(like):
    ours = loss_of_ours(like)
    if like == "kd":
        ours = partial(ours, temperature=1.0)
    leaking = check(lambda s, t: ours(s, t) + 0.1 * (t.sum() - t.sum().detach()), like)
    assert [found.name for found in leaking.broken] == ["no gradient to the teacher"]
    infinite = check(lambda s, t: ours(s, t) + 0 * s.float().mul(1e17).square().sum(), like)
    assert infinite["extreme inputs"].status == "breaks"
    rough = check(lambda s, t: ours(s, t) * (1.5 if s.dtype == torch.float16 else 1), like)
    assert [found.name for found in rough.broken] == ["half precision"]
    negative = check(lambda s, t: ours(s, t) - 1, like)
    assert negative["not below zero"].status == "breaks"
