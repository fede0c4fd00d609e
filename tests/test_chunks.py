"""The losses on logits, a few samples at a time."""

from functools import partial

import pytest
import torch
from toys import net, same, train, weights

from kdcourse import logit, many_classes
from kdcourse.course.bench.compare import peak_memory
from kdcourse.data import replay
from kdcourse.objective import Lesson, Outputs
from kdcourse.teachers import ClosedTeacher
from kdcourse.training import LogitKD

N, K = 7, 5
DRAW = replay(0)
STUDENT, TEACHER = (3 * torch.randn(N, K, generator=DRAW, dtype=torch.float64) for _ in range(2))
TARGET = torch.randint(K, (N,), generator=DRAW)

LOSSES = {
    "forward": (logit.kd_loss, (TEACHER,), {}),
    "reverse": (logit.kd_loss, (TEACHER,), {"divergence": "reverse", "temperature": 2.0}),
    "jensen-shannon": (logit.kd_loss, (TEACHER,), {"divergence": "jensen-shannon"}),
    "unscaled": (logit.kd_loss, (TEACHER,), {"scale": False}),
    "cross-entropy": (logit.kd_cross_entropy, (TEACHER,), {"temperature": 3.0}),
    "probabilities": (logit.kd_loss_from_probabilities, (TEACHER.softmax(1),), {}),
    "decoupled": (logit.decoupled_kd_loss, (TEACHER, TARGET), {"beta": 2.0}),
    "labels": (torch.nn.functional.cross_entropy, (TARGET,), {}),
}
every_loss = pytest.mark.parametrize(("loss", "others", "options"), LOSSES.values(), ids=LOSSES)


def value_and_gradient(loss, student, *others, upstream=1.0, **options):
    student = student.clone().requires_grad_()
    value = loss(student, *others, **options)
    (upstream * value).backward()
    return value.detach(), student.grad


def plain_and_chunked(loss, student, *others, rows, **options):
    chunked = partial(logit.in_chunks, loss, rows=rows)
    return (
        value_and_gradient(loss, student, *others, **options),
        value_and_gradient(chunked, student, *others, **options),
    )


@every_loss
@pytest.mark.parametrize("rows", [1, 2, 7, 100])  # of 7: an uneven last chunk, one, more than all
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_equals_the_plain_loss_in_value_and_gradient(loss, others, options, rows, dtype, rel):
    others = [other.to(dtype) if other.is_floating_point() else other for other in others]
    plain, chunked = plain_and_chunked(loss, STUDENT.to(dtype), *others, rows=rows, **options)
    for expected, found in zip(plain, chunked, strict=True):
        assert found.dtype == expected.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=rel, atol=rel * float(expected.max()))


@every_loss
def test_gradient_is_right(loss, others, options):
    chunked = partial(logit.in_chunks, loss, rows=3, **options)
    assert torch.autograd.gradcheck(lambda z: chunked(z, *others), STUDENT.clone().requires_grad_())


def test_gradient_from_above_is_passed_on():
    chunked = partial(logit.in_chunks, logit.kd_loss, rows=2)
    value, gradient = value_and_gradient(chunked, STUDENT, TEACHER)
    same_value, scaled = value_and_gradient(chunked, STUDENT, TEACHER, upstream=-2.5)
    assert torch.equal(value, same_value)
    torch.testing.assert_close(scaled, -2.5 * gradient)


def test_the_gradient_can_be_asked_for_again_while_the_graph_is_kept():
    student = STUDENT.clone().requires_grad_()
    value = logit.in_chunks(logit.kd_loss, student, TEACHER, rows=2)
    first, second, last = (
        torch.autograd.grad(value * factor, student, retain_graph=keep)[0]
        for factor, keep in ((1.0, True), (0.0, True), (3.0, False))
    )
    assert second.abs().max() == 0
    torch.testing.assert_close(last, 3 * first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, student)


@pytest.mark.parametrize("divergence", logit.DIVERGENCES)
@pytest.mark.parametrize("temperature", [0.5, 4.0, 64.0])  # of which the last is compared wider
def test_classes_that_are_masked_do_not_count(divergence, temperature):
    student, teacher = STUDENT.clone(), TEACHER.clone()
    student[:, 1] = teacher[:, 1] = -torch.inf
    teacher[2, 3] = -torch.inf if divergence != "reverse" else 0.0
    options = {"divergence": divergence, "temperature": temperature}
    plain, chunked = plain_and_chunked(logit.kd_loss, student, teacher, rows=2, **options)
    torch.testing.assert_close(chunked[0], plain[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(chunked[1][:, 0], plain[1][:, 0], rtol=1e-12, atol=1e-15)
    assert chunked[1].isfinite().all()
    assert chunked[1][:, 1].abs().max() == 0


@pytest.mark.parametrize("divergence", logit.DIVERGENCES)
def test_what_is_impossible_for_one_net_only_is_infinite_and_nan_is_nan(divergence):
    loss = partial(logit.in_chunks, logit.kd_loss, rows=2, divergence=divergence)
    for place in range(K):
        masked, broken = STUDENT.clone(), STUDENT.clone()
        masked[3, place], broken[3, place] = -torch.inf, torch.nan
        pairs = {"forward": (masked, TEACHER), "reverse": (TEACHER, masked)}
        if divergence in pairs:
            assert loss(*pairs[divergence]) == torch.inf
        else:
            assert loss(masked, TEACHER).isfinite()
        assert loss(broken, TEACHER).isnan()
        assert loss(STUDENT, broken).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("divergence", logit.DIVERGENCES)
def test_extreme_logits_give_finite_values_and_gradients(divergence, dtype):
    signs = torch.tensor([[1.0, -1, 0, 0, 1], [-1, 1, 1, -1, 0], [1, 1, 1, 1, 1]])
    student, teacher = (1e4 * signs).to(dtype), (-1e4 * signs.flip(1)).to(dtype)
    loss = partial(logit.in_chunks, logit.kd_loss, divergence=divergence)
    for found in value_and_gradient(loss, student, teacher):
        assert found.isfinite().all()


def test_float16_does_not_lose_small_gradients():
    """As with GradScaler, which multiplies the loss by 65,536, over many samples and classes."""
    student, teacher = (z.repeat(64, 400).half() for z in (STUDENT, TEACHER))
    exact = value_and_gradient(logit.kd_loss, student.double(), teacher.double())[1]
    loss = partial(logit.in_chunks, logit.kd_loss)
    found = value_and_gradient(loss, student, teacher, upstream=65536.0)[1]
    assert (found.double() / 65536 - exact).norm() < 1e-3 * exact.norm()


def test_compiles_in_one_graph():
    torch.compiler.reset()
    loss = partial(logit.in_chunks, logit.kd_loss, rows=4)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = value_and_gradient(compiled, STUDENT, TEACHER)
    torch.testing.assert_close(found, value_and_gradient(loss, STUDENT, TEACHER))


@pytest.mark.parametrize("divergence", logit.DIVERGENCES)
def test_a_chunk_may_be_compiled(monkeypatch, divergence):
    compiled = []

    def compile(function, real=torch.compile):
        compiled.append(function)
        return real(function, backend="aot_eager", fullgraph=True)

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", compile)
    loss = partial(logit.in_chunks, logit.kd_loss, rows=4, divergence=divergence)
    found = value_and_gradient(partial(loss, compile=True), STUDENT, TEACHER)
    assert len(compiled) == 1
    torch.testing.assert_close(found, value_and_gradient(loss, STUDENT, TEACHER))


def test_teacher_gets_no_gradient_and_a_student_may_need_none():
    teacher = TEACHER.clone().requires_grad_()
    value = logit.in_chunks(logit.kd_loss, STUDENT, teacher, rows=2)
    assert not value.requires_grad
    student = STUDENT.clone().requires_grad_()
    logit.in_chunks(logit.kd_loss, student, teacher, rows=2).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = STUDENT.to(dtype), TEACHER.to(dtype)
    plain, chunked = plain_and_chunked(logit.kd_loss, student, teacher, rows=2)
    assert chunked[0].dtype == torch.float32
    assert chunked[1].dtype == dtype
    torch.testing.assert_close(chunked[0], plain[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(chunked[1], plain[1], rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_under_autocast():
    student, teacher = STUDENT.float(), TEACHER.float()
    expected = value_and_gradient(logit.kd_loss, student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        found = value_and_gradient(
            partial(logit.in_chunks, logit.kd_loss, rows=2), student, teacher
        )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_inputs_that_are_not_contiguous():
    student, teacher = STUDENT.t().contiguous().t(), TEACHER.t().contiguous().t()
    plain, chunked = plain_and_chunked(logit.kd_loss, student, teacher, rows=2)
    torch.testing.assert_close(chunked, plain)


def test_on_every_device_there_is(device):
    student, teacher = STUDENT.float().to(device), TEACHER.float().to(device)
    plain, chunked = plain_and_chunked(logit.kd_loss, student, teacher, rows=2)
    assert chunked[1].device.type == device.type
    torch.testing.assert_close(chunked, plain)


def test_meta_device_forward_and_backward():
    student = torch.empty(N, K, device="meta", requires_grad=True)
    logit.in_chunks(logit.kd_loss, student, torch.empty(N, K, device="meta"), rows=2).backward()
    assert student.grad.device.type == "meta"


def test_twice_differentiated_is_an_error():
    student = STUDENT.clone().requires_grad_()
    value = logit.in_chunks(logit.kd_loss, student, TEACHER, rows=2)
    with pytest.raises(RuntimeError, match="once only"):
        torch.autograd.grad(value, student, create_graph=True)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        *((0, ValueError), (-1, ValueError), (2.0, ValueError)),
        *((True, TypeError), ("2", TypeError)),
    ],
)
def test_bad_rows_are_named(rows, error):
    with pytest.raises(error, match="rows must be a positive integer"):
        logit.in_chunks(logit.kd_loss, STUDENT, TEACHER, rows=rows)


def test_bad_inputs_are_named():
    with pytest.raises(ValueError, match="student_logits must have shape"):
        logit.in_chunks(logit.kd_loss, STUDENT[0], TEACHER, rows=2)
    with pytest.raises(ValueError, match="same samples, got 7 and 6"):
        logit.in_chunks(logit.kd_loss, STUDENT, TEACHER[:6], rows=2)
    with pytest.raises(ValueError, match="same classes"):
        logit.in_chunks(logit.kd_loss, STUDENT, TEACHER[:, :4], rows=2)


def extra_memory(loss, student, teacher):
    """Peak bytes beside the inputs and the student's gradient."""
    return peak_memory(lambda: loss(student, teacher).backward()) - 4 * student.numel()


@pytest.mark.parametrize("divergence", logit.DIVERGENCES)
def test_extra_memory_is_less_than_a_tenth(divergence):
    student, teacher = (torch.randn(256, 1000, generator=replay(n)) for n in range(2))
    student.requires_grad_()
    plain = partial(logit.kd_loss, divergence=divergence)
    needed = extra_memory(plain, student, teacher)
    student.grad = None
    saved = extra_memory(partial(logit.in_chunks, plain, rows=16), student, teacher)
    assert needed > 3 * 4 * student.numel()  # several (N, K) are kept
    assert saved <= needed / 10


def test_backward_allocates_no_second_gradient():
    student, teacher = (torch.randn(256, 1000, generator=replay(n)) for n in range(2))
    loss = logit.in_chunks(logit.kd_loss, student.requires_grad_(), teacher)
    assert peak_memory(loss.backward) < student.nbytes / 10


def test_chunks_have_as_many_rows_as_fit():
    large = torch.empty(4096, 128_000, device="meta", requires_grad=True)
    in_one = peak_memory(lambda: logit.in_chunks(logit.kd_loss, large, large.detach()))
    assert in_one - large.nbytes < 5 * 4 * many_classes.CHUNK["other"]
    assert in_one < 4 * large.nbytes / 3  # the plain form takes five times as much


# --- the term


def test_very_many_logits_are_taken_in_chunks_without_being_told(monkeypatch):
    lesson = Lesson(Outputs(logits=STUDENT), torch.zeros(N), Outputs(logits=TEACHER))
    term, taught, taken = LogitKD(2), lesson.teacher, []

    def spy(*arguments, **options):
        taken.append(options)
        return in_chunks(*arguments, **options)

    in_chunks = logit.in_chunks
    monkeypatch.setattr(logit, "in_chunks", spy)
    plain = term(lesson)
    assert not taken
    monkeypatch.setattr(logit, "MANY", N * K)
    torch.testing.assert_close(term(lesson), plain)
    assert [one["rows"] for one in taken] == [None]
    mapped = torch.func.vmap(lambda z: term(Lesson(Outputs(logits=z), lesson.target, taught))[0])
    torch.testing.assert_close(mapped(STUDENT[None])[0], plain[0])
    assert len(taken) == 1


def test_term_in_chunks_learns_like_the_plain_one():
    teacher = net(4)
    plain, chunked = net(), net()
    train(plain, LogitKD(2), teacher=teacher)
    train(chunked, LogitKD(2, rows=10), teacher=teacher)
    for one, other in zip(plain.parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert not same(weights(plain), weights(net()))


def test_term_from_probabilities():
    teacher, student = ClosedTeacher(net(4)), net()
    history = train(student, LogitKD(2, rows=10), teacher=teacher)
    expected = train(net(), LogitKD(2), teacher=teacher)
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_term_says_its_rows_only_where_they_are_set():
    assert (
        repr(LogitKD(4, rows=8))
        == "LogitKD(temperature=4, divergence='forward', scale=True, rows=8)"
    )
    assert "rows" not in repr(LogitKD())  # checkpoints of older runs compare it
    with pytest.raises(ValueError, match="rows must be"):
        LogitKD(rows=0)
