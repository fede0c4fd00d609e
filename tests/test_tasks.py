"""Tokens, pixels, many labels and quantities, each distilled by one call of fit."""

import math
from dataclasses import replace
from functools import partial

import pytest
import test_hard_distillation
import test_logit as by_hand
import test_predictions
import test_transformed_teacher
import torch
import torchmetrics
import torchvision
import transformers
from test_predictions import K, drawn, example_of
from torch import nn
from torch.nn import functional as F
from toys import same, weights

from kdcourse import data, fit
from kdcourse.batch import call, read_batch
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.many_labels import BinaryCrossEntropy, BinaryKD
from kdcourse.methods.attention_relation import AttentionRelation
from kdcourse.methods.hard_distillation import HardDistillation
from kdcourse.methods.transformed_teacher import TTM, WTTM
from kdcourse.objective import Lesson, Outputs, WarmUp
from kdcourse.prediction_term import judge_of
from kdcourse.regression import MeanSquared, RegressionKD
from kdcourse.teachers import ClosedTeacher, Ensemble
from kdcourse.training import CrossEntropy, DecoupledKD, LogitKD, StandardizedKD

QUIET = {"progress": False, "device": "cpu"}
KNOBS = {"epochs": 1, **QUIET}
TERMS = {
    "forward": (partial(LogitKD, 2.0), by_hand.naive_forward),
    "reverse": (partial(LogitKD, 2.0, divergence="reverse"), by_hand.naive_reverse),
    "in chunks": (partial(LogitKD, 2.0, rows=4), by_hand.naive_forward),
    "decoupled": (partial(DecoupledKD, temperature=2.0), by_hand.naive_decoupled),
    "standardized": (partial(StandardizedKD, 2.0), "standardized"),
    "hard": (HardDistillation, test_hard_distillation.naive),
    "transformed": (partial(TTM, 2.0), test_transformed_teacher.naive),
    "transformed, weighted": (partial(WTTM, 2.0), test_transformed_teacher.naive_weighted),
}


def naive_labels(logits, target, class_dim, weight):
    """Cross-entropy with the labels, as a loop over places, and the sum of their weights."""
    rows = logits.movedim(class_dim, -1).reshape(-1, logits.shape[class_dim]).tolist()
    total = 0.0
    for z, y, w in zip(rows, target.flatten().tolist(), weight.flatten().tolist(), strict=True):
        if w:
            total += w * (math.log(math.fsum(math.exp(v) for v in z)) - z[y])
    return total / float(weight.sum())


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize(("shape", "class_dim"), [((3, 4, K), -1), ((2, K, 2, 3), 1)])
def test_a_term_is_a_mean_over_places_that_count(name, shape, class_dim):
    make, definition = TERMS[name]
    student, teacher, target, mask, weight = example_of(shape, class_dim)
    inputs, ignored = {"mask": mask.long()}, target.masked_fill(~mask, -100)
    for options, labels, own, counted in (
        ({}, target, None, torch.ones_like(weight)),
        ({"ignore_index": -100}, ignored, None, mask.double()),
        ({"mask": "mask"}, ignored, None, mask.double()),
        ({}, target, weight, weight),
        ({"ignore_index": -100, "mask": "mask"}, ignored, weight, weight * mask),
    ):
        term = make(class_dim=class_dim, **options)
        shown = Outputs(logits=student), Outputs(logits=teacher)
        lesson = Lesson(shown[0], labels, shown[1], inputs=inputs, weight=own)
        expected = test_predictions.naive(
            definition, student, teacher, target, class_dim, weight=counted
        )
        assert term.loss(lesson).item() == pytest.approx(expected, rel=1e-9), options
        assert term.count(lesson).item() == pytest.approx(counted.sum().item())
        right, judged = term.right(student, lesson)
        seen = (labels >= 0) & (counted > 0)
        assert judged == seen.sum()
        assert right == (student.argmax(dim=class_dim) == target)[seen].sum()


def test_a_closed_teacher_shows_probabilities_of_tokens():
    student, teacher, target, mask, _ = example_of((3, 4, K), -1)
    term = LogitKD(2.0, class_dim=-1, ignore_index=-100)
    labels = target.masked_fill(~mask, -100)
    seen = [Outputs(logits=teacher), Outputs(probabilities=teacher.softmax(dim=-1))]
    one, other = (term.loss(Lesson(Outputs(logits=student), labels, shown)) for shown in seen)
    assert one.item() == pytest.approx(other.item())


def softmaxed(model):
    return nn.Sequential(model, nn.Softmax(dim=-1))


class Fixed(nn.Module):
    """Returns the same predictions whatever it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs):
        return self.logits


@pytest.mark.parametrize(("shape", "class_dim"), [((3, 4, K), -1), ((2, K, 2, 3), 1)])
def test_teachers_that_share_out_probabilities_do_so_among_the_classes(shape, class_dim):
    members = [Fixed(drawn(*shape, seed=seed)) for seed in range(3)]
    p = torch.stack([member.logits.softmax(dim=class_dim) for member in members])
    for combine, expected in (
        ("logits", torch.stack([member.logits for member in members]).mean(dim=0)),
        ("probabilities", p.mean(dim=0)),
        ("vote", torch.stack([one == one.amax(class_dim, True) for one in p]).double().mean(dim=0)),
    ):
        teacher = Ensemble(members, combine=combine, class_dim=class_dim)
        torch.testing.assert_close(teacher(torch.zeros(1)), expected)
    shown = ClosedTeacher(members[0], top_k=2, class_dim=class_dim)(torch.zeros(1))
    torch.testing.assert_close(
        shown.sum(dim=class_dim), torch.ones(shown.sum(class_dim).shape).double()
    )
    assert ((shown > 0).sum(dim=class_dim) == 2).all()
    kept = p[0].topk(2, dim=class_dim)
    expected = kept.values / kept.values.sum(dim=class_dim, keepdim=True)
    torch.testing.assert_close(shown.gather(class_dim, kept.indices), expected)


@pytest.mark.parametrize(
    ("teacher", "objective", "message"),
    [
        (Ensemble, LogitKD(class_dim=-1), "the Ensemble has class_dim=1, and LogitKD.* -1"),
        (ClosedTeacher, LogitKD(class_dim=-1), "the ClosedTeacher has class_dim=1"),
        (Ensemble, BinaryKD(), r"among classes, and BinaryKD\(.*\) has none"),
        (softmaxed, LogitKD(class_dim=-1), "the teacher returns probabilities"),
        (None, CrossEntropy(class_dim=-1), "the student returns probabilities"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(teacher, objective, message):
    ids = torch.zeros(2, 3).long()
    net, other = (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, K)) for _ in range(2))
    if teacher is None:
        net.append(nn.Softmax(dim=-1))
    asked = {} if teacher is None else {"teacher": teacher(other)}
    with pytest.raises(ArgumentError, match=message):
        fit(net, [(ids, ids)], objective, **asked, **KNOBS)


def test_weights_of_samples_are_those_of_their_places():
    student, teacher, target, _, _ = example_of((3, 4, K), -1)
    weight = torch.tensor([1.0, 0.0, 0.5])
    lesson = Lesson(Outputs(logits=student), target, Outputs(logits=teacher), weight=weight)
    whole = Lesson(
        *(lesson.student, target, lesson.teacher), weight=weight[:, None].expand(target.shape)
    )
    soft = replace(lesson, target=teacher.softmax(dim=-1))
    for term in (LogitKD(class_dim=-1), CrossEntropy(class_dim=-1)):
        assert term.loss(lesson) == term.loss(whole)
        assert term.count(lesson) == term.count(soft) == 6
    each = CrossEntropy(class_dim=-1).loss(soft)
    weights = whole.weight
    assert each == CrossEntropy(class_dim=-1).loss(replace(soft, weight=weights))


def test_the_term_on_labels_judges():
    words = CrossEntropy(class_dim=-1, ignore_index=-100)
    kd = LogitKD(class_dim=-1, mask="attention_mask")
    assert judge_of(kd + words) is words
    assert judge_of(kd + WarmUp(kd, steps=3)) is kd
    assert judge_of(WarmUp(words, steps=3) + LogitKD()) is words


@pytest.mark.parametrize(
    ("objective", "batch", "message"),
    [
        (
            LogitKD(class_dim=-1, mask="maks"),
            None,
            "mask must name an entry of the inputs, got 'maks'",
        ),
        (CrossEntropy(), None, r"torch.int64 of shape \(3, 5\), or probabilities"),
        (CrossEntropy(class_dim=-1), None, r"or be -1 where there is none, got values from -100"),
        (DecoupledKD(class_dim=-1), None, "train has samples without labels, which Decoupled"),
        (LogitKD(class_dim=3), None, "class_dim must be an integer from -2 to 2, got 3"),
        (LogitKD(class_dim=-1), (3, 4, 1), r"weight must have shape \(3, 4\)"),
    ],
)
def test_what_does_not_fit_is_named(objective, batch, message):
    net, other = (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, K)) for _ in range(2))
    ids = torch.randint(9, (3, 4), generator=data.replay(0))
    target = (ids % K).masked_fill(ids > 6, -100)
    assert (target == -100).any()
    row = (ids, target) if batch is None else (ids, target, torch.ones(batch))
    asked = {"teacher": other} if objective.needs_teacher else {}
    with pytest.raises(ArgumentError, match=message):
        fit(net, [row], objective, **asked, **KNOBS)


@pytest.mark.parametrize(
    "term",
    [CrossEntropy(mask="mask"), AttentionRelation(["layer"], heads=1, mask="mask")],
    ids=["predictions", "tokens"],
)
@pytest.mark.parametrize(("mask", "told"), [(None, "None"), ([[1, 0]], "list")], ids=["no", "list"])
def test_a_mask_that_is_no_tensor_is_named(term, mask, told):
    shown = Outputs(logits=torch.zeros(2, K), features={"layer": torch.zeros(2, 3, 4)})
    lesson = Lesson(shown, torch.zeros(2).long(), shown, inputs={"x": torch.zeros(2), "mask": mask})
    with pytest.raises(ArgumentError, match=f"tensor among the inputs, got 'mask', .* {told}"):
        term.loss(lesson)


@pytest.mark.parametrize(
    ("forgetful", "told"),
    [
        (LogitKD(2), r"in dimension 1 for LogitKD.*, and in dimension 2 for labels \(3, 4\)"),
        (TTM(2) + CrossEntropy(class_dim=-1, ignore_index=-100), "for TTM.* 2 for CrossEntropy"),
        (CrossEntropy(class_dim=-1, ignore_index=-100) + WarmUp(LogitKD(2), 3), "1 for WarmUp"),
        (HardDistillation() + LogitKD(class_dim=2), "1 for HardDistillation.* 2 for LogitKD"),
    ],
)
def test_a_term_that_was_not_told_where_the_classes_are(forgetful, told):
    net, other = (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, K)) for _ in range(2))
    ids = torch.randint(9, (3, 4), generator=data.replay(0))
    with pytest.raises(ArgumentError, match=told) as refused:
        fit(net, [(ids, ids % K)], forgetful, teacher=other, **KNOBS)
    assert refused.value.argument == "objective"


def test_classes_may_be_said_to_lie_last_or_in_their_dimension():
    net, other = (nn.Linear(4, K) for _ in range(2))
    batch = drawn(8, 4).float(), torch.arange(8) % K
    fit(net, [batch], CrossEntropy(class_dim=-1) + LogitKD(2), teacher=other, **KNOBS)


@pytest.mark.parametrize("values", [(0.0, -math.inf), (1, 2), (1.0, math.nan)], ids=repr)
@pytest.mark.parametrize("term", [CrossEntropy, LogitKD, WTTM])
def test_a_mask_of_other_numbers_than_0_and_1(term, values):
    """One that is added to scores, say, would count the padding and nothing else."""
    student, teacher, target, _, _ = example_of((3, 4, K), -1)
    mask = torch.tensor(values)[(torch.arange(12) % 2).view(3, 4)]
    both = Outputs(logits=student), target, Outputs(logits=teacher)
    with pytest.raises(ArgumentError, match="mask must hold 0 and 1 only"):
        term(class_dim=-1, mask="own").loss(Lesson(*both, inputs={"own": mask}))


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 4, K)], ids=str)
@pytest.mark.parametrize("term", [CrossEntropy, LogitKD, WTTM])
def test_a_mask_of_another_shape_than_the_places(term, shape):
    student, teacher, target, _, _ = example_of((3, 4, K), -1)
    both = Outputs(logits=student), target, Outputs(logits=teacher)
    lesson = Lesson(*both, inputs={"own": torch.ones(shape)})
    with pytest.raises(ArgumentError, match=r"entry of shape \(3, 4\).* got 'own', which is \(3,"):
        term(class_dim=-1, mask="own").loss(lesson)


def vision_transformer(width):
    sizes = {"image_size": 28, "patch_size": 7, "num_layers": 2, "num_heads": 2, "num_classes": 10}
    return torchvision.models.VisionTransformer(hidden_dim=width, mlp_dim=2 * width, **sizes)


def clothes():
    return [
        (pixels.expand(-1, 3, -1, -1).double(), target)
        for pixels, target in data.fashion_mnist().train[:24].batches(12)
    ]


def gpt2(width):
    sizes = {"vocab_size": 128, "n_positions": 16, "n_embd": width, "n_layer": 1, "n_head": 2}
    sizes |= {"bos_token_id": None, "eos_token_id": None}
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **quiet))


def text():
    """A batch for each two lines, whose labels are the next characters."""
    batches = []
    for pair in (("a teacher says", "a pupil"), ("more", "than a label")):
        rows = [torch.tensor(list(line.encode())) for line in pair]
        length = max(map(len, rows))
        padded = torch.stack([F.pad(row, (0, length - len(row))) for row in rows])
        mask = (padded > 0).long()
        labels = padded[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        shown = {"input_ids": padded[:, :-1], "attention_mask": mask[:, :-1], "labels": labels}
        batches.append(shown)
    return batches


def deeplab(width):
    """Returns a dictionary, with the pixels' logits under a name of torchvision's own."""
    options = {"weights": None, "weights_backbone": None, "num_classes": 3}
    return torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(**options)


def convolutional(width):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 1))


def segments():
    """Squares on a ground, with a border that nobody has labelled."""
    draw, batches = data.replay(0), []
    for _ in range(2):
        target = torch.zeros(4, 32, 32, dtype=torch.int64)
        for number, (row, column) in enumerate(torch.randint(4, 16, (4, 2), generator=draw)):
            target[number, row - 1 : row + 9, column - 1 : column + 9] = 255
            target[number, row : row + 8, column : column + 8] = 1 + number % 2
        images = torch.randn(4, 3, 32, 32, generator=draw, dtype=torch.float64)
        images[:, 0] += target.masked_fill(target == 255, 0)
        batches.append((images, target))
    return batches


TASKS = {
    "a vision transformer": (vision_transformer, vision_transformer, clothes, {}),
    "a language model": (gpt2, gpt2, text, {"class_dim": -1, "ignore_index": -100}),
    "segmentation": (convolutional, deeplab, segments, {"ignore_index": 255}),
}


@pytest.mark.parametrize("name", TASKS)
def test_one_call_distils(name):
    smaller, larger, make, at = TASKS[name]
    batches, class_dim, ignored = make(), at.get("class_dim", 1), at.get("ignore_index", -1)
    torch.manual_seed(0)
    student, teacher = smaller(8).double(), larger(16).double().eval()
    inputs, target = read_batch(batches[0], "train")
    with torch.no_grad():
        s, t = (call(net, inputs, "net") for net in (student, teacher))
    counted = (target != ignored).double()
    assert name == "a vision transformer" or 0 < counted.mean() < 1
    kd = test_predictions.naive(by_hand.naive_forward, s, t, target, class_dim, weight=counted)
    labels = naive_labels(s, target, class_dim, counted)

    objective = CrossEntropy(**at) + 4.0 * LogitKD(2.0, **at)
    history = fit(student, batches, objective, teacher=teacher, learning_rate=0.0, steps=1, **QUIET)
    assert history.last["logit_kd"] == pytest.approx(kd, rel=1e-6)
    assert history.last["cross_entropy"] == pytest.approx(labels, rel=1e-6)
    predicted = s.argmax(dim=class_dim)[counted > 0]
    right = (predicted == target[counted > 0]).double().mean().item()
    assert history.last["train_accuracy"] == pytest.approx(right)
    rated = {"validation": batches[:1], "epochs": 4, "learning_rate": 0.02, **QUIET}
    history = fit(student, batches, objective, teacher=teacher, **rated)
    assert history["loss"][-1] < history["loss"][0]
    assert set(history.last) >= {"validation_accuracy", "logit_kd"}


def test_a_student_of_another_librarys_kind_for_pixels():
    batches = [(images.float(), target) for images, target in segments()]
    at = {"ignore_index": 255}
    history = fit(
        deeplab(0),
        batches,
        CrossEntropy(**at) + LogitKD(**at),
        teacher=convolutional(4),
        steps=2,
        validation=batches[:1],
        metrics={"iou": torchmetrics.JaccardIndex("multiclass", num_classes=3, ignore_index=255)},
        **QUIET,
    )
    assert 0 <= history.last["validation_iou"] <= 1


def test_many_labels_and_quantities():
    draw = partial(drawn, 64, 3)
    inputs = draw(seed=5).float()
    known = [((inputs > 0.5).float(), BinaryCrossEntropy() + BinaryKD(2.0), "accuracy")]
    known.append((inputs @ draw(seed=6)[:3].float(), MeanSquared() + RegressionKD(), "r2"))
    for target, objective, measure in known:
        student, teacher = nn.Linear(3, 3), nn.Linear(3, 3)
        batches = list(zip(inputs.split(16), target.split(16), strict=True))
        rate = {"epochs": 20, "learning_rate": 0.05}
        fit(teacher, batches, objective.parts()[0][1], **rate, **QUIET)
        rated = {"validation": (inputs, target), "keep": "best", **rate}
        history = fit(student, batches, objective, teacher=teacher, **rated, **QUIET)
        assert history.kept[f"validation_{measure}"] > 0.85
        assert history.kept[f"validation_{measure}"] == max(history[f"validation_{measure}"])


class Missed:
    """How many are wrong: less is better."""

    higher_is_better = False

    def reset(self):
        self.count = 0

    def update(self, predictions, target):
        assert predictions.shape == (*target.shape[:1], K, *target.shape[1:])
        self.count += int((predictions.argmax(dim=1) != target).sum())

    def compute(self):
        return self.count


def test_weights_are_kept_by_the_first_metric():
    ids = torch.randint(9, (6, 4), generator=data.replay(0))
    batch = ids, ids % K
    torch.manual_seed(1)
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, K))
    found = []
    history = fit(
        net,
        [batch],
        CrossEntropy(class_dim=-1),
        validation=[batch],
        metrics={"missed": Missed()},
        keep="best",
        epochs=6,
        learning_rate=1.0,
        log=lambda _: found.append(weights(net)),
        **QUIET,
    )
    missed = history["validation_missed"]
    assert missed == [pytest.approx(24 * (1 - right)) for right in history["validation_accuracy"]]
    assert history.kept["validation_missed"] == min(missed)
    assert same(weights(net), found[missed.index(min(missed))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": {"iou": torchmetrics.JaccardIndex}}, "the metric iou must have update"),
        ({"metrics": {"one": 1}}, "the metric one must have update, compute and reset"),
        ({"metrics": {"missed": Missed()}, "validation": None}, "metrics need a validation set"),
        (
            {"metrics": {"iou": torchmetrics.classification.MulticlassJaccardIndex(2)}},
            "the metric iou fails on predictions",
        ),
        ({"validation": [(torch.zeros(2, 3).long(), torch.zeros(2).long())]}, r"shape \(2, 3\)"),
    ],
)
def test_what_cannot_be_measured_is_named(options, message):
    net, ids = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, K)), torch.zeros(2, 3).long()
    given = {"validation": [(ids, ids)], **options}
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        fit(net, [(ids, ids)], CrossEntropy(class_dim=-1), **given, **KNOBS)
