"""What options say is read, never run; whatever cannot be read is refused with its place."""

import math
import re
import string
from typing import get_type_hints

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from toys import terms

from kdcourse.train import vocabulary
from kdcourse.train.aims import TERMS, TermMaker
from kdcourse.train.arguments import bind, make, signature
from kdcourse.train.expression import Call, one, parse
from kdcourse.train.options import OptionError, Options, blaming
from kdcourse.train.plan import prepare
from kdcourse.training import AttentionTransfer, DecoupledKD, LogitKD, RKDDistance

NOTHING = TermMaker(None, None, None, seed=0, steps_an_epoch=1)  # terms that look at no layer


def parts(text):
    return [(factor, call.name) for factor, call in parse(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ce", [(1, "ce")]),
        ("ce + kd", [(1, "ce"), (1, "kd")]),
        ("ce+0.9*kd", [(1, "ce"), (0.9, "kd")]),
        ("kd*2 + 1e-3 * ce", [(2, "kd"), (1e-3, "ce")]),
        ("2*(ce + 3*kd)", [(2, "ce"), (6, "kd")]),
        ("25*63/64*rkd-distance", [(25 * 63 / 64, "rkd-distance")]),
        ("kd/4", [(0.25, "kd")]),
        ("-1*kd", [(-1, "kd")]),
        ("wrn-40-2", [(1, "wrn-40-2")]),
        ("ce + kd\n  + kd", [(1, "ce"), (1, "kd"), (1, "kd")]),
    ],
)
def test_sums_and_factors(text, expected):
    found = parts(text)
    assert [name for _, name in found] == [name for _, name in expected]
    assert [f for f, _ in found] == pytest.approx([f for f, _ in expected], rel=1e-12)


def test_arguments():
    (call,) = [
        call for _, call in parse('f(1, -2.5, x, "a b", [s1, (s3.1, s3.5)], top-k=3, e=true)')
    ]
    assert call.positional[:2] == (1, -2.5)
    assert type(call.positional[0]) is int
    assert call.positional[2] == Call("x", 12)
    assert call.positional[3] == "a b"
    first, pair = call.positional[4]
    assert (first.name, [layer.name for layer in pair]) == ("s1", ["s3.1", "s3.5"])
    assert call.named == {"top_k": 3, "e": True}


def test_calls_in_calls():
    outer = one("ensemble(closed(res16, decimals=2), wrn-40-2, combine=vote)")
    closed, net = outer.positional
    assert (closed.name, closed.named) == ("closed", {"decimals": 2})
    assert net.bare
    assert net.name == "wrn-40-2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("ce +", "cannot be read"),
        ("ce kd", "near character"),
        ("ce - kd", "'ce - kd' at character 1 is not understood"),
        ("ce + -kd", "'-kd' at character 6 is not understood"),
        ("  ce * kd", "'ce * kd' at character 3 is not understood"),
        ("3", "'3' at character 1 is not understood"),
        ("ce + 2**3*kd", "'2**3*kd' at character 6"),
        ("kd(**x)", "not understood"),
        ("kd(*x)", "not understood"),
        ("kd(lambda: 1)", "not understood"),
        ("kd(1j)", "not understood"),
        ("kd([x for x in y])", "not understood"),
        ("__import__('os').system('x')", "not understood"),
        ("(kd).x()", "at character 1"),
        ("f'{x}'", "not understood"),
        ("kd/0", "division by zero"),
        ("kd(" * 500 + ")" * 500, "cannot be read|nested too deeply"),
        ("ce" + "+ce" * 20000, "nested too deeply"),
        ("9" * 5000 + "*ce", "cannot be read"),
        ("9" * 4000 + "*ce", "cannot be computed"),
        ("ce\0", "cannot be read"),
        ("\ud800", "surrogates"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match="|".join(map(re.escape, message.split("|")))):
        parse(text)


def test_nothing_is_run(tmp_path):
    for text in (f"open('{tmp_path}/x', 'w')", "exit()", "kd(print(1))"):
        with pytest.raises(ValueError, match=r"unknown term|not understood|must be"):
            NOTHING(text)
    assert not list(tmp_path.iterdir())


PIECES = ["ce", "kd", "hint", "temperature", "0.9", "é", " ", "\n", *"10.-+*/()[],='\""]
LIKELY = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


@given(st.text(max_size=60) | LIKELY)
@example("ce + kd(temperature=4)")
@example("kd(temperature=1e999)")
@example("0*ce")
def test_any_text_is_a_loss_or_an_error_that_names_the_option(text):
    try:
        with blaming("loss"):
            found = parse(text)
    except OptionError as error:
        assert str(error).startswith("--loss: ")  # noqa: PT017 (either outcome is right)
    else:
        assert found
        assert all(isinstance(call, Call) and call.name for _, call in found)
        assert all(isinstance(factor, (int, float)) for factor, _ in found)


WORDS = st.sampled_from(["ce", "kd", "dkd", "rkd-angle", "similarity", "attention", "hint"])
VALUES = st.sampled_from(["4", "-1", "0.5", "true", "stage1", "[stage1]", "'x'", "none", "nan"])
CALLS = st.builds("{}({})".format, WORDS, st.lists(VALUES, max_size=3).map(", ".join))
SUMS = st.lists(WORDS | CALLS, min_size=1, max_size=3).map(" + 2*".join)


@given(SUMS)
def test_any_sum_of_terms_makes_a_plan_or_an_error_that_names_the_option(loss):
    try:
        plan = prepare(Options(student="plain1", teacher="res16", loss=loss, device="cpu"))
    except OptionError as error:
        assert str(error).startswith(("--loss: ", "--teacher: "))  # noqa: PT017
    else:
        assert len(plan.objective.parts()) == loss.count("+") + 1


def test_factors_reach_the_objective():
    found = NOTHING("0.1*ce + 0.9*kd(temperature=2, divergence=reverse)")
    (first, _), (second, kd) = found.parts()
    assert (first, second) == (0.1, 0.9)
    assert isinstance(kd, LogitKD)
    assert (kd.temperature, kd.divergence) == (2, "reverse")


@pytest.mark.parametrize(
    ("maker", "text", "expected"),
    [
        (LogitKD, "kd", {}),
        (LogitKD, "kd(2)", {"temperature": 2}),
        (LogitKD, "kd(2, scale=false)", {"temperature": 2, "scale": False}),
        (AttentionTransfer, "a([s1, (s2, s3)])", {"layers": ("s1", ("s2", "s3"))}),
    ],
)
def test_arguments_are_bound_by_the_signature(maker, text, expected):
    assert bind(maker, one(text)) == expected


@pytest.mark.parametrize(
    ("maker", "text", "message"),
    [
        (LogitKD, "kd(x=1)", "unknown argument 'x' at character 1; known: temperature"),
        (LogitKD, "  kd(temprature=1)", "at character 3; did you mean temperature?"),
        (LogitKD, "kd(1, temperature=2)", "got temperature twice"),
        (DecoupledKD, "dkd(1, 2, 3, 4)", "at most 3 argument(s), got 4"),
        (LogitKD, "kd(true)", "must be a number, got true"),
        (LogitKD, "kd(x)", "must be a number, got x"),
        (LogitKD, "kd(scale=1)", "must be true or false, got 1"),
        (AttentionTransfer, "attention", "attention at character 1 needs layers: attention(layers"),
        (AttentionTransfer, "a(s1)", "must be a list, each a name or (a name, a name), got s1"),
        (AttentionTransfer, "a([kd(1)])", "must be a list"),
    ],
)
def test_arguments_that_do_not_fit(maker, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        bind(maker, one(text))


def test_refused_values_are_placed():
    with pytest.raises(ValueError, match=r"kd at character 6: temperature must .* got 0"):
        make(LogitKD, parse("ce + kd(0)")[1][1])


def test_signatures_are_those_of_the_classes():
    assert signature(DecoupledKD) == "(alpha=1, beta=8, temperature=4)"
    assert signature(RKDDistance) == "(layers=[embedding])"
    shown = vocabulary.described()
    for name in (*TERMS, *vocabulary.VIEWS, *vocabulary.SCHEDULES):
        assert f"\n  {name}" in shown


def test_every_term_has_a_name():
    named = {m if isinstance(m, type) else get_type_hints(m)["return"] for m in TERMS.values()}
    assert named == terms()


def test_names_may_hold_dashes_and_dots_but_no_blanks():
    for name in ("wrn-16-2", "stage3.1", "jensen-shannon", "a-b.c-1", "Ä_1"):
        assert one(name) == Call(name, 1)
    for sign in set(string.punctuation) - set("+#"):  # which are a sum and a comment
        with pytest.raises(ValueError, match="understood"):
            parse(f"a {sign} b")


def test_infinite_factors_are_refused_by_the_objective():
    assert math.isinf(parse("1e999*ce")[0][0])
    with pytest.raises(OptionError, match="--loss: "):
        prepare(Options(student="plain1", loss="1e999*ce", device="cpu"))
