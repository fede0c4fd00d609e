import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import CLASSES, images, net, same, train, weights

from kdcourse import metrics
from kdcourse.errors import NotFiniteError
from kdcourse.further import (
    SEED,
    GeneratedImages,
    Generator,
    generator_loss,
    seed_loss,
)
from kdcourse.models import capture
from kdcourse.training import Lesson, LogitKD, Outputs, fit


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


def test_with_nobody_in_the_queue_there_is_nothing_to_tell():
    student, teacher, nobody = drawn((3, 4), (3, 4), (0, 4))
    assert seed_loss(student, teacher, nobody) == 0


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
        (((3, 4), (4,), (5, 4)), {}, "teacher_embeddings"),
        (((3, 4), (3, 4), (4,)), {}, "queue"),
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


@pytest.mark.parametrize("given", [{}, {"student_temperature": 0.5, "teacher_temperature": 0.3}])
def test_the_term_is_the_loss_with_its_temperatures_then_the_queue_moves(given):
    student, teacher = drawn((3, 5), (3, 6))
    term = SEED(5, 6, length=7, **given).double()
    projected, before = term.projection(student), term.queue.clone()
    temperatures = given or {"student_temperature": 0.2, "teacher_temperature": 0.01}
    expected = seed_loss(projected, teacher, before, **temperatures)
    own, theirs = (Outputs(features={"embedding": shown}) for shown in (student, teacher))
    value = term.loss(Lesson(own, torch.zeros(3).long(), theirs))
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    if not given:
        assert torch.equal(seed_loss(projected, teacher, before), expected)
    assert torch.equal(term.queue, torch.cat([teacher, before[:4]]))


def test_seeds_sizes_and_weights():
    """Widths that are given need no lesson, and no seed of the training."""
    own, theirs = drawn((3, 2, 4), (3, 6))
    shown = (Outputs(features={"embedding": features}) for features in (own, theirs))
    lesson, found, given = (
        Lesson(next(shown), torch.zeros(3).long(), next(shown)),
        SEED(),
        SEED(8, 6),
    )
    assert not found.prepared
    assert not SEED(8).prepared
    assert not SEED(None, 6).prepared
    assert given.prepared
    found.prepare(lesson)
    assert found.prepared
    assert same(weights(found.float()), weights(given))
    assert given.queue.shape == (2048, 6)
    assert [layer.weight.shape for layer in given.projection[::2]] == [(128, 8), (6, 128)]
    assert float(given.queue.mean()) == pytest.approx(0, abs=0.05)
    assert float(given.queue.std()) == pytest.approx(1, abs=0.05)
    other = SEED(teacher_width=6)
    other.prepare(lesson, seed=7)
    assert same(weights(other.float()), weights(SEED(8, 6, seed=7)))
    own_seed = SEED(seed=7)
    own_seed.prepare(lesson, seed=8)
    assert same(weights(own_seed.float()), weights(SEED(8, 6, seed=7)))


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


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (1, 4)])
def test_a_generator_makes_inputs(channels, size):
    made = Generator(8, 4, channels, size)(torch.randn(20, 8)).detach()
    assert made.shape == (20, channels, size, size)
    assert float(made.mean()) == pytest.approx(0, abs=1e-3)
    assert float(made.var()) == pytest.approx(1, abs=1e-2)
    assert same(weights(Generator(8, 4, seed=1)), weights(Generator(8, 4, seed=1)))


def test_a_generator_is_its_layers():
    """In train mode, with other scales and shifts of batch norm than one and zero."""
    generator, noise = Generator(8, 3, 2, 12, seed=5), torch.randn(5, 8)
    for weight in generator.parameters():
        if weight.dim() == 1:
            nn.init.normal_(weight)
    rest = generator.parameters()

    def normed(x, *scale):
        return F.batch_norm(x, None, None, *scale, training=True)

    x = F.linear(noise, next(rest), next(rest)).view(5, 6, 3, 3)
    x = normed(x, next(rest), next(rest))
    for _ in range(2):
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        x = F.conv2d(x, next(rest), next(rest), padding=1)
        x = normed(x, next(rest), next(rest))
        x = torch.where(x > 0, x, 0.2 * x)
    x = normed(F.conv2d(x, next(rest), next(rest), padding=1).tanh())
    torch.testing.assert_close(generator(noise), x)
    assert not list(rest)
    assert [w.shape[0] for w in generator.parameters() if w.dim() == 4] == [6, 3, 2]
    assert same(weights(Generator()), weights(Generator(64, 16, 1, 28, seed=0)))


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


class Overflowing(nn.Module):
    """Outputs that are infinite, for numbers."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, inputs):
        return self.net(inputs) / 0.0


def test_a_loss_that_is_no_number_is_blamed_and_leaves_the_generator_as_it_was():
    generator, teacher = Generator(8, 4, size=12), net(4)
    before = {name: value.clone() for name, value in generator.named_parameters()}

    def told(teacher, layer="embedding", **options):
        with pytest.raises(NotFiniteError) as error:
            next(iter(GeneratedImages(generator, teacher, layer, **options)))
        assert same(before, dict(generator.named_parameters()))
        return error.value.argument

    assert told(Overflowing(teacher), "net.embedding") == "teacher"
    assert told(teacher, loss=lambda logits, features: (logits - logits).sum().log()) == "loss"
    fast = GeneratedImages(generator, teacher, "embedding", learning_rate=1e30, steps=9)
    with pytest.raises(NotFiniteError, match="lower its learning rate"):
        list(fast)


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


@pytest.mark.parametrize("seed", [0, 3])
def test_noise_goes_on_from_batch_to_batch(seed):
    options = {"seed": seed} if seed else {}
    made = GeneratedImages(Generator(8, 4, size=12), net(), "embedding", **options)
    expected = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(torch.cat([made.noise(4), made.noise(4)]), expected)
    assert (len(made), made.batch_size, made.statistics) == (100, 128, 0)
    assert made.optimizer.defaults["lr"] == 0.001
    still = GeneratedImages(
        Generator(8, 4, size=12), net(), "embedding", batch_size=2, steps=2, learning_rate=0.0
    )
    first, second = (batch for batch, _ in still)
    assert not torch.equal(first, second)


def test_images_are_judged_by_a_teacher_in_eval_mode_which_stays_in_its_own():
    teacher = net(4).train()
    twin, before = copy.deepcopy(teacher).eval(), weights(teacher)
    made = GeneratedImages(Generator(8, 4, size=12), teacher, "stage2", batch_size=6)
    images, target = next(iter(made))
    with capture(twin, ["stage2"]) as features, torch.no_grad():
        expected = generator_loss(twin(images), features["stage2"])
    assert made.losses == [pytest.approx(float(expected), rel=1e-5)]
    assert target.tolist() == [-1] * 6
    assert all(module.training for module in teacher.modules())
    assert same(weights(teacher), before)


def test_statistics_are_compared_in_every_channel_of_every_norm():
    first, second = nn.BatchNorm2d(2), nn.BatchNorm2d(3)
    first.running_mean, first.running_var = torch.tensor([1.0, -2]), torch.tensor([4.0, 0.25])
    second.running_mean, second.running_var = torch.tensor([0.0, 1, 2]), torch.tensor([1.0, 2, 9])
    teacher = nn.Sequential(first, nn.Conv2d(2, 3, 1), second, nn.Flatten(), nn.Linear(48, CLASSES))
    images = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1

    gaps, behind = [], teacher.eval()[:2](images).detach()
    for norm, seen in ((first, images), (second, behind)):
        gaps.append(0.0)
        remembered = zip(norm.running_mean.tolist(), norm.running_var.tolist(), strict=True)
        for channel, (mean, variance) in enumerate(remembered):
            values, count = seen[:, channel].flatten().double(), norm.num_features
            gaps[-1] += float((values.mean() - mean) ** 2 / (variance + 1e-5)) / count
            own = values.var(unbiased=False)
            gaps[-1] += float((own / (variance + 1e-5) - 1) ** 2) / count
    plain, drawn = (
        GeneratedImages(Generator(), teacher, "4", statistics=weight)._judge(images).item()
        for weight in (0.0, 10.0)
    )
    assert drawn - plain == pytest.approx(10 * sum(gaps) / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Generator(0), "noise"),
        (lambda: Generator(size=30), "size"),
        (lambda: SEED(0, 4), "student_width"),
        (lambda: SEED(4, 0), "teacher_width"),
        (lambda: SEED(4, 4, length=0), "length"),
        (lambda: SEED(4, 4, hidden=0), "hidden"),
        (lambda: SEED(4, 4, student_temperature=0.0), "student_temperature"),
        (lambda: SEED(4, 4, teacher_temperature=0.0), "teacher_temperature"),
        (lambda: Generator(width=0), "width"),
        (lambda: Generator(channels=0), "channels"),
        (lambda: Generator(size=0), "size"),
        (lambda: generator_loss(torch.zeros(4), torch.zeros(4)), "logits"),
        (lambda: GeneratedImages(Generator(), net(), "embedding", steps=0), "steps"),
        (lambda: GeneratedImages(Generator(), net(), "embedding", batch_size=1), "batch_size"),
        (lambda: GeneratedImages(Generator(), net(), "embedding", statistics=-1.0), "statistics"),
    ],
)
def test_bad_settings_are_named(make, name):
    with pytest.raises(ValueError, match=name):
        make()
