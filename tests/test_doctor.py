"""A doctor finds what was planted in runs, keeps silent on sound ones, and changes nothing."""

import json
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from toys import CLASSES, Projected, images, net, noisy, same, train, weights

from kdcourse import doctor, further, models, teachers, tips
from kdcourse.augmentation import Compose, Flip, pad_crop_flip
from kdcourse.data import replay
from kdcourse.doctor import Finding, Findings
from kdcourse.doctor import answers as of_answers
from kdcourse.doctor import features as of_features
from kdcourse.doctor import student as of_student
from kdcourse.doctor import teacher as of_teacher
from kdcourse.doctor import terms as of_terms
from kdcourse.errors import ArgumentError
from kdcourse.language import Characters, Definitions, OnPolicy
from kdcourse.logit import kd_loss
from kdcourse.teachers import CachedLessons, ClosedTeacher, MomentumTeacher
from kdcourse.training import (
    AttentionTransfer,
    CrossEntropy,
    DecoupledKD,
    FeatureHint,
    History,
    LogitKD,
    RKDAngle,
    RKDDistance,
    SimilarityPreserving,
    WarmUp,
)
from kdcourse.training.diagnosis import Diagnosis, compare_with_labels_alone

KD = CrossEntropy() + 3 * LogitKD(4)


@pytest.fixture(scope="module")
def teacher():
    """One that knows the toy set, but not by heart."""
    made = net(4, seed=2)
    train(made, train=images(160, seed=9), epochs=6)
    return made.eval()


class Around(nn.Module):
    """A model with something before or behind it."""

    def __init__(self, model, before=lambda x: x, behind=lambda x: x):
        super().__init__()
        self.model, self.before, self.behind = model, before, behind

    def forward(self, inputs):
        return self.behind(self.model(self.before(inputs)))


def examined(student, objective=KD, **options):
    """Train and return the findings by what they are about, each of which was a warning, too."""
    options = {"train": images(160), "epochs": 4, "learning_rate": 0.02, **options}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        report = train(student, objective, diagnose=True, **options).diagnosis
    for one in report.findings:  # the numbers were others when it was told
        assert any(one.matters in str(each.message) for each in told)
    assert report.findings or not told
    return {one.about: str(one) for one in report.findings}


# --- sound runs draw no remark

STAGES = ["stage1", "stage2", "stage3"]
AT = {"class_dim": -1, "ignore_index": -1}
SOUND = {
    "labels alone": (CrossEntropy, {"teacher": None}),
    "kd": (lambda: KD, {}),
    "kd, augmented": (lambda: KD, {"augment": Flip(0.0)}),
    "born again": (lambda: LogitKD(1), {}),
    "dkd": (lambda: CrossEntropy() + WarmUp(DecoupledKD(), epochs=2), {}),
    "hint": (lambda: CrossEntropy() + 10 * FeatureHint("stage2"), {}),
    "attention": (lambda: CrossEntropy() + AttentionTransfer(STAGES), {}),
    "rkd": (lambda: CrossEntropy() + RKDDistance(["embedding"]) + 2 * RKDAngle(["embedding"]), {}),
    "function matching": (lambda: LogitKD(4), {"views": tips.FunctionMatching(Flip())}),
    "in parts": (lambda: KD, {"accumulate": 4}),
    "a closed teacher": (lambda: KD, {"teacher": "closed"}),
    "a teacher that follows": (lambda: KD, {"teacher": "follows"}),
    "cached answers": (lambda: KD, {"teacher": "cached"}),
}


@pytest.mark.parametrize(("objective", "options"), SOUND.values(), ids=list(SOUND))
def test_a_sound_run_draws_no_remark(objective, options, teacher):
    student, given = net(seed=3), {"teacher": teacher, "validation": images(80, seed=5), **options}
    if given["teacher"] == "closed":
        given["teacher"] = ClosedTeacher(teacher)
    elif given["teacher"] == "follows":
        given["teacher"] = MomentumTeacher(student)
    elif given["teacher"] == "cached":
        views = tips.Consistent(Compose())
        lessons = CachedLessons(teacher, images(160), views=views, epochs=2, batch_size=32)
        given |= {"train": lessons, "teacher": lessons.teacher}
    assert examined(student, objective(), **given) == {}


def test_students_that_learn_from_each_other_draw_none():
    peers = [net(seed=1), net(seed=2)]
    options = {"epochs": 2, "batch_size": 32, "device": "cpu", "progress": False, "diagnose": True}
    histories = teachers.mutual_learning(peers, images(160), **options)
    assert [one.diagnosis.findings for one in histories] == [[], []]
    assert all("gradient cosines" in one.diagnosis.looked_at for one in histories)


def test_a_language_model_draws_none():
    words = Definitions(("ab", "ba", "aa") * 30, ("abab", "baba", "aaaa") * 30)
    vocabulary = Characters.of(words.texts)
    lm = partial(models.language_model, 16, 1, 2, len(vocabulary), length=20)
    adam = {"optimizer": partial(torch.optim.AdamW, lr=0.01), "batch_size": 16}
    source = OnPolicy(lm(seed=0), words, vocabulary, share=0.0, length=20, batch_size=16)
    large = lm(seed=1)
    train(large, CrossEntropy(class_dim=-1), train=source, epochs=8, **adam)
    objective = CrossEntropy(class_dim=-1) + LogitKD(4, **AT)
    student = source.student
    found = examined(
        student, objective, train=source, teacher=large, learning_rate=None, epochs=3, **adam
    )
    assert found == {}


# --- what was planted is found, in fit


def test_another_view(teacher):
    found = examined(net(), teacher=teacher, views=tips.Independent(pad_crop_flip(4)))
    assert set(found) == {"the view"}
    assert "The teacher sees another view" in found["the view"]


def test_a_wrong_normalisation(teacher):
    found = examined(net(), teacher=Around(teacher, before=lambda x: x / 255))
    assert "hardly better than chance: right about 28%" in found["the teacher's accuracy"]


def test_another_order_of_classes(teacher):
    order = torch.tensor([2, 0, 3, 1])
    found = examined(net(), teacher=Around(teacher, behind=lambda z: z[:, order]))
    assert set(found) <= {"the order of classes", "the direction of logit_kd"}
    inverse = ", ".join(map(str, order.argsort().tolist()))
    assert f"once its outputs are taken as [{inverse}]" in found["the order of classes"]


@pytest.mark.parametrize(("weight", "told"), [(1e3, "the labels count for"), (1e-3, "it teaches")])
def test_a_weight_that_is_a_thousand_times_off(weight, told, teacher):
    objective = CrossEntropy() + 3 * weight * LogitKD(4)
    found = examined(net(), objective, teacher=teacher, learning_rate=0.02 / max(weight, 1))
    assert f"{told} nothing" in found["the weight of logit_kd"]


def test_a_teacher_that_is_too_sure(teacher):
    sure = Around(teacher, behind=lambda z: 4 * z)
    found = examined(net(), CrossEntropy() + LogitKD(1), teacher=sure)
    with torch.no_grad():
        off = of_answers.doubt(sure(images(160).inputs()))
    tau = of_answers.TEMPERATURES[int((off > of_answers.SPEAKING).nonzero()[0])]
    assert "too sure to teach at τ = 1:" in found["soft targets"]
    assert f"(at τ = {tau:g} it would" in found["soft targets"]


def test_logits_of_another_size(teacher):
    found = examined(Around(net(), behind=lambda z: 1e3 * z), teacher=teacher, learning_rate=0.0)
    assert "times as large as the teacher's" in found["the scale of logits"]
    found = examined(Around(net(), behind=lambda z: 1e-3 * z), teacher=teacher)
    assert "times as large as the teacher's" in found["the scale of logits"]


class Dead(nn.Module):
    """A ReLU behind a bias that lets nothing pass."""

    def forward(self, features):
        return (features - 1e4).relu()


def test_a_dead_layer(teacher):
    broken = net(4, seed=2)
    broken.load_state_dict(teacher.state_dict())
    broken.stage2.append(Dead())
    found = examined(net(), CrossEntropy() + FeatureHint("stage2"), teacher=broken)
    assert set(found) == {"the teacher's stage2"}
    assert "100% of the teacher's stage2 is the same for every sample" in str(found)


class Away(LogitKD):
    """Distillation with a wrong sign."""

    def loss(self, lesson):
        return -super().loss(lesson)


def test_a_term_against_the_labels(teacher):
    found = examined(net(), CrossEntropy() + Away(4), teacher=teacher, learning_rate=1e-3)
    assert "away pulls against the labels" in found["the direction of away"]


def test_a_student_that_has_learned_before_is_pulled_back_by_a_sound_term(teacher):
    """As a pruned teacher, or one that begins with the teacher's weights."""
    student = taught_anew(teacher)
    assert examined(student, KD, teacher=teacher) == {}


def test_a_teacher_that_begins_as_its_student_is_not_against_it():
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(images(1).pixels[0].numel(), CLASSES))
    given = {"teacher": MomentumTeacher(flat), "learning_rate": 0.001}
    found = examined(flat, CrossEntropy() + 300 * LogitKD(1), **given)
    assert "the direction of logit_kd" not in found


class Noise(Around):
    """Says something else every time."""

    def forward(self, inputs):
        return 20 * torch.randn(len(inputs), CLASSES, generator=replay(int(inputs.sum())))


def test_a_term_that_is_noise(teacher):
    noise = CrossEntropy() + 30 * LogitKD(1)
    found = examined(net(8), noise, teacher=Noise(teacher), train=images(320), epochs=1)
    assert "is noise that no two batches agree on" in found["noise in logit_kd"]


def test_a_teacher_below_its_student(teacher):
    def mistaken(logits):
        wrong = torch.arange(len(logits)) % 4 < 3
        return torch.where(wrong[:, None], torch.randn(logits.shape), logits)

    given = {"teacher": Around(teacher, behind=mistaken), "validation": images(80, seed=5)}
    objective = CrossEntropy() + 0.01 * LogitKD(4)
    found = examined(net(4, seed=3), objective, learning_rate=0.1, epochs=6, **given)
    assert "so that the student is held back" in found["teacher and student"]


# --- and in any loop


def watched(student, teacher, *, teach=None, steps=6, every=2, loss=None, **options):
    """Train in a plain loop, and return what is found."""
    optimizer = torch.optim.SGD(student.parameters(), 0.01)
    teach = torch.no_grad()(teacher) if teach is None else teach
    batches = list(images(32 * steps, seed=4).batches(32))
    with (
        warnings.catch_warnings(record=True) as told,
        doctor.watch(student, teacher, temperature=4, every=every, **options) as seen,
    ):
        warnings.simplefilter("always")
        for inputs, target in batches:
            logits, taught = student(inputs), teach(inputs)
            terms = cross_entropy(logits, target), (loss or kd_loss)(logits, taught, 4)
            seen.step(target, labels=terms[0], kd=terms[1])
            optimizer.zero_grad()
            sum(terms).backward()
            optimizer.step()
    assert not any(part._forward_hooks for one in (student, teacher) for part in one.modules())
    for one in seen.report.findings:
        assert any(one.matters in str(each.message) for each in told)
    return {one.about: str(one) for one in seen.report.findings}


def taught_anew(teacher, width=4):
    made = net(width, seed=2)
    made.load_state_dict(teacher.state_dict())
    return made.eval()


def test_a_sound_loop_draws_no_remark(teacher):
    assert watched(net(), teacher) == {}
    assert watched(net(), teacher, layers=STAGES) == {}


def test_probabilities_in_the_place_of_logits(teacher):
    """Which ``fit`` refuses."""
    blind, deaf = (Around(one, behind=nn.Softmax(1)) for one in (net(), teacher))
    found = watched(blind, deaf.eval())
    assert "What the student and the teacher return are" in found["the outputs"]
    found = watched(net(), deaf.eval())
    assert "What the teacher returns are probabilities" in found["the outputs"]


def test_a_teacher_in_train_mode_whose_statistics_move(teacher):
    found = watched(net(), taught_anew(teacher).train())
    assert "in train mode (ConvNet)" in found["the teacher's mode"]
    assert "running statistics" in found["the teacher's statistics"]


def test_gradients_into_the_teacher_and_its_weights_that_change(teacher):
    learning = taught_anew(teacher)

    def straight(student, taught, temperature):  # sends gradients to both
        p = (taught / temperature).softmax(dim=1)
        return -(p * (student / temperature).log_softmax(dim=1)).sum(dim=1).mean()

    moving = torch.optim.SGD(learning.parameters(), 0.01)

    def teach(inputs):
        moving.step()
        return learning(inputs)

    found = watched(net(), learning, teach=teach, loss=straight)
    assert {"the teacher's gradients", "the teacher's weights"} == set(found)
    # Asked with gradients, of which none is sent: nothing is lost but time.
    assert watched(net(), taught_anew(teacher), teach=taught_anew(teacher)) == {}


def test_a_term_without_a_gradient_and_one_that_is_nan(teacher):
    found = watched(net(), teacher, loss=lambda s, t, tau: kd_loss(s.detach(), t, tau))
    assert found.keys() == {"the weight of kd"}
    assert "No gradient of kd reaches the student" in found["the weight of kd"]
    found = watched(net(), teacher, loss=lambda s, t, tau: kd_loss(s, t, tau) * float("nan"))
    assert "the gradient of kd" in found
    assert "the gradient of labels" not in found
    assert "the weight of kd" not in found


def test_another_view_in_a_loop(teacher):
    crop = pad_crop_flip(4)

    def teach(inputs):
        pixels = (inputs * 60 + 128).clamp(0, 255).byte()
        other = crop(pixels, torch.Generator().manual_seed(0)).float()
        with torch.no_grad():
            return teacher((other - 128) / 60)

    assert "the view" in watched(net(), teacher, teach=teach)


def test_tokens_and_places_that_do_not_count():
    student, large = (models.language_model(8, 1, 2, 5, length=6, seed=seed) for seed in (1, 2))
    tokens = torch.randint(5, (16, 6), generator=torch.Generator().manual_seed(0))
    target = tokens.masked_fill(tokens == 4, -100)
    with doctor.watch(student, large.eval(), class_dim=-1, ignore_index=-100) as seen:
        large(tokens)
        loss = cross_entropy(student(tokens).movedim(-1, 1), target)
        seen.step(target, labels=loss)
    (look,) = seen.doctor.looks
    assert len(look.said.target) == int((target >= 0).sum())
    assert look.likeness == 1


def test_logits_that_stand_behind_something_else(teacher):
    def behind(model):
        return Around(model, behind=lambda logits: (logits.detach().softmax(dim=1), logits))

    both = behind(net()), behind(taught_anew(teacher)).eval()

    def terms(seen):
        (inputs, target), *_ = images(32, seed=4).batches(32)
        logits = both[0](inputs)[1]
        both[1](inputs)
        seen.step(target, labels=cross_entropy(logits, target))
        return seen.report.findings

    with doctor.watch(*both, output=lambda returned: returned[1]) as seen:
        assert terms(seen) == []
    with (
        pytest.raises(ArgumentError, match="output, for what the student returns, fails"),
        doctor.watch(*both, output=lambda returned: returned["logits"]) as seen,
    ):
        terms(seen)


def test_bad_calls_of_a_loop(teacher):
    student = net()
    with pytest.raises(ArgumentError, match="every"), doctor.watch(student, teacher, every=0):
        pass
    with doctor.watch(student, teacher) as seen:
        with pytest.raises(ArgumentError, match="was not called"):
            seen.step()
        with pytest.raises(ArgumentError, match="kd must be a scalar"):
            seen.step(kd=torch.ones(2))
        loss = student(images().inputs()).square().mean()
        loss.backward()
        with pytest.raises(ArgumentError, match=r"losses must be given before backward\(\)"):
            seen.step(labels=loss)
    tokens = torch.zeros(4, 6, dtype=torch.int64)
    large = models.language_model(8, 1, 2, 5, length=6)
    with doctor.watch(large) as seen:
        large(tokens)
        with pytest.raises(ArgumentError, match=r"class_dim must be -1 .*\(4, 6, 5\), got 1"):
            seen.step(tokens)


# --- nothing is changed

CHANGED = {
    "dropout, in parts, clipped": (noisy, lambda: KD, {"accumulate": 2, "clip": 0.5}),
    "warm-up": (net, lambda: CrossEntropy() + WarmUp(DecoupledKD(), epochs=2), {}),
    "weights of a term": (net, lambda: CrossEntropy() + Projected(), {"augment": Flip()}),
    "a queue": (net, lambda: CrossEntropy() + further.SEED(length=32), {"views": "same"}),
    "in half precision": (net, lambda: KD, {"autocast": torch.bfloat16}),
    "a loader": (noisy, lambda: KD, {"train": list(images().batches(20))}),
    "similarity": (net, lambda: CrossEntropy() + SimilarityPreserving(["stage2"]), {"steps": 5}),
}


@pytest.mark.parametrize(("make", "objective", "options"), CHANGED.values(), ids=list(CHANGED))
def test_a_run_is_the_same_bit_by_bit(make, objective, options, teacher):
    options = dict(options)
    if "steps" in options:
        options["epochs"] = None
    if options.get("views"):
        options["views"] = tips.Consistent(Flip())
    ends, states = [], []
    for diagnose in (False, True):
        student, aim = make(), objective()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            history = train(student, aim, teacher=teacher, diagnose=diagnose, **options)
        states.append(torch.random.get_rng_state())
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
        ends.append((weights(student) | weights(aim), rows))
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    assert torch.equal(*states)
    assert not teacher.training


def test_a_replayed_step_is_looked_at_like_a_plain_one(teacher, replaying, monkeypatch):
    looks, ends = [], []
    reported = Diagnosis.report
    monkeypatch.setattr(
        Diagnosis, "report", lambda self, *rest: looks.append(self.looks) or reported(self, *rest)
    )
    views, large = tips.Independent(Flip()), taught_anew(teacher).double()
    options = {"epochs": 3, "train": images(96), "views": views, "device": replaying.device}
    for captured in (True, False):
        student = net().double()
        with pytest.warns(UserWarning, match="another view"):
            history = train(student, KD, teacher=large, capture=captured, diagnose=True, **options)
        assert history.capture.startswith("captured") is captured
        ends.append((weights(student), looks[-1]))
    for name, value in ends[0][0].items():
        torch.testing.assert_close(value, ends[1][0][name])
    for one, other in zip(ends[0][1], ends[1][1], strict=True):
        assert torch.equal(one.said.student, other.said.student)
        assert torch.equal(one.said.target, other.said.target)
        torch.testing.assert_close(one.said.doubt, other.said.doubt)
        assert one.likeness == pytest.approx(other.likeness)
        assert one.gradients.norms == pytest.approx(other.gradients.norms, rel=1e-4)


def test_a_run_that_resumes_is_examined_from_there(teacher, tmp_path):
    def stop(row):
        raise KeyboardInterrupt

    def run(name, diagnose, **options):
        student = net()
        options |= {"diagnose": diagnose, "epochs": 3, "checkpoint": tmp_path / name}
        return (
            weights(student)
            if options.pop("first", 0)
            else (
                train(student, KD, teacher=teacher, **options),
                weights(student),
            )
        )

    with pytest.warns(UserWarning, match="interrupted"):
        first, _ = run("stopped", True, log=stop)
    assert first.diagnosis.looks == 3 + 1
    second, resumed = run("stopped", True)
    assert second.diagnosis.looks == 2
    assert same(resumed, run("whole", False)[1])


def test_what_was_not_diagnosed_says_how_to():
    with pytest.raises(AttributeError, match="diagnose=True"):
        _ = train(net(), epochs=1).diagnosis


# --- the mathematics


def test_an_order_is_found_by_the_samples_between():
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(6, (400,), generator=draw)
    order = torch.tensor([3, 0, 1, 5, 2, 4])
    found = of_answers._order(target, order[target])
    assert found == (order.tolist(), 1.0)
    assert of_answers._order(target, target) is None
    swapped = torch.where(target == 1, 2, torch.where(target == 2, 1, target))
    assert of_answers._order(target, swapped)[0] == [0, 2, 1, 3, 4, 5]
    alternating = torch.arange(400) % 6
    assert of_answers._order(alternating, order[alternating]) == (order.tolist(), 1.0)
    for seed in range(50):  # chance is no order
        said = torch.randint(6, (400,), generator=torch.Generator().manual_seed(seed + 1))
        assert of_answers._order(target, said) is None


def test_a_net_that_has_learned_nothing_has_no_other_order_of_classes():
    """Its best order is better than guessing: it looks at images, of which classes differ."""
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(10, (512,), generator=draw)
    said = torch.randint(10, (512,), generator=draw)
    said[:100] = (target[:100] + 1) % 10  # a fifth of what it says goes by the class
    assert of_answers._order(target, said)
    look = doctor.look.Look(said=doctor.look.Said(target, said, said))
    (found,) = of_answers.judge_knowledge([look])
    assert found.about == "the teacher's accuracy"


def test_noise_is_told_from_what_batches_agree_on():
    draw = torch.Generator().manual_seed(0)
    signal = torch.randn(4000, generator=draw, dtype=torch.float64)
    rows = [torch.randn(4000, generator=draw, dtype=torch.float64) for _ in range(3)]
    assert of_terms.noise_share([signal] * 3) == pytest.approx(0)
    assert of_terms.noise_share(rows) == pytest.approx(1, abs=0.05)
    assert of_terms.noise_share([signal + row for row in rows]) == pytest.approx(0.5, abs=0.05)


def test_gradients_are_those_of_autograd():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    other = torch.zeros(3, requires_grad=True)
    terms = {"a": (w * torch.tensor([3.0, 4.0])).sum(), "labels": -w[0], "none": torch.ones(())}
    found = of_terms.gradients_of(terms, [w, other], "labels", sampled=True)
    assert found.norms == {"a": 5.0, "labels": 1.0, "none": 0.0}
    assert found.cosines == {"a": pytest.approx(-0.6), "none": 0.0}
    assert found.samples["a"].tolist() == [3, 4, 0, 0, 0]
    assert w.grad is None


def test_likeness():
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randn(4, 3, 8, 8, generator=draw)
    assert of_teacher.likeness(pictures, pictures) == 1
    assert of_teacher.likeness(pictures, 3 * pictures + 1) == pytest.approx(1)
    assert abs(of_teacher.likeness(pictures, pictures.roll(1, 3))) < 0.2
    tokens = torch.arange(12).view(3, 4)
    assert of_teacher.likeness({"x": tokens}, {"x": tokens.roll(1, 0)}) == 0
    assert of_teacher.likeness(pictures, pictures[:, :, :4]) is None
    blank = torch.zeros(2, 1, 3, 3)
    assert of_teacher.likeness(blank, blank + 1) == 1


def test_doubt_and_scales():
    logits = torch.tensor([[2.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    off = [
        (1 - torch.sigmoid(torch.tensor([2.0, 4.0]) / t)).mean() for t in of_answers.TEMPERATURES
    ]
    torch.testing.assert_close(of_answers.doubt(logits).float(), torch.stack(off))
    between = of_answers._at(of_answers.doubt(logits).float(), 5.0)
    assert off[4] < between < off[5]
    assert of_answers.logit_scale(logits) == pytest.approx((5 / 2) ** 0.5)
    assert of_features.dead_share(torch.zeros(2, 3)) is None
    assert of_features.dead_share(torch.arange(16.0).view(8, 2) * torch.tensor([0, 1])) == 0.5


def rows(*values, by="validation_accuracy"):
    return [{"epoch": number + 1, by: value} for number, value in enumerate(values)]


def test_a_student_that_declines():
    accuracy = {"by": "validation_accuracy", "lowest": False, "samples": 5000}
    fallen = rows(0.5, 0.8, 0.76, 0.75, 0.74)
    (found,) = of_student.judge_decline(fallen, **accuracy)
    assert "best in epoch 2 (validation_accuracy 0.8)" in str(found)
    assert of_student.judge_decline(fallen, **accuracy | {"samples": 100}) == []
    assert of_student.judge_decline(rows(0.5, 0.8, 0.7, 0.7, 0.8), **accuracy) == []
    assert of_student.judge_decline(rows(0.5, 0.4), **accuracy) is None
    nats = {"by": "nats", "lowest": True, "samples": None}
    assert of_student.judge_decline(rows(3.0, 2.0, 2.2, 2.3, 2.4, by="nats"), **nats)
    assert of_student.judge_decline(rows(3.0, 2.0, 2.05, 2.0, 2.1, by="nats"), **nats) == []


def test_a_student_that_falls_behind_labels_alone():
    ours, alone = History(rows(0.5, 0.7, 0.71, 0.7)), History(rows(0.4, 0.7, 0.75, 0.76))
    report = compare_with_labels_alone(ours, alone, samples=5000)
    assert "Since epoch 3, the student is worse than by labels alone" in str(report)
    assert compare_with_labels_alone(alone, ours, samples=5000).findings == []
    with pytest.raises(ArgumentError, match="alone has no validation_accuracy"):
        compare_with_labels_alone(ours, History([{"epoch": 1}]))


# --- what is said


def test_a_report_speaks_in_a_terminal_and_in_jupyter():
    one = Finding("a", "It is <so>", "which matters", "try that")
    report = Findings([one], ["this", "that"], 2)
    assert str(report).splitlines() == [
        "• It is <so>, which matters: try that.",
        "1 remark on 2 batches; looked at: this, that",
    ]
    assert "<li>It is &lt;so&gt;, which matters: try that.</li>" in report._repr_html_()
    sound = Findings([], ["this"], 1)
    assert str(sound) == "no remarks on 1 batch; looked at: this"
    assert Findings.from_dict(json.loads(json.dumps(report.as_dict()))) == report
    assert (report | Findings([one], ["more"], 1)) == Findings([one], ["this", "that", "more"], 3)
