"""What holds for every loss of the package, whatever it compares."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

# A file of tests that has LOSSES, by name, and an example(name) of their arguments takes part.
FILES = [
    file
    for file in Path(__file__).parent.glob("test_*.py")
    if all(part in file.read_text() for part in ("\nLOSSES = ", "\ndef example("))
]
CASES = {
    f"{module.__name__.removeprefix('test_')}: {name}": (loss, *module.example(name))
    for module in (import_module(file.stem) for file in sorted(FILES))
    for name, loss in module.LOSSES.items()
}
every_loss = pytest.mark.parametrize(
    ("loss", "student", "teacher"), CASES.values(), ids=list(CASES)
)


def gradient(value, inputs):
    return torch.autograd.grad(value, inputs)[0]


@every_loss
def test_gradient_is_right_and_none_reaches_the_teacher(loss, student, teacher):
    s, t = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    loss(s, t).backward()
    assert t.grad is None
    assert s.grad.abs().sum() > 0
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher), s)


@every_loss
@pytest.mark.parametrize("power", [1, 2])
def test_a_second_derivative_is_right_or_an_error_and_never_a_wrong_number(
    loss, student, teacher, power
):
    def slope(z):  # of a sum with another loss, whose graph is there
        value = loss(z, teacher) ** power + z.pow(3).sum()
        return torch.autograd.grad(value, z, create_graph=True)[0]

    def beside(step):
        return slope((student + step * towards).requires_grad_()).detach()

    s, towards = student.clone().requires_grad_(), student.sin()
    try:
        found = gradient((slope(s) * towards).sum(), s)
    except RuntimeError as error:
        if "once only" not in str(error):
            raise
    else:
        expected = (beside(1e-5) - beside(-1e-5)) / 2e-5
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@every_loss
@pytest.mark.parametrize("derivative", [torch.func.grad, torch.func.jacrev])
def test_a_second_derivative_of_torch_func_is_right_or_an_error(loss, student, teacher, derivative):
    def slope(z):
        return derivative(loss)(z, teacher).square().sum()

    def of_autograd(z):
        (first,) = torch.autograd.grad(loss(z, teacher), z, create_graph=True)
        return gradient(first.square().sum(), z)

    s = student.clone().requires_grad_()
    torch.testing.assert_close(derivative(loss)(student, teacher), gradient(loss(s, teacher), s))
    try:
        found = derivative(slope)(student)
    except RuntimeError as error:
        if "once only" not in str(error):
            raise
    else:
        torch.testing.assert_close(found, of_autograd(s))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, student, teacher, dtype):
    s, t = student.to(dtype).requires_grad_(), teacher.to(dtype)
    value = loss(s, t)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(s.detach().float(), t.float()).item(), rel=1e-5)
    value.backward()
    assert s.grad.dtype == dtype
    assert s.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_the_precisions_of_both_nets_may_differ(loss, student, teacher, dtypes):
    s, t = student.to(dtypes[0], copy=True).requires_grad_(), teacher.to(dtypes[1])
    value = loss(s, t)
    assert value.item() == pytest.approx(loss(student, teacher).item(), rel=1e-4)
    assert gradient(value, s).dtype == s.dtype


@every_loss
def test_under_autocast(loss, student, teacher):
    s, t = student.float().requires_grad_(), teacher.float()
    expected = loss(s, t)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(s, t)
        found = gradient(value, s)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(found, gradient(expected, s), rtol=1e-4, atol=1e-6)


@every_loss
@pytest.mark.parametrize(
    "dtypes", [(torch.bfloat16, torch.float16), (torch.float16, torch.float32)]
)
def test_other_dtypes_under_autocast(loss, student, teacher, dtypes):
    s, t = student.to(dtypes[0]).requires_grad_(), teacher.to(dtypes[1])
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(s, t)
    expected = loss(s, t)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient(value, s), gradient(expected, s))


@every_loss
def test_compiles_in_one_graph(loss, student, teacher):
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    s = student.clone().requires_grad_()
    value, expected = compiled(s, teacher), loss(s, teacher)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    assert torch.allclose(gradient(value, s), gradient(expected, s), atol=1e-12)


@every_loss
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("over", ["both", "student", "teacher"])
def test_vmap_and_grad_equal_a_loop(loss, student, teacher, over):
    s, t = (torch.stack([z, 2 * z.flip(1), z.exp()]) for z in (student, teacher))
    if over == "student":
        t = teacher.expand_as(t)
    elif over == "teacher":
        s = student.expand_as(s)
    axes = (None if over == "teacher" else 0, None if over == "student" else 0)
    batched = [z if axis == 0 else z[0] for z, axis in zip((s, t), axes, strict=True)]
    values = torch.func.vmap(loss, axes)(*batched)
    assert values.tolist() == pytest.approx([loss(a, b).item() for a, b in zip(s, t, strict=True)])
    gradients = torch.func.vmap(torch.func.grad(loss), axes)(*batched)
    for a, b, found in zip(s, t, gradients, strict=True):
        a = a.clone().requires_grad_()
        assert torch.allclose(gradient(loss(a, b), a), found)


@every_loss
def test_meta_device_forward_and_backward(loss, student, teacher):
    s = torch.empty_like(student, device="meta", requires_grad=True)
    value = loss(s, torch.empty_like(teacher, device="meta"))
    value.backward()
    assert value.device.type == s.grad.device.type == "meta"


@every_loss
def test_fake_cuda_forward(loss, student, teacher):
    with FakeTensorMode():
        s, t = (torch.empty(z.shape, device="cuda") for z in (student, teacher))
        try:
            value = loss(s, t)
        except RuntimeError as error:
            if "CUDA driver" not in str(error):
                raise
            pytest.skip(f"torch {torch.__version__} asks the driver, even for what is not there")
        assert value.device.type == "cuda"


@every_loss
def test_on_every_device_there_is(loss, student, teacher, device):
    s, t = student.float().to(device).requires_grad_(), teacher.float().to(device)
    value = loss(s, t)
    value.backward()
    assert value.device.type == s.grad.device.type == device.type
    assert value.item() == pytest.approx(loss(student, teacher).item(), rel=1e-4)
