"""KD from hidden states and output projections."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from kdcourse import linear_kd, logit
from kdcourse.course.bench.compare import peak_memory
from kdcourse.data import replay
from kdcourse.logit import linear_kd_loss

N, V = 7, 11
SHAPES = {"hidden": (N, 4), "weight": (V, 4), "bias": (V,)}
TEACHERS = {"hidden": (N, 3), "weight": (V, 3), "bias": (V,)}


def drawn(shapes, seed, dtype=torch.float64):
    draw = replay(seed)
    return {name: torch.randn(s, generator=draw, dtype=dtype) for name, s in shapes.items()}


STUDENT, TEACHER = drawn(SHAPES, 0), drawn(TEACHERS, 1)
every_divergence = pytest.mark.parametrize("divergence", logit.DIVERGENCES)


def linear(student, teacher, temperature=4.0, **options):
    return linear_kd_loss(
        *(student["hidden"], student["weight"], teacher["hidden"], teacher["weight"]),
        *(temperature,),
        student_bias=student.get("bias"),
        teacher_bias=teacher.get("bias"),
        **options,
    )


def plain(student, teacher, temperature=4.0, **options):
    """The definition: logits first, all of them."""
    logits = (F.linear(z["hidden"], z["weight"], z.get("bias")) for z in (student, teacher))
    return logit.kd_loss(*logits, temperature, **options)


def value_and_gradients(loss, student, teacher, upstream=1.0, **options):
    student = {name: z.detach().clone().requires_grad_() for name, z in student.items()}
    value = loss(student, teacher, **options)
    (upstream * value).backward()
    return value.detach(), [z.grad for z in student.values()]


@every_divergence
@pytest.mark.parametrize("rows", [None, 2])
@pytest.mark.parametrize("temperature", [0.5, 4.0, 40.0])  # of which the last is compared wider
@pytest.mark.parametrize("biased", [False, True])
def test_equals_kd_of_the_logits(divergence, rows, temperature, biased):
    names = SHAPES if biased else ("hidden", "weight")
    student, teacher = ({name: z[name] for name in names} for z in (STUDENT, TEACHER))
    options = {"temperature": temperature, "divergence": divergence}
    expected = value_and_gradients(plain, student, teacher, -2.5, **options)
    found = value_and_gradients(linear, student, teacher, -2.5, rows=rows, **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_without_scale_the_factor_is_missing():
    scaled, unscaled = (linear(STUDENT, TEACHER, 4.0, scale=scale) for scale in (True, False))
    torch.testing.assert_close(scaled, 16 * unscaled)


@every_divergence
def test_gradient_is_right(divergence):
    def loss(*inputs):
        student = dict(zip(SHAPES, inputs, strict=True))
        return linear(student, TEACHER, 2.0, divergence=divergence, rows=3)

    inputs = [z.clone().requires_grad_() for z in STUDENT.values()]
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("name", SHAPES)
def test_only_the_gradients_that_are_needed_are_made(name):
    student = {**STUDENT, name: STUDENT[name].clone().requires_grad_()}
    teacher = {key: z.clone().requires_grad_() for key, z in TEACHER.items()}
    value = linear(student, teacher, rows=2)
    assert [tuple(z.shape) for z in value.grad_fn.saved_tensors] == [SHAPES[name]]
    value.backward()
    _, expected = value_and_gradients(plain, STUDENT, TEACHER)
    torch.testing.assert_close(student[name].grad, expected[list(SHAPES).index(name)])
    assert all(z.grad is None for z in teacher.values())


def operations(function):
    """Names of the operations that a function calls."""
    found = []

    class Listed(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, call, types, arguments=(), keywords=None):
            found.append(call.overloadpacket.__name__)
            return call(*arguments, **(keywords or {}))

    with Listed():
        function()
    return found


def test_no_gradient_is_made_where_none_is_asked_for():
    student = {name: z.clone().requires_grad_() for name, z in STUDENT.items()}
    asked = operations(lambda: linear(student, TEACHER, rows=N))
    with torch.no_grad():
        value = linear(student, TEACHER, rows=N)
        quiet = operations(lambda: linear(student, TEACHER, rows=N))
    assert not value.requires_grad
    products = [names.count("mm") + names.count("addmm") for names in (quiet, asked)]
    assert products[0] == 2 < products[1]
    assert "zeros_like" not in quiet


def test_backward_makes_products_no_more():
    student = {name: z.clone().requires_grad_() for name, z in STUDENT.items()}
    value = linear(student, TEACHER, rows=2)
    assert set(operations(value.backward)) <= {"ones_like", "mul", "mul_", "split", "detach"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Products as the inputs are, the rest in float32: each gradient is right to its precision."""
    student, teacher = ({k: z.to(dtype) for k, z in net.items()} for net in (STUDENT, TEACHER))
    logits, _ = value_and_gradients(plain, student, teacher)
    _, exact = value_and_gradients(
        plain, *({k: z.double() for k, z in n.items()} for n in (student, teacher))
    )
    value, gradients = value_and_gradients(linear, student, teacher, rows=2)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, logits, rtol=1e-6, atol=0)
    for found, right in zip(gradients, exact, strict=True):
        assert found.dtype == dtype
        assert (found - right).norm() < torch.finfo(dtype).eps * right.norm()


def test_float16_does_not_lose_small_gradients():
    """A mean over many samples and classes: entries far below float16's smallest number."""
    student, teacher = (
        {"hidden": z["hidden"], "weight": z["weight"].repeat(2000, 1)} for z in (STUDENT, TEACHER)
    )
    exact = value_and_gradients(plain, student, teacher)[1][0]
    half = ({k: z.half() for k, z in net.items()} for net in (student, teacher))
    found = value_and_gradients(linear, *half, upstream=1024.0, rows=2)[1][0]
    assert (found.double() / 1024 - exact).norm() < 0.02 * exact.norm()


def test_under_autocast():
    student, teacher = ({k: z.float() for k, z in net.items()} for net in (STUDENT, TEACHER))
    with torch.autocast("cpu", torch.bfloat16):
        expected = value_and_gradients(plain, student, teacher)
        found = value_and_gradients(linear, student, teacher, rows=2)
    assert found[0].dtype == torch.float32
    assert {z.dtype for z in found[1]} == {torch.float32}
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1], expected[1], rtol=0.02, atol=0.01)


def test_half_precision_meets_single_under_autocast_only():
    student, teacher = ({k: z.float() for k, z in net.items()} for net in (STUDENT, TEACHER))
    student["weight"] = student["weight"].bfloat16()
    with pytest.raises(ValueError, match=r"student_weight must be torch.float32 as student_hidd"):
        linear(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(student, teacher).isfinite()


def test_compiles_in_one_graph():
    torch.compiler.reset()
    loss = torch.compile(partial(linear, rows=4), fullgraph=True, backend="aot_eager")
    found = value_and_gradients(loss, STUDENT, TEACHER)
    torch.testing.assert_close(found, value_and_gradients(plain, STUDENT, TEACHER))


def test_torch_func_is_refused_and_not_misled():
    loss = partial(linear, teacher=TEACHER)
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(loss)(STUDENT)


def test_meta_device_forward_and_backward():
    student, teacher = (
        {k: z.to("meta").requires_grad_() for k, z in net.items()} for net in (STUDENT, TEACHER)
    )
    linear(student, teacher).backward()
    assert {z.grad.shape for z in student.values()} == {torch.Size(s) for s in SHAPES.values()}


def test_on_every_device_there_is(device):
    nets = [{k: z.float().to(device) for k, z in net.items()} for net in (STUDENT, TEACHER)]
    found = value_and_gradients(linear, *nets, rows=2)
    torch.testing.assert_close(found, value_and_gradients(plain, *nets))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"student_hidden": torch.ones(N)}, r"^student_hidden must have shape \(N, D\)"),
        ({"student_weight": torch.ones(V, 3)}, r"^student_weight must have shape \(V, 4\)"),
        ({"student_weight": torch.ones(1, 4)}, r"^student_weight must have shape \(V, 4\), V ≥ 2"),
        ({"teacher_weight": torch.ones(V, 4)}, r"^teacher_weight must have shape \(V, 3\)"),
        ({"teacher_weight": torch.ones(V + 1, 3)}, r"^student_weight and .* classes V .* 11 and 1"),
        ({"teacher_hidden": torch.ones(N + 1, 3)}, "^student_hidden and teacher_hidden must hold"),
        ({"student_bias": torch.ones(V + 1)}, r"^student_bias must have shape \(11,\), got \(12,"),
        ({"teacher_bias": torch.ones(V, 1)}, r"^teacher_bias must have shape \(11,\)"),
        ({"divergence": "sideways"}, "^divergence must be one of"),
        ({"temperature": 0.0}, "^temperature must"),
        ({"rows": 0}, "^rows must be a positive integer"),
    ],
)
def test_bad_arguments_are_named(broken, message):
    inputs = {
        "student_hidden": torch.ones(N, 4),
        "student_weight": torch.ones(V, 4),
        "teacher_hidden": torch.ones(N, 3),
        "teacher_weight": torch.ones(V, 3),
    }
    with pytest.raises(ValueError, match=message):
        linear_kd_loss(**{**inputs, **broken})


def test_all_logits_are_never_there_at_once():
    samples, classes, width = 512, 1000, 16
    shapes = {"hidden": (samples, width), "weight": (classes, width)}
    student, teacher = (drawn(shapes, seed, torch.float32) for seed in (0, 1))
    for z in student.values():
        z.requires_grad_()
    peak = peak_memory(lambda: linear(student, teacher, rows=32).backward())
    gradients = sum(z.nbytes for z in student.values())
    assert peak - gradients < 8 * 4 * 32 * classes
    assert peak < 4 * samples * classes


def test_rows_follow_from_the_classes():
    assert linear_kd.rows_at_once(None, 1000, 10) == 100
    assert linear_kd.rows_at_once(None, 1000, 10_000) == 1
    assert linear_kd.rows_at_once(7, 1000, 10) == 7
