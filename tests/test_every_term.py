"""What holds for every term of the library, found wherever it stands."""

import copy
import dataclasses
from contextlib import suppress

import every_term
import pytest
import torch
from every_term import Shown, prepared
from toys import CLASSES, images, net, terms

from kdcourse.errors import ArgumentError
from kdcourse.models import capture
from kdcourse.objective import MEANS
from kdcourse.training import (
    CrossEntropy,
    Lesson,
    Outputs,
    Run,
    Term,
    WarmUp,
    constant,
    rehearse,
)

KINDS = terms()
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@every_kind
def test_it_can_be_made_and_says_what_it_is(kind):
    term = every_term.example(kind)
    assert repr(term).startswith(f"{kind.__name__}(")
    assert term.mean_over in MEANS
    assert kind.__doc__
    assert kind.loss.__doc__


@every_kind
def test_gradients_are_right_and_none_reaches_the_teacher(kind):
    shown = Shown()
    term = prepared(kind, shown)
    student = [tensor.requires_grad_() for tensor in shown.student]
    taught = [shown.teacher.logits, *shown.teacher.features.values()]
    for tensor in taught:
        tensor.requires_grad_()
    value = every_term.loss(term, shown.lesson(*student))
    assert value.dim() == 0
    looked_at = torch.autograd.grad(value, [*student, *taught], allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in looked_at[: len(student)])
    assert all(g is None or not g.any() for g in looked_at[len(student) :])
    for tensor in taught:
        tensor.requires_grad_(False)
    assert torch.autograd.gradcheck(
        lambda *tensors: every_term.loss(term, shown.lesson(*tensors)), student, fast_mode=True
    )


@every_kind
@pytest.mark.parametrize("again", [True, False], ids=["another teacher", "eval mode"])
def test_only_a_step_of_training_changes_what_it_remembers(kind, again):
    shown = Shown()
    term = prepared(kind, shown).train(again)
    before = copy.deepcopy(term.state_dict())
    with suppress(ArgumentError):  # where there may be one teacher only
        term.loss(dataclasses.replace(shown.lesson(), again=again))
    torch.testing.assert_close(term.state_dict(), before, rtol=0, atol=0)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(kind, dtype):
    half = Shown(dtype)
    whole = Shown(torch.float32)
    whole.student = [tensor.float() for tensor in half.student]
    whole.teacher.logits = half.teacher.logits.float()
    whole.teacher.features = {n: f.float() for n, f in half.teacher.features.items()}
    whole.teacher.input_gradient = half.teacher.input_gradient.float()
    term = prepared(kind, whole)
    half.target = whole.target
    student = [tensor.requires_grad_() for tensor in half.student]
    value = every_term.loss(term, half.lesson(*student))
    assert value.dtype == torch.float32 or kind is CrossEntropy  # which is torch's own
    assert value.item() == pytest.approx(every_term.loss(term, whole.lesson()).item(), rel=2e-2)
    value.backward()
    assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in student)


@every_kind
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_the_precisions_of_both_nets_may_differ(kind, dtypes):
    shown, other = Shown(dtypes[0]), Shown(dtypes[1])
    shown.teacher = other.teacher
    term = every_term.example(kind)
    shown.target = every_term.target_for(kind, shown.target)
    term.prepare(shown.lesson(), steps_an_epoch=3)
    student = [tensor.requires_grad_() for tensor in shown.student]
    value = every_term.loss(term, shown.lesson(*student))
    value.backward()
    assert value.isfinite()


@every_kind
@pytest.mark.parametrize("wider", ["student", "teacher"])
def test_nets_of_other_widths_than_it_was_made_for_are_taken_or_refused_by_name(kind, wider):
    shown = Shown()
    term, lesson = prepared(kind, shown), shown.lesson()
    features = getattr(lesson, wider).features
    features.update({name: torch.cat([f, f], dim=1) for name, f in features.items()})
    with suppress(ArgumentError):
        assert every_term.loss(term, lesson).isfinite()


@every_kind
def test_it_compiles_in_one_graph(kind):
    torch.compiler.reset()
    shown = Shown()
    term, student = prepared(kind, shown), [t.requires_grad_() for t in shown.student]
    compiled = copy.deepcopy(term)

    def loss(*tensors):
        return compiled.loss(shown.lesson(*tensors))

    value = torch.compile(loss, fullgraph=True, backend="aot_eager")(*student)
    expected = every_term.loss(term, shown.lesson(*student))
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    pairs = (torch.autograd.grad(v, student, allow_unused=True) for v in (value, expected))
    for found, right in zip(*pairs, strict=True):
        assert (found is None) == (right is None)
        assert found is None or torch.allclose(found, right, atol=1e-12)


@every_kind
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_over_students_equals_a_loop(kind):
    shown = Shown()
    term = prepared(kind, shown)
    if list(term.buffers()):
        pytest.skip("it changes with every batch: there is no order in which vmap could do so")
    several = [torch.stack([tensor, 2 * tensor.flip(0)]) for tensor in shown.student]
    values = torch.func.vmap(lambda *tensors: term.loss(shown.lesson(*tensors)))(*several)
    loop = [term.loss(shown.lesson(*tensors)).item() for tensors in zip(*several, strict=True)]
    assert values.tolist() == pytest.approx(loop)


@every_kind
def test_on_the_meta_device(kind):
    shown = Shown(torch.float32, "meta")
    term = prepared(kind, shown)
    student = [tensor.requires_grad_() for tensor in shown.student]
    value = term.loss(shown.lesson(*student))
    value.backward()
    assert value.device.type == "meta"


@every_kind
def test_a_step_follows_the_gradient_of_what_both_nets_show(kind):
    """The student in train mode, the teacher in eval mode, both of the batch with its labels."""
    student, teacher, data = net().train(), net(4, seed=2).eval(), images(24)
    target = every_term.target_for(kind, data.target, CLASSES)
    term = every_term.example(kind)
    asked = teacher if term.needs_teacher else None
    rehearse(student, [(data.inputs(), target)], term, teacher=asked, seed=3)
    twin, judge = copy.deepcopy(student), copy.deepcopy(term)
    sgd = {"optimizer": lambda weights: torch.optim.SGD(weights, 0.1), "scheduler": constant}
    run = Run(student, 2.0 * term + CrossEntropy(), asked, steps=1, **sgd)
    values = run.step(data.inputs(), target)

    shown = []
    for model in (twin, teacher):
        inputs = data.inputs().requires_grad_()
        with capture(model, list(every_term.FEATURES)) as features:
            logits = model(inputs)
        log_p = logits.log_softmax(dim=1)[torch.arange(24), data.target]
        (gradient,) = torch.autograd.grad(log_p.sum(), inputs, create_graph=True)
        shown.append(Outputs(logits=logits, features=features, input_gradient=gradient))
        if model is twin:
            labels = -log_p.mean()
    value = judge.loss(Lesson(shown[0], target, shown[1]))
    assert values[term.name].item() == pytest.approx(value.item(), rel=1e-5)
    loss = 2 * value + labels
    assert values["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    learned = [*twin.parameters(), *judge.parameters()]
    gradients = torch.autograd.grad(loss, learned)
    found = [*student.parameters(), *term.parameters()]
    for own, old, gradient in zip(found, learned, gradients, strict=True):
        torch.testing.assert_close(own, old - 0.1 * gradient)


def test_terms_are_found():
    assert {CrossEntropy, WarmUp} < set(KINDS)
    assert len(KINDS) > 10
    assert all(kind.loss is not Term.loss for kind in KINDS)
    assert len(images()) > every_term.SAMPLES
