"""The weights of the literature's trainings: with the losses as their authors write them."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdcourse import data, models
from kdcourse.train import recipes
from kdcourse.train.language import Reader
from kdcourse.train.options import Options
from kdcourse.train.plan import prepare
from kdcourse.training import Lesson, Outputs

RESNETS, WIDE, VGGS = "resnet56-resnet20", "wrn-40-2-wrn-16-2", "vgg13-vgg8"
MOBILE = "resnet50-mobilenetv2"


def judged(name, method):
    """Return the recipe's loss of 64 random images, and all that the untrained nets showed."""
    settings = recipes.load(name, method).settings
    made = prepare(Options(**settings, device="cpu"), need_weights=False)
    inputs = torch.randn(64, 3, 32, 32, generator=data.replay(0))
    target = torch.arange(64) % 10
    with torch.no_grad():
        student = shown(made.student, inputs, made.objective.student_layers)
        teacher = shown(made.teacher, inputs, made.objective.teacher_layers)
        loss, _ = made.objective.eval()(Lesson(student, target, teacher))
    return loss.item(), student, teacher, F.cross_entropy(student.logits, target).item(), made


def shown(model, inputs, layers):
    with models.capture(model.eval(), layers) as features:
        return Outputs(logits=model(inputs), features=features)


@pytest.mark.parametrize("name", [RESNETS, WIDE])
def test_rkd_has_the_authors_means(name):
    loss, student, teacher, labels, _ = judged(name, "rkd")

    def relations(outputs):
        embedding = outputs.features["embedding"].double()
        apart = embedding[None] - embedding[:, None]  # (N, N, D)
        distance = apart.norm(dim=2)
        unit = F.normalize(apart, dim=2)
        return distance / distance[distance > 0].mean(), unit @ unit.transpose(1, 2)

    pairs = zip(relations(student), relations(teacher), strict=True)
    distance, angle = (F.smooth_l1_loss(own, theirs).item() for own, theirs in pairs)
    assert loss == pytest.approx(labels + 25 * distance + 50 * angle, rel=1e-5)


@pytest.mark.parametrize("name", [RESNETS, WIDE])
def test_attention_and_similarity_have_the_authors_means(name):
    loss, student, teacher, labels, _ = judged(name, "attention")
    expected = labels
    for own, theirs in zip(student.features.values(), teacher.features.values(), strict=True):
        maps = [F.normalize(f.pow(2).mean(1).flatten(1)) for f in (own, theirs)]
        expected += 1000 * (maps[0] - maps[1]).pow(2).mean().item()
    assert len(student.features) == 3
    assert loss == pytest.approx(expected, rel=1e-5)

    loss, student, teacher, labels, _ = judged(name, "similarity")
    gram = []
    for outputs in (student, teacher):
        (rows,) = (f.flatten(1).double() for f in outputs.features.values())
        gram.append(F.normalize(rows @ rows.T))
    expected = labels + 3000 * (gram[0] - gram[1]).pow(2).sum().item() / 64**2
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_last_stage_of_a_wide_net_is_taken_before_its_batch_norm():
    *_, made = judged(WIDE, "similarity")
    for net, (layer,) in (
        (made.student, made.objective.student_layers),
        (made.teacher, made.objective.teacher_layers),
    ):
        following = net.stage3[int(layer.removeprefix("stage3.")) + 1 :]
        assert [type(module).__name__ for module in following] == ["BatchNorm2d", "ReLU"]


@pytest.mark.parametrize(("name", "beta"), [(RESNETS, 2), (WIDE, 6)])
def test_logit_methods_have_the_authors_weights(name, beta):
    loss, student, teacher, labels, _ = judged(name, "kd")
    own, theirs = (F.log_softmax(o.logits.double() / 4, dim=1) for o in (student, teacher))
    divergence = 16 * F.kl_div(own, theirs, reduction="batchmean", log_target=True).item()
    assert loss == pytest.approx(0.1 * labels + 0.9 * divergence, rel=1e-5)

    loss, *_, made = judged(name, "dkd")
    (one, _), (other, rising) = made.objective.parts()
    term = rising.term
    assert (one, other, term.alpha, term.beta, term.temperature) == (1, 1, 1, beta, 4)
    assert rising.steps == 20 * math.ceil(50000 / 64)
    assert rising.taken == 0
    assert loss == pytest.approx(labels)  # at the very beginning


def test_standardised_logits_have_the_authors_weights():
    loss, student, teacher, labels, _ = judged(RESNETS, "standardized")

    def scores(outputs):
        logits = outputs.logits.double()
        return (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True)

    own, theirs = (F.log_softmax(scores(outputs) / 2, dim=1) for outputs in (student, teacher))
    divergence = 4 * F.kl_div(own, theirs, reduction="batchmean", log_target=True).item()
    assert loss == pytest.approx(0.1 * labels + 9 * divergence, rel=1e-5)


def test_dist_has_the_authors_weights():
    loss, student, teacher, labels, _ = judged(RESNETS, "dist")
    own, theirs = (F.softmax(outputs.logits.double() / 4, dim=1) for outputs in (student, teacher))

    def apart(rows, others):
        pairs = zip(rows, others, strict=True)
        return sum(1 - torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in pairs)

    expected = apart(own, theirs) / 64 + apart(own.T, theirs.T) / 100
    assert loss == pytest.approx(labels + 2 * 16 * expected, rel=1e-4)


@pytest.mark.parametrize("name", [RESNETS, WIDE, VGGS])
def test_fsp_has_the_authors_means(name):
    loss, student, teacher, *_ = judged(name, "fsp-first")

    def flows(outputs):
        maps = [one.double() for one in outputs.features.values()]
        for one, other in pairwise(maps):
            size = min(one.shape[2:], other.shape[2:])
            one, other = (F.adaptive_avg_pool2d(z, size).flatten(2) for z in (one, other))
            yield one @ other.mT / one.shape[2]

    pairs = zip(flows(student), flows(teacher), strict=True)
    expected = [F.mse_loss(own, theirs).item() for own, theirs in pairs]
    assert len(expected) == (4 if name == VGGS else 3)
    assert loss == pytest.approx(sum(expected), rel=1e-4)


def test_simkd_compares_what_the_teachers_classifier_reads():
    loss, student, teacher, _, made = judged("resnet32x4-resnet8x4", "simkd")
    own, theirs = student.features["projection"], teacher.features["stage3"]
    assert loss == pytest.approx(F.mse_loss(own, theirs).item(), rel=1e-5)
    assert made.student.projection[0].out_channels == 256 // 2
    whole, head = models.resnet(8, widen=4), nn.Linear(256, 100)
    without = models.count_parameters(whole) - models.count_parameters(head)
    assert models.count_parameters(made.student.body) == without


def test_crd_has_the_authors_weights():
    *_, made = judged(RESNETS, "crd")
    (one, _), (other, term) = made.objective.parts()
    found = one, other, term.width, term.memory, term.temperature
    assert found == (1, 0.8, 128, 16384, 0.07)


def test_a_hint_is_projected_as_in_the_authors_code():
    loss, student, teacher, labels, made = judged(WIDE, "hint")
    hint = made.objective.terms[1].hint
    assert [type(part).__name__ for part in hint.nonlinearity] == ["BatchNorm2d", "ReLU"]
    assert hint.projection.kernel_size == (1, 1)
    projected = hint.nonlinearity(hint.projection(student.features["stage2"]))
    expected = labels + 100 * F.mse_loss(projected, teacher.features["stage2"]).item()
    assert loss == pytest.approx(expected, rel=1e-5)


# --- of random logits and features, in float64


def said(name, method, own, theirs):
    """Return a recipe's objective, and a lesson of 64 samples with layers of such shapes."""
    objective = Reader(recipes.load(name, method).settings["loss"], {}, "terms").made
    generator = data.replay(0)

    def outputs(layers, shape):
        logits = 3 * torch.randn(64, 100, generator=generator, dtype=torch.float64)
        features = {
            layer: 3 * torch.randn(64, *shape, generator=generator, dtype=torch.float64)
            for layer in layers
        }
        return Outputs(logits=logits, features=features)

    student, teacher = (
        outputs(objective.student_layers, own),
        outputs(objective.teacher_layers, theirs),
    )
    lesson = Lesson(student, torch.arange(64) % 10, teacher)
    objective.prepare(lesson, steps_an_epoch=782)
    return objective.eval(), lesson


def distilled(objective, lesson, labels=1):
    """Return what a recipe adds to the labels, which count so much."""
    loss, _ = objective(lesson)
    return (loss - labels * F.cross_entropy(lesson.student_logits, lesson.target)).item()


def layers_of(lesson):
    shown = lesson.student.features.values(), lesson.teacher.features.values()
    return list(zip(*shown, strict=True))


@pytest.mark.parametrize(("name", "stages"), [(RESNETS, 3), (WIDE, 3), (VGGS, 4)])
def test_vid_has_the_authors_mean(name, stages):
    objective, lesson = said(name, "vid", (6, 4, 4), (8, 4, 4))
    expected, terms = 0, objective.terms[1:]
    assert len(terms) == stages
    for term, (own, theirs) in zip(terms, layers_of(lesson), strict=True):
        guess = term.hint
        mean = guess.nonlinearity(guess.projection(own))
        variance = (1 + guess.alpha.exp()).log()[:, None, None] + 1e-5
        assert variance.detach().flatten().tolist() == pytest.approx([5] * 8)
        expected += (((mean - theirs) ** 2 / variance + variance.log()) / 2).mean().item()
    assert distilled(objective, lesson) == pytest.approx(expected)


@pytest.mark.parametrize(("name", "stages"), [(RESNETS, 3), (WIDE, 3), (VGGS, 4)])
def test_nst_has_the_authors_mean(name, stages):
    objective, lesson = said(name, "nst", (6, 4, 4), (8, 4, 4))

    def kernel(one, other):
        return (one @ other.mT).pow(2).mean().item()

    expected, pairs = 0, layers_of(lesson)
    assert len(pairs) == stages
    for pair in pairs:
        own, theirs = (F.normalize(maps.flatten(2), dim=2) for maps in pair)
        expected += 50 * (kernel(theirs, theirs) + kernel(own, own) - 2 * kernel(own, theirs))
    assert distilled(objective, lesson) == pytest.approx(expected)


def test_pkt_has_the_authors_weight():
    objective, lesson = said(RESNETS, "pkt", (6,), (8,))
    ((own, theirs),) = layers_of(lesson)

    def authors(among):
        def picks(embedding):
            unit = F.normalize(embedding)
            alike = (unit @ unit.T + 1) / 2 * among
            return alike / alike.sum(dim=1, keepdim=True)

        p, q = picks(theirs) + 1e-7, picks(own) + 1e-7
        return 30000 * (p * (p / q).log()).mean().item()

    found = distilled(objective, lesson)
    assert found == pytest.approx(authors(1 - torch.eye(64)), rel=1e-3)
    # Theirs, in which a sample may pick itself, which is one of 64.
    assert found == pytest.approx(authors(torch.ones(64, 64)), rel=0.05)


TRANSFORMED = {  # γ, and the weights of TTM and WTTM
    RESNETS: (0.3, 7, 1.5),
    "resnet110-resnet32": (0.1, 33, 1.5),
    WIDE: (0.1, 101, 4),
    "resnet32x4-resnet8x4": (0.1, 100, 3),
    VGGS: (0.1, 45, 2.25),
    MOBILE: (0.2, 20, 5),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transformed_teachers_have_the_authors_weights(name):
    gamma, plain, weighted = TRANSFORMED[name]
    for method in ("ttm", "wttm"):
        objective, lesson = said(name, method, (), ())
        power = F.softmax(lesson.teacher_logits, dim=1).pow(gamma)
        total = power.sum(dim=1, keepdim=True)
        log_p = F.log_softmax(lesson.student_logits, dim=1)
        each = F.kl_div(log_p, power / total, reduction="none").sum(dim=1)
        expected = plain * each if method == "ttm" else weighted * total[:, 0] * each
        assert distilled(objective, lesson) == pytest.approx(expected.mean().item())


def test_ctkd_has_the_authors_weights_and_temperature():
    objective, lesson = said(RESNETS, "ctkd", (), ())
    tau = 1 + 20 / (1 + math.exp(-1))
    logits = lesson.student_logits, lesson.teacher_logits
    own, theirs = (F.log_softmax(one / tau, dim=1) for one in logits)
    expected = 0.9 * tau**2 * F.kl_div(own, theirs, reduction="batchmean", log_target=True).item()
    assert distilled(objective, lesson, labels=0.1) == pytest.approx(expected)
    assert objective.terms[1].steps == 10 * 782


@pytest.mark.parametrize(("name", "scales", "size"), [(VGGS, (1, 2), 4), (MOBILE, (1, 2, 4), 2)])
def test_sdd_has_the_authors_mean_over_cells(name, scales, size):
    objective, lesson = said(name, "sdd", (100, size, size), (100, 4, 4))

    def cells(logits):
        quarters = F.adaptive_avg_pool2d(logits, 4)
        found = [F.adaptive_avg_pool2d(quarters, scale).flatten(2) for scale in scales]
        return torch.cat(found, dim=2)  # (N, K, cells)

    ((own, theirs),) = [[cells(logits) for logits in pair] for pair in layers_of(lesson)]
    found = theirs.argmax(dim=1)
    right = found == found[:, :1]  # for labels that the teacher knows
    log_q, p = F.log_softmax(own / 4, dim=1), F.softmax(theirs / 4, dim=1)
    each = 16 * F.kl_div(log_q, p, reduction="none").sum(dim=1) * torch.where(right, 1, 2)
    assert distilled(objective, lesson, labels=0.1) == pytest.approx(0.9 * each.mean().item())


@pytest.mark.parametrize(("name", "weight"), [(RESNETS, 0.6), ("resnet110-resnet32", 1), (WIDE, 5)])
def test_review_has_the_authors_weight(name, weight):
    objective, _ = said(name, "review", (6, 4, 4), (8, 4, 4))
    (one, _), (other, rising) = objective.parts()
    assert (one, other, rising.steps, len(rising.term.fusions)) == (1, weight, 20 * 782, 4)


@pytest.mark.parametrize("name", [RESNETS, WIDE])
def test_the_reviewed_stages_of_a_teacher_are_taken_before_relu(name):
    _, student, teacher, _, made = judged(name, "review")
    *stages, embedding = teacher.features.values()
    assert len(stages) == 3
    assert all(stage.min() < 0 for stage in stages)
    assert embedding.min() >= 0
    *own, _ = student.features.values()
    assert all(stage.min() >= 0 for stage in own) == (name == RESNETS)
    if name == RESNETS:
        with models.capture(made.teacher, ["stage1", "stage1.-1.sum"]) as shown:
            made.teacher(torch.randn(2, 3, 32, 32))
        assert torch.equal(shown["stage1"], shown["stage1.-1.sum"].relu())


@pytest.mark.parametrize(("name", "weight"), [(RESNETS, 1), ("resnet32x4-resnet8x4", 3.5)])
def test_nd_has_the_authors_weights(name, weight):
    objective, _ = said(name, "nd", (8,), (8,))
    (one, _), (other, rising), (last, direction) = objective.parts()
    assert (one, other, last) == (1, weight, 2)
    assert (rising.steps, rising.term.temperature) == (20 * 782, 4)
    assert direction.projection is None
