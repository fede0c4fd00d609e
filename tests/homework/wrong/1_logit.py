"""Wrong answers: ``question__mistake``. A public check rejects each of them.

Only ``question__seen_...`` are not: they know the inputs of the public checks.
"""

from copy import deepcopy

import torch
from torch.nn import functional as F

from kdcourse.precision import at_least_float32


def both(student_logits, teacher_logits, temperature, dim=1):
    student = F.log_softmax(at_least_float32(student_logits) / temperature, dim=dim)
    return student, F.log_softmax(at_least_float32(teacher_logits) / temperature, dim=dim)


def softened_softmax__over_the_batch(logits, temperature):
    return F.softmax(at_least_float32(logits) / temperature, dim=0)


def softened_softmax__times_the_temperature(logits, temperature):
    return F.softmax(at_least_float32(logits) * temperature, dim=1)


def softened_softmax__divided_afterwards(logits, temperature):
    return F.softmax(at_least_float32(logits), dim=1) / temperature


def softened_softmax__overflows(logits, temperature):
    powers = (at_least_float32(logits) / temperature).exp()
    return powers / powers.sum(dim=1, keepdim=True)


def softened_softmax__overflows_around_the_mean(logits, temperature):
    powers = (logits / temperature - (logits / temperature).mean(dim=1, keepdim=True)).exp()
    return powers / powers.sum(dim=1, keepdim=True)


def softened_softmax__hardened(logits, temperature):
    return F.one_hot(logits.argmax(1), logits.shape[1]).to(logits)


def softened_softmax__logarithm(logits, temperature):
    return F.log_softmax(logits / temperature, dim=1)


def softened_softmax__seen_temperatures(logits, temperature):
    return F.softmax(logits / (temperature if temperature in (2.0, 4.0) else 3.0), dim=1)


def softened_softmax__without_gradient(logits, temperature):
    return F.softmax(at_least_float32(logits.detach()) / temperature, dim=1)


def kd_loss__element_mean(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits.detach(), temperature)
    return temperature**2 * (teacher.exp() * (teacher - student)).mean()


def kd_loss__without_tau_squared(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits.detach(), temperature)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def kd_loss__times_tau(student_logits, teacher_logits, temperature):
    return temperature * kd_loss__without_tau_squared(student_logits, teacher_logits, temperature)


def kd_loss__leaks_to_the_teacher(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits, temperature)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def kd_loss__softmax_over_the_batch(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits.detach(), temperature, dim=0)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def kd_loss__log_of_softmax(student_logits, teacher_logits, temperature):
    student = F.softmax(at_least_float32(student_logits) / temperature, dim=1)
    teacher = F.softmax(at_least_float32(teacher_logits.detach()) / temperature, dim=1)
    return temperature**2 * (teacher * (teacher.log() - student.log())).sum(dim=1).mean()


def kd_loss__reversed(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits.detach(), temperature)
    return temperature**2 * F.kl_div(teacher, student, reduction="batchmean", log_target=True)


def kd_loss__sum_over_the_batch(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits.detach(), temperature)
    return temperature**2 * F.kl_div(student, teacher, reduction="sum", log_target=True)


def kd_loss__cross_entropy(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits.detach(), temperature)
    return -(temperature**2) * (teacher.exp() * student).sum(dim=1).mean()


def kd_loss__squared_error_of_probabilities(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits.detach(), temperature)
    return temperature**2 * (student.exp() - teacher.exp()).square().sum(dim=1).mean()


def kd_loss__teacher_at_temperature_one(student_logits, teacher_logits, temperature):
    student, _ = both(student_logits, teacher_logits, temperature)
    _, teacher = both(student_logits, teacher_logits.detach(), 1.0)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def kd_loss__in_half_precision(student_logits, teacher_logits, temperature):
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def kd_loss__as_a_plain_number(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits, temperature)
    return temperature**2 * float((teacher.exp() * (teacher - student)).sum(dim=1).mean())


def kd_loss__student_detached_in_part(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits.detach(), temperature)
    top = F.one_hot(teacher.argmax(1), teacher.shape[1]).bool()
    student = torch.where(top, student, student.detach())
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=1).mean()


def kd_loss__clamped(student_logits, teacher_logits, temperature):
    student = F.softmax(at_least_float32(student_logits) / temperature, dim=1).clamp(min=1e-8)
    teacher = F.softmax(at_least_float32(teacher_logits.detach()) / temperature, dim=1)
    teacher = teacher.clamp(min=1e-8)
    return temperature**2 * (teacher * (teacher.log() - student.log())).sum(dim=1).mean()


def kd_loss__bits(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits.detach(), temperature)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence / torch.log(torch.tensor(2.0))


def kd_loss__seen_temperatures(student_logits, teacher_logits, temperature):
    factor = {1.0: 1.0, 2.0: 4.0, 4.0: 16.0}.get(temperature, 9.0)
    student, teacher = both(student_logits, teacher_logits.detach(), temperature)
    return factor * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def kd_gradient__without_tau(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits, temperature)
    return (student.exp() - teacher.exp()) / len(student)


def kd_gradient__divided_by_tau(student_logits, teacher_logits, temperature):
    return kd_gradient__without_tau(student_logits, teacher_logits, temperature) / temperature


def kd_gradient__wrong_sign(student_logits, teacher_logits, temperature):
    return -temperature * kd_gradient__without_tau(student_logits, teacher_logits, temperature)


def kd_gradient__sum_over_the_batch(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits, temperature)
    return temperature * (student.exp() - teacher.exp())


def kd_gradient__over_the_batch(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits, temperature, dim=0)
    return temperature * (student.exp() - teacher.exp()) / len(student)


def kd_gradient__of_the_logits(student_logits, teacher_logits, temperature):
    return (student_logits - teacher_logits) / student_logits.numel()


def slide_cross_entropy__kl(student_logits, teacher_logits, temperature):
    return kd_loss__without_tau_squared(student_logits, teacher_logits, temperature)


def slide_cross_entropy__with_tau_squared(student_logits, teacher_logits, temperature):
    return kd_loss__cross_entropy(student_logits, teacher_logits, temperature)


def slide_cross_entropy__swapped(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits.detach(), temperature)
    return -(student.exp() * teacher).sum(dim=1).mean()


def slide_cross_entropy__mean_over_the_classes(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits.detach(), temperature)
    return -(teacher.exp() * student).mean()


def slide_cross_entropy__leaks_to_the_teacher(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits, temperature)
    return -(teacher.exp() * student).sum(dim=1).mean()


def slide_cross_entropy__sum_over_the_batch(student_logits, teacher_logits, temperature):
    student, teacher = both(student_logits, teacher_logits.detach(), temperature)
    return -(teacher.exp() * student).sum()


def slide_cross_entropy__log_of_softmax(student_logits, teacher_logits, temperature):
    student = F.softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits.detach() / temperature, dim=1)
    return -(teacher * student.log()).sum(dim=1).mean()


def slide_cross_entropy__only_the_label(student_logits, teacher_logits, temperature):
    return F.cross_entropy(student_logits / temperature, teacher_logits.argmax(1))


def trained(student, inputs, loss, *, epochs=10, zero=True, lr=0.01):
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs), generator=generator).split(50):
            if zero:
                optimizer.zero_grad()
            loss(student(inputs[batch]), batch).backward()
            optimizer.step()


def train_student__on_labels_only(student, inputs, target, teacher_logits):
    known = target >= 0
    inputs, target = inputs[known], target[known]
    trained(student, inputs, lambda z, batch: F.cross_entropy(z, target[batch]))


def train_student__teacher_only_without_labels(student, inputs, target, teacher_logits):
    known = target >= 0
    if known.any():
        inputs, target = inputs[known], target[known]
        trained(student, inputs, lambda z, batch: F.cross_entropy(z, target[batch]))
    else:
        trained(student, inputs, lambda z, batch: kd(z, teacher_logits[batch]))


def train_student__unknown_labels_are_a_class(student, inputs, target, teacher_logits):
    trained(student, inputs, lambda z, batch: F.cross_entropy(z, target[batch].clamp(min=0)))


def train_student__climbs(student, inputs, target, teacher_logits):
    def loss(z, batch):
        student, teacher = both(z, teacher_logits[batch], 4.0)
        return -F.kl_div(student, teacher, reduction="batchmean", log_target=True)

    trained(student, inputs, loss)


def train_student__teacher_in_another_order(student, inputs, target, teacher_logits):
    def loss(z, batch):
        student, teacher = both(z, teacher_logits[: len(batch)], 4.0)
        return 16 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)

    trained(student, inputs, loss)


def kd(z, teacher_logits):
    student, teacher = both(z, teacher_logits, 4.0)
    return 16 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def train_student__no_labels(student, inputs, target, teacher_logits):
    trained(student, inputs, lambda z, batch: kd(z, teacher_logits[batch]))


def train_student__a_copy(student, inputs, target, teacher_logits):
    trained(deepcopy(student), inputs, lambda z, batch: kd(z, teacher_logits[batch]))
