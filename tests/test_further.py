import math

import pytest
import torch
from torch import nn
from toys import CLASSES, images, net, same, train, weights

from kdcourse import metrics
from kdcourse.further import (
    SEED,
    GeneratedImages,
    Generator,
    generator_loss,
    seed_loss,
)
from kdcourse.training import LogitKD, fit


def drawn(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def test_seed_is_the_formula():
    student, teacher, queue = drawn((3, 5), (3, 5), (7, 5))
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        others = [t, *queue]
        a = torch.stack([torch.cosine_similarity(t, o, dim=0) / 0.1 for o in others])
        b = torch.stack([torch.cosine_similarity(s, o, dim=0) / 0.2 for o in others])
        p, q = a.exp() / a.exp().sum(), b.exp() / b.exp().sum()
        total -= float((p * q.log()).sum()) / 3
    assert float(seed_loss(student, teacher, queue, teacher_temperature=0.1)) == pytest.approx(
        total
    )


def test_seed_sends_no_gradient_to_the_teacher():
    student, teacher, queue = (t.requires_grad_() for t in drawn((3, 4), (3, 4), (5, 4)))
    seed_loss(student, teacher, queue).backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert queue.grad is None
    assert torch.autograd.gradcheck(
        lambda s: seed_loss(s, teacher.detach(), queue.detach(), teacher_temperature=0.5),
        (student.detach().requires_grad_(),),
    )


def test_an_embedding_of_zeros_gets_no_gradient():
    student, teacher, queue = drawn((3, 4), (3, 4), (5, 4))
    student = student.detach().clone()
    student[1] = 0
    student.requires_grad_()
    seed_loss(student, teacher, queue).backward()
    assert torch.equal(student.grad[1], torch.zeros_like(student.grad[1]))
    assert student.grad[[0, 2]].abs().amin(1).gt(0).all()


def test_seed_sees_directions_only():
    student, teacher, queue = drawn((3, 4), (3, 4), (5, 4))
    value = seed_loss(student, teacher, queue)
    torch.testing.assert_close(seed_loss(3 * student, 2 * teacher, 5 * queue), value)


def test_seed_is_least_where_the_student_is_its_teacher():
    student, teacher, queue = drawn((6, 4), (6, 4), (50, 4))
    options = {"student_temperature": 0.1, "teacher_temperature": 0.1}
    assert seed_loss(teacher, teacher, queue, **options) < seed_loss(
        student, teacher, queue, **options
    )


@pytest.mark.parametrize(
    ("shapes", "options", "name"),
    [
        (((3, 4), (2, 4), (5, 4)), {}, "embeddings"),
        (((3, 4), (3, 5), (5, 4)), {}, "embeddings"),
        (((4,), (4,), (5, 4)), {}, "student_embeddings"),
        (((3, 4), (3, 4), (5, 4)), {"student_temperature": 0.0}, "student_temperature"),
        (((3, 4), (3, 4), (5, 4)), {"teacher_temperature": -1.0}, "teacher_temperature"),
    ],
)
def test_seed_names_bad_input(shapes, options, name):
    with pytest.raises(ValueError, match=name):
        seed_loss(*drawn(*shapes), **options)


def test_the_queue_holds_the_latest_embeddings():
    term = SEED(8, 16, length=40)
    student, teacher = net(2), net(4, seed=2)
    data = images(32).unlabelled()
    history = train(student, term, teacher=teacher, train=data, batch_size=16, epochs=2)
    said = metrics.embed(teacher, data)
    for row in term.queue[:32]:  # the last epoch showed every image
        assert float((said - row).abs().amax(dim=1).min()) < 1e-5
    assert len(term.queue) == 40
    assert history["seed"][1] > 0


def test_seed_moves_the_student_and_its_projection_and_not_the_teacher():
    student, teacher, term = net(2), net(4, seed=2), SEED(8, 16, length=64)
    before = weights(student), weights(teacher), weights(term.projection)
    train(student, term, teacher=teacher, train=images(32).unlabelled())
    assert not same(weights(student), before[0])
    assert same(weights(teacher), before[1])
    assert not same(weights(term.projection), before[2])


def test_seed_takes_layers_by_name():
    term = SEED(72, 18, layer=("stage1", "stage2"), hidden=4, length=8)
    loss = train(net(2), term, teacher=net(1, seed=2), epochs=1)["seed"][0]
    assert math.isfinite(loss)


# --- without data


def test_the_generators_loss_is_the_formula():
    logits, features = drawn((6, 4), (6, 3, 2, 2))
    p = logits.softmax(dim=1)
    sure = -sum(float(row.max().log()) for row in p) / 6
    mean = p.mean(dim=0)
    entropy = -float((mean * mean.log()).sum())
    expected = sure - 5 * entropy - 0.1 * float(features.abs().mean())
    assert float(generator_loss(logits, features)) == pytest.approx(expected)


def test_the_authors_entropy_is_in_decimal_digits():
    logits, features = drawn((6, 4), (6, 3, 2, 2))
    p = logits.softmax(dim=1)
    sure = -math.fsum(math.log(max(row)) for row in p.tolist()) / 6
    entropy = -math.fsum(q * math.log10(q) for q in p.mean(dim=0).tolist())
    active = math.fsum(map(abs, features.flatten().tolist())) / features.numel()
    theirs = 1 * sure - 5 * entropy - 0.1 * active
    ours = generator_loss(logits, features, balance=5 / math.log(10))
    assert float(ours) == pytest.approx(theirs, rel=1e-12)
    # Ours by default: the same but for an entropy that counts ln 10 = 2.303 times as much.
    more = 5 * (math.log(10) - 1) * entropy
    assert float(generator_loss(logits, features)) == pytest.approx(theirs - more, rel=1e-12)


def test_sure_and_balanced_predictions_cost_least():
    features = torch.zeros(4, 1)
    sure, torn = 50 * torch.eye(4), torch.zeros(4, 4)
    alike = sure[[0] * 4]
    least = float(generator_loss(sure, features))
    assert least < float(generator_loss(torn, features))
    assert least < float(generator_loss(alike, features))


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (1, 12)])
def test_a_generator_makes_inputs(channels, size):
    made = Generator(8, 4, channels, size)(torch.randn(20, 8)).detach()
    assert made.shape == (20, channels, size, size)
    assert float(made.mean()) == pytest.approx(0, abs=1e-3)
    assert float(made.var()) == pytest.approx(1, abs=1e-2)
    assert same(weights(Generator(8, 4, seed=1)), weights(Generator(8, 4, seed=1)))


@pytest.mark.parametrize("statistics", [0.0, 1.0])
def test_a_student_learns_on_generated_images_only(statistics):
    teacher = net(4, seed=9)
    train(teacher, epochs=4)
    teacher.zero_grad()
    before = weights(teacher)
    generated = GeneratedImages(
        Generator(8, 4, size=12), teacher, "embedding", steps=10, statistics=statistics
    )
    student = net(seed=1)
    start = weights(student)
    history = fit(
        student,
        generated,
        LogitKD(4),
        teacher=teacher,
        epochs=3,
        device="cpu",
        progress=False,
    )
    assert len(history) == 3
    assert "train_accuracy" not in history.last
    assert sum(generated.losses[-5:]) < sum(generated.losses[:5])
    assert not same(weights(student), start)
    assert same(weights(teacher), before)
    assert all(p.requires_grad for p in teacher.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_what_it_makes_can_be_looked_at():
    generator = Generator(8, 4, size=12)
    made = GeneratedImages(generator, net(4), "embedding", seed=3)
    before, mode = weights(generator), generator.training
    shown = made.show(5)
    assert shown.shape == (5, 1, 12, 12)
    assert not shown.requires_grad
    assert same(weights(generator), before)
    assert generator.training == mode
    assert made.losses == []


def test_generator_and_student_work_where_the_teacher_is(device):
    teacher, generator = net(4).to(device), Generator(8, 4, size=12)
    made = GeneratedImages(generator, teacher, "embedding", steps=2, batch_size=4)
    student = net()
    fit(student, made, LogitKD(4), teacher=teacher, epochs=1, device=device, progress=False)
    assert made.show(2).device.type == torch.device(device).type


def test_a_frozen_weight_stays_frozen():
    teacher = net(4)
    teacher.classifier.bias.requires_grad_(False)
    next(iter(GeneratedImages(Generator(8, 4, size=12), teacher, "embedding")))
    assert [p.requires_grad for p in teacher.classifier.parameters()] == [True, False]


def test_statistics_that_agree_cost_nothing():
    teacher = nn.Sequential(nn.BatchNorm2d(1, momentum=None), nn.Flatten(), nn.Linear(144, CLASSES))
    generator = Generator(8, 4, size=12)
    judged = {}
    for weight in (0.0, 10.0):
        generated = GeneratedImages(generator, teacher, "2", statistics=weight)
        torch.manual_seed(0)
        noise = torch.randn(64, 8)
        with torch.no_grad():  # the generator's last layer already gives mean 0 and deviation 1
            judged[weight] = float(generated._judge(generator(noise)))
    assert judged[10.0] == pytest.approx(judged[0.0], abs=1e-3)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Generator(0), "noise"),
        (lambda: Generator(size=30), "size"),
        (lambda: SEED(0, 4), "student_width"),
        (lambda: SEED(4, 0), "teacher_width"),
        (lambda: SEED(4, 4, length=0), "length"),
        (lambda: GeneratedImages(Generator(), net(), "embedding", steps=0), "steps"),
        (lambda: GeneratedImages(Generator(), net(), "embedding", batch_size=1), "batch_size"),
        (lambda: GeneratedImages(Generator(), net(), "embedding", statistics=-1.0), "statistics"),
    ],
)
def test_bad_settings_are_named(make, name):
    with pytest.raises(ValueError, match=name):
        make()
