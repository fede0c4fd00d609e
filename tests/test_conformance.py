"""Whether a loss of anybody's conforms: planted faults are named, conventions are measured."""

import math
import re
import sys
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kdcourse
from kdcourse import logit
from kdcourse.__main__ import main
from kdcourse.conformance import assert_conforms, check
from kdcourse.errors import ArgumentError, ArgumentTypeError

# --- losses as people write them


def kl(s, t, tau):
    return F.kl_div((s / tau).log_softmax(1), (t / tau).softmax(1), reduction="batchmean")


def right(student, teacher, temperature=4.0):
    return kl(student, teacher.detach(), temperature) * temperature**2


def raw_student(student, teacher, temperature=4.0):
    soft = (teacher.detach() / temperature).softmax(1)
    return F.kl_div(student / temperature, soft, reduction="batchmean") * temperature**2


def raw_teacher(student, teacher, temperature=4.0):
    log_p = (student / temperature).log_softmax(1)
    return F.kl_div(log_p, teacher.detach() / temperature, reduction="batchmean") * temperature**2


def no_logarithm(student, teacher, tau=4.0):
    p, q = (student / tau).softmax(1), (teacher.detach() / tau).softmax(1)
    return F.kl_div(p, q, reduction="batchmean") * tau**2


def mean_over_classes(s, t, T=4.0):
    each = F.kl_div((s / T).log_softmax(1), (t.detach() / T).softmax(1), reduction="none")
    return each.mean() * T**2


def no_tau_squared(s, t, T=4.0):
    return kl(s, t.detach(), T)


def swapped(s, t, T=4.0):
    return (
        F.kl_div((t.detach() / T).log_softmax(1), (s / T).softmax(1), reduction="batchmean") * T**2
    )


def teacher_trained(s, t, T=4.0):
    return kl(s, t, T) * T**2


def over_the_batch(s, t, T=4.0):
    both = (s / T).log_softmax(0), (t.detach() / T).softmax(0)
    return F.kl_div(*both, reduction="batchmean") * T**2


def overflowing(s, t, T=4.0):
    p, q = ((z / T).exp() / (z / T).exp().sum(1, keepdim=True) for z in (s, t.detach()))
    return (q * (q.log() - p.log())).sum(1).mean() * T**2


def half(s, t, T=4.0):
    """Fine in float32; in float16, a sum of exponentials overflows."""
    log_p, log_q = (z / T - (z / T).exp().sum(1, keepdim=True).log() for z in (s, t.detach()))
    return (log_q.exp() * (log_q - log_p)).sum(1).mean() * T**2


def masked(s, t, T=4.0, mask=None):
    return right(s, t, T)


def masked_late(s, t, T=4.0, mask=None):
    each = F.kl_div((s / T).log_softmax(1), (t.detach() / T).softmax(1), reduction="none").sum(1)
    counted = torch.ones(len(s), dtype=s.dtype) if mask is None else mask.to(s.dtype)
    return (each * counted).sum() / counted.sum() * T**2


def epsilon(s, t, T=4.0):
    p, q = ((z / T).softmax(1) for z in (s, t.detach()))
    return (q * ((q + 1e-8).log() - (p + 1e-8).log())).sum(1).mean() * T**2


def large_epsilon(s, t, T=4.0):
    p, q = ((z / T).softmax(1) for z in (s, t.detach()))
    return (q * ((q + 1e-3).log() - (p + 1e-3).log())).sum(1).mean() * T**2


def clamped(s, t, T=4.0):
    return right(s.clamp(-20, 20), t.clamp(-20, 20), T)


def rooted(s, t, T=4.0):
    return right(s, t, T).clamp_min(1e-20).sqrt()


def softened_twice(s, t, T=4.0):
    return right(s.softmax(1), t.softmax(1), T)


def without_temperature_of_the_teacher(s, t, T=4.0):
    return F.kl_div((s / T).log_softmax(1), t.detach().softmax(1), reduction="batchmean") * T**2


def hardly_used_temperature(s, t, T=4.0):
    return right(s, t, 1.0)


def squared_probabilities(s, t, T=4.0):
    return F.mse_loss((s / T).softmax(1), (t.detach() / T).softmax(1)) * T**2


def of_probabilities(student, teacher):
    p, q = (z.clamp_min(1e-12) for z in (student, teacher.detach()))
    return (q * (q / p).log()).sum(1).mean()


def half_cut_off(s, t, T=4.0):
    return right((s + s.detach()) / 2, t, T)


def noisy_in_the_order(s, t, T=4.0):
    weight = torch.arange(1, len(s) + 1, dtype=s.dtype)
    each = torch.stack([right(*row, T) for row in zip(s.split(1), t.split(1), strict=True)])
    return (weight * each).sum() / weight.sum()


class OfWeights(nn.Module):
    """One with weights of its own, in float32."""

    def __init__(self):
        super().__init__()
        self.projection = nn.Conv2d(4, 4, 1)

    def forward(self, student, teacher):
        return F.mse_loss(self.projection(student), teacher.detach())


def root_of_zero(student, teacher):
    def distances(x):
        return (x[:, None] - x[None]).square().sum(-1).sqrt()

    s, t = distances(student), distances(teacher.detach())
    return F.smooth_l1_loss(s / s[s > 0].mean(), t / t[t > 0].mean())


def in_place(s, t, T=4.0):
    t /= T
    return kl(s / T, t.detach(), 1.0) * T**2


def on_numpy(s, t, T=4.0):
    return torch.tensor(((s.detach().numpy() - t.detach().numpy()) ** 2).mean())


def of_standardized(s, t, T=4.0):
    variance = (s - s.mean(0)).square().sum(0) / (len(s) - 1)
    return right(s, t, T) + 0 * (s / variance.sqrt()).sum()


FAULTS = {  # what each is called by the report, in words; and what it is found by
    raw_student: ("ours, up to a factor", "the student's raw logits: its log_softmax is missing"),
    raw_teacher: ("ours, up to a factor", "the teacher's raw logits: its softmax is missing"),
    no_logarithm: ("ours, up to a factor", "probabilities where their logarithms belong"),
    swapped: ("ours, up to a factor", "KL(S‖T), with student and teacher swapped"),
    over_the_batch: ("ours, up to a factor", "softmax over the samples instead of the classes"),
    rooted: ("ours, up to a factor", "the square root of ours"),
    softened_twice: ("ours, up to a factor", "a softmax is applied twice"),
    without_temperature_of_the_teacher: ("ours, up to a factor", "the student's logits only"),
    hardly_used_temperature: ("ours, up to a factor", "takes no notice of τ"),
    squared_probabilities: ("ours, up to a factor", "squared difference of probabilities"),
    of_probabilities: ("ours, up to a factor", "it expects probabilities of both nets"),
    large_epsilon: ("ours, up to a factor", "is an epsilon added, or something clamped?"),
    teacher_trained: ("no gradient to the teacher", "a gradient reaches the teacher"),
    overflowing: ("extreme inputs", "does exp overflow"),
    half: ("half precision", "in float16 it is"),
    masked: ("mask", "the mask makes no difference"),
    masked_late: ("mask", "NaN, reaches the loss"),
    epsilon: ("extreme inputs", "does an epsilon, or a clamp, cap it?"),
    clamped: ("shift invariance", "before, and"),
    half_cut_off: ("gradient", "part of the student is cut off"),
    noisy_in_the_order: ("order of samples", "before, and"),
    in_place: ("inputs stay as they are", "it changes what the teacher shows, in place"),
    of_standardized: ("N = 1", "it is nan"),
}

report_of = cache(check)


@pytest.mark.parametrize(
    ("loss", "named"), FAULTS.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_a_planted_fault_is_named_in_words(loss, named):
    report = report_of(loss)
    name, words = named
    assert not report.passed
    assert report[name].status == "breaks"
    assert words in report[name].told
    assert re.sub(r"\s+", " ", words) in re.sub(r"\s+", " ", str(report))
    if name == "ours, up to a factor":
        assert report.factor is None
        assert words in report.in_words


@pytest.mark.parametrize("loss", FAULTS, ids=lambda loss: loss.__name__)
def test_the_programs_of_a_report_show_what_they_say(loss):
    """Each is run, and every value behind a ``#`` is what its line gives."""
    shown = 0
    for found in report_of(loss).broken:
        names = {}
        for line in found.code.splitlines():
            code, _, told = line.partition("  # ")
            value = re.match(r"-?[\d.e+-]+|-?inf|nan", told)
            if value:
                given = float(eval(code, names))
                assert given == pytest.approx(float(value[0]), rel=2e-3, abs=2e-6, nan_ok=True)
                shown += 1
            else:
                exec(code, names)
        reached = names.get("teacher")
        if found.name == "no gradient to the teacher":
            assert reached.grad.any()
            shown += 1
    assert shown or loss is half_cut_off


def test_a_fault_is_not_called_another_one():
    """A loss that changes its inputs is measured on copies; nan of one sample is no overflow."""
    broken = [found.name for found in report_of(in_place).broken]
    assert broken == ["inputs stay as they are"]
    assert "overflow" not in report_of(of_standardized)["N = 1"].told


def test_a_loss_with_weights_is_checked_in_their_precision():
    report = check(OfWeights(), "matched_features")
    assert report["ours, up to a factor"].status == "breaks"
    assert all(report[name].status == "holds" for name in ("not below zero", "batch size"))
    assert "Double" not in str(report)
    assert "double" not in str(report)


def test_a_gradient_that_is_nan_is_said_to_be_so():
    assert "not finite" in check(root_of_zero, "rkd_distance")["gradient"].told


def test_no_gradient_is_a_fault_of_what_is_no_multiple_too():
    report = check(on_numpy)
    assert report["gradient"].told == "no gradient reaches the student"
    # NumPy has no bfloat16: the loss raises no error for what a program could show.
    assert "it raises TypeError" in report["half precision"].told
    assert report["half precision"].code == ""


@pytest.mark.parametrize("tau", [1.5, 4.0, 20.0])
def test_a_temperature_that_is_built_in_is_found(tau):
    report = check(lambda s, t: right(s, t, tau) / tau**2)
    assert report.passed, report
    assert report.factor.constant == pytest.approx(1 / tau**2, rel=1e-3)
    assert f"checked at τ = {tau:g}" in str(report)


def test_the_smallest_input_is_small():
    for loss in (swapped, teacher_trained, overflowing, clamped, masked):
        for found in report_of(loss).broken:
            assert len(found.code) < 400, found.code
            names = {}
            exec(found.code.partition("\nteacher")[0], names)
            assert names["student"].shape[0] <= 3
            assert names["student"].shape[1] <= 4


# --- a convention is no fault

CONVENTIONS = {
    "1": (right, None, None),
    "1 / K": (mean_over_classes, "averages over the classes, too", ("K times", "10 for K = 10")),
    "1 / τ²": (no_tau_squared, "leaves out the factor τ²", ("τ² times", "16 for τ = 4")),
    "N": (lambda s, t, tau: right(s, t, tau) * len(s), "sums over the samples", ("1 / N times",)),
    "1 / (N · K · τ²)": (
        lambda s, t, tau: right(s, t, tau) / s.numel() / tau**2,
        "averages over the samples, too",
        ("N · K · τ² times", "2.048e+04 for N = 128, K = 10, τ = 4"),
    ),
    "1/ln 2": (lambda s, t, tau: right(s, t, tau) / math.log(2), "to base 2", ("ln 2 times",)),
    "1/2 · K": (lambda s, t, tau: right(s, t, tau) * s.shape[1] / 2, "sums over the classes", ()),
    "τ": (lambda s, t, tau: right(s, t, tau) * tau, "a further factor τ", ()),
    "1 / τ": (lambda s, t, tau: right(s, t, tau) / tau, "a factor τ, where ours has τ²", ()),
    "(N−1) / N": (
        lambda s, t, tau: right(s, t, tau) * (len(s) - 1) / len(s),
        "counts other pairs or triples",
        (),
    ),
    "√N": (lambda s, t, tau: right(s, t, tau) * len(s) ** 0.5, "has a factor √N", ()),
    "0.3712": (lambda s, t, tau: right(s, t, tau) * 0.3712, "a constant factor 0.3712", ()),
}


@pytest.mark.parametrize("factor", CONVENTIONS)
def test_a_convention_is_stated_and_conforms(factor):
    loss, phrase, weight = CONVENTIONS[factor]
    report = check(loss, teacher_first=False)
    broken = {found.name for found in report.broken}
    assert broken <= {"N = 1"}  # a factor N − 1 is zero there
    assert str(report.factor) == factor
    assert report.factor.value(4.0, N=3, K=7) == pytest.approx(
        (loss(*pair(3, 7), 4.0) / right(*pair(3, 7), 4.0)).item(), rel=1e-3
    )
    if phrase:
        assert phrase in report.in_words
        assert "conforms, up to a factor" in str(report) or broken
        assert all(words in report.in_words for words in weight)
    else:
        assert report.verdict == "conforms"


def pair(*shape):
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2)]


def test_cross_entropy_in_place_of_kl_has_the_same_gradient():
    report = check(logit.kd_cross_entropy)
    assert report.passed
    assert report.factor.is_one
    assert "something is added to its value that the student cannot change" in report.in_words
    assert report["zero at equality"].status == "differs"


def test_one_number_a_sample_is_told():
    report = check(lambda s, t: F.kl_div(s.log_softmax(1), t.softmax(1), reduction="none").sum(1))
    assert report["one number"].status == "differs"
    assert "one number a sample, of shape (4,)" in str(report)
    assert report.factor.is_one


@pytest.mark.parametrize(
    ("loss", "like", "factor"),
    [
        (
            lambda s, t: F.mse_loss(s, t.detach(), reduction="sum"),
            "matched_features",
            "N · C · H · W",
        ),
        (lambda s, t: F.mse_loss(s, t.detach()), "matched_features", "1"),
        (lambda s, t: kdcourse.rkd_distance_loss(s, t) / len(s), "rkd_distance", "1 / N"),
        (lambda s, t: 2 * kdcourse.rkd_angle_loss(s, t), "rkd-angle", "2"),
        (
            lambda s, t: kdcourse.attention_relation_loss(s, t) * s.shape[1],
            "attention_relation",
            "T",
        ),
    ],
)
def test_other_kinds(loss, like, factor):
    report = check(loss, like)
    assert str(report.factor) == factor
    assert report.passed


def test_relations_and_maps_have_their_own_invariances():
    def far(s, t):  # the square of a sum less the sum of squares: nothing is left far away
        def distances(z):
            z = z.float()
            squares = z.square().sum(1)
            found = (squares[:, None] + squares - 2 * z @ z.T).clamp_min(1e-12).sqrt()
            return found / found.mean() * (len(z) - 1) / len(z)

        apart = 1 - torch.eye(len(s))
        each = F.smooth_l1_loss(distances(s), distances(t.detach()), reduction="none") * apart
        return each.sum() / apart.sum()

    report = check(far, "rkd_distance")
    assert report.factor.is_one
    assert [found.name for found in report.broken][:1] == ["moving all samples"]
    unscaled = check(
        lambda s, t: (s.square().mean(1) - t.square().mean(1)).square().mean(), "attention_transfer"
    )
    assert unscaled["scale invariance"].status == "breaks"


# --- how a loss is called


class Module(nn.Module):
    def __init__(self, tau=3.0):
        super().__init__()
        self.tau = tau

    def forward(self, preds_S, preds_T):
        return right(preds_S, preds_T, self.tau)


def teacher_by_name(teacher_logits, student_logits, temperature=2.0):
    return right(student_logits, teacher_logits, temperature)


def teacher_by_gradient(a, b, tau=1.0):
    return right(b, a, tau)


def only_by_position(s, t, T, /):
    return right(s, t, T)


def only_by_name(s, t, *, temp):
    return right(s, t, temp)


@pytest.mark.parametrize(
    ("loss", "note"),
    [
        (Module, None),
        (Module(3.0), "checked at τ = 3"),
        (teacher_by_name, "its first argument is the teacher's"),
        (teacher_by_gradient, "its first argument is the teacher's"),
        (only_by_position, None),
        (only_by_name, None),
        (lambda s, t: right(s, t, 1.0), "it takes no temperature, and was checked at τ = 1"),
        (logit.LogitKD, None),
        (logit.LogitKD(2.0), "checked at τ = 2"),
    ],
)
def test_a_loss_may_be_called_in_many_ways(loss, note):
    report = check(loss)
    assert report.passed, report
    assert report.factor.is_one
    assert note is None or note in str(report)


def test_terms_on_layers_and_labels_that_ours_takes_too():
    assert check(kdcourse.RKDDistance, "rkd_distance").factor.is_one
    assert check(kdcourse.AttentionTransfer, "attention_transfer").factor.is_one
    assert check(kdcourse.DecoupledKD, "decoupled_kd").factor.is_one
    assert str(check(3.0 * logit.LogitKD(2.0)).factor) == "3"

    def dkd(student, teacher, target, alpha=1.0, beta=8.0, temperature=4.0):
        return logit.decoupled_kd_loss(
            student, teacher, target, alpha=alpha, beta=beta, temperature=temperature
        )

    assert check(dkd, "decoupled_kd").factor.is_one


def test_what_cannot_be_told_is_told():
    assert "nothing says which argument" in str(check(lambda a, b: kl(a, b, 1.0)))
    told = check(lambda a, b: kl(b, a, 1.0), teacher_first=True)
    assert told.factor.is_one
    assert "nothing says" not in str(told)


def with_labels(student, teacher, labels, alpha=0.5):
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * right(student, teacher)


def labels_between(student, labels, teacher):
    return with_labels(student, teacher, labels)


def labels_first(logits, labels, teacher_logits=None):
    return with_labels(logits, logits if teacher_logits is None else teacher_logits, labels)


def random(student, teacher):
    return right(F.dropout(student, 0.5), teacher)


def remembering():
    seen = []

    def loss(student, teacher):
        seen.append(teacher)
        return right(student, teacher) * len(seen)

    return loss


def averaging():
    """It keeps a moving mean, which stays where it is as long as it sees the same."""
    means = []

    def loss(student, teacher):
        means.append(0.9 * (means or [teacher])[-1] + 0.1 * teacher)
        return right(student, teacher - means[-1])

    return loss


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (with_labels, {}, r"needs labels \(labels\).*leaves the cross-entropy with the labels out"),
        (lambda s, t, alpha: s, {}, r"loss needs alpha, too: wrap it into a function"),
        (lambda s: s, {}, r"loss must take the student's and the teacher's output, takes s"),
        (lambda s, t: s.view(3, 7), {}, r"loss cannot be called with \(4, 5\) and \(4, 5\)"),
        (lambda s, t: (s, t), {}, r"it must return a tensor, got tuple"),
        (nn.Linear, {}, r"loss is a class that needs in_features, out_features: make one of it"),
        (right, {"like": "no_such"}, r"like must be one of .*attention_transfer.*got 'no_such'"),
        (right, {"like": "kd(1)"}, r"like must be a name, perhaps with options, got 'kd\(1\)'"),
        (right, {"like": right}, r"like must be a loss of ours, whose first argument says"),
        (right, {"example": (torch.zeros(3), torch.zeros(3))}, "example must have from 2 to 5"),
        (right, {"like": "kd(divergence='no')"}, r"like does not fit kd_loss\(div.*got 'no'"),
        (
            right,
            {"example": (torch.zeros(3, 4), torch.zeros(5, 4))},
            "example does not fit kd_loss",
        ),
        (right, {"like": "kd(shape=1)"}, r"like cannot be kd\(shape=1\): kd_loss takes no shape"),
        (random, {}, r"say the same of the same input, and says from .* does it draw random"),
        (remembering(), {}, r"say the same of the same input"),
        (averaging(), {}, r"say the same of the same input"),
        (lambda s, t: s.no_such, {}, r"loss cannot be called with .*AttributeError"),
        (lambda s, t: sys.exit(0), {}, r"loss cannot be called with .*SystemExit"),
        (lambda s, t: {"loss": right(s, t)}, {}, r"must return a tensor, got dict\)"),
        (labels_between, {}, r"takes student, labels before teacher: wrap it"),
        (labels_first, {}, r"takes logits, labels before teacher_logits: wrap it"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_words(loss, options, message):
    with pytest.raises(ArgumentError, match=message):
        check(loss, **options)


def test_what_is_no_loss_is_refused():
    with pytest.raises(ArgumentTypeError, match="loss must be a callable, got int 3"):
        check(3)


# --- in a test, a terminal, a notebook


def test_the_helper_for_tests_raises_the_report():
    assert_conforms(right)
    assert_conforms(no_tau_squared)  # a convention
    with pytest.raises(AssertionError, match=r"it is kd_loss\. What breaks: .*extreme inputs"):
        assert_conforms(overflowing)
    with pytest.raises(AssertionError, match="swapped, as kd_loss: does not conform"):
        assert_conforms(swapped)


def test_a_notebook_shows_a_table_and_programs():
    shown = check(clamped)._repr_markdown_()
    assert "| ✗ | shift invariance |" in shown
    assert "```python\nimport torch\nfrom test_conformance import clamped" in shown


@pytest.fixture
def losses(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from kdcourse.logit import kd_loss as ours\n"
        "def good(student, teacher, temperature): return ours(student, teacher, temperature) / 2\n"
        "def bad(student, teacher, temperature): return (student - teacher).square().mean()\n"
        "def turned(a, b): return ours(b, a, 1.0)\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "program.py").write_text("def good(s, t): return s.sum()\nraise SystemExit(0)")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "beside.py").write_text("from kdcourse.logit import kd_loss as ours")
    (tmp_path / "inner" / "own.py").write_text("from beside import ours as good")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("mine", "program", "own", "beside"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("place", ["mine", "mine.py"])
def test_the_command_says_whether_a_loss_conforms(losses, place, capsys):
    assert main(["check", f"{place}:good"]) == 0
    told = capsys.readouterr().out
    assert "it is 1/2 · kd_loss" in told
    assert "λ must be 2 times as large" in told
    assert main(["check", f"{place}:bad", "--as", "kd"]) == 1
    told = capsys.readouterr().out
    assert "it is the squared difference of logits, not KL" in told
    assert "from mine import bad" in told
    assert main(["check", f"{place}:turned", "--teacher-first"]) == 0


@pytest.mark.usefixtures("losses")
def test_a_file_may_import_those_beside_it(capsys):
    assert main(["check", "inner/own.py:good"]) == 0
    assert "it is kd_loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "place must be MODULE:FUNCTION or FILE.py:FUNCTION, got ''"),
        (["mine"], "place must be MODULE:FUNCTION"),
        (["mine:none"], "place must be of a loss in mine, which has ours, good, bad, turned"),
        (["none:good"], "none cannot: No module named 'none'"),
        (["none.py:good"], "none.py cannot: there is no such file"),
        (["broken.py:good"], "broken.py cannot: division by zero"),
        (["mine:good", "--as", "dk"], "like must be one of"),
        (["program.py:good"], "program.py cannot: it is a program, which ends"),
    ],
)
@pytest.mark.usefixtures("losses")
def test_bad_usage_has_a_status_of_its_own(words, told, capsys):
    assert main(["check", *words]) == 2
    assert told in capsys.readouterr().err
