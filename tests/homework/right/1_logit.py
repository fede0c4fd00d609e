"""Right answers by unusual ways: ``question__way``. Each meets every requirement."""

import math

import torch
from torch.distributions import Categorical
from torch.nn import functional as F

# In float32 throughout, as careful people write.


def softened_softmax__in_float32(logits, temperature):
    return F.softmax(logits.float() / temperature, dim=1)


def kd_loss__in_float32(student_logits, teacher_logits, temperature):
    student = F.log_softmax(student_logits.float() / temperature, dim=1)
    with torch.no_grad():
        teacher = F.softmax(teacher_logits.float() / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean") * temperature**2


def kd_gradient__in_float32(student_logits, teacher_logits, temperature):
    student, teacher = (
        F.softmax(z.float() / temperature, dim=1) for z in (student_logits, teacher_logits)
    )
    return temperature / student.shape[0] * (student - teacher)


def slide_cross_entropy__in_float32(student_logits, teacher_logits, temperature):
    told = F.softmax(teacher_logits.detach().float() / temperature, dim=1)
    return F.cross_entropy(student_logits.float() / temperature, told)


# By other means.


def softened_softmax__row_by_row_in_float64(logits, temperature):
    rows = []
    for row in logits.double():
        powers = ((row - row.max()) / temperature).exp()
        rows.append(powers / powers.sum())
    return torch.stack(rows)


def softened_softmax__pairwise(logits, temperature):
    """p_i = 1 / Σ_j exp((z_j − z_i)/τ): infinite where p_i is zero, and no NaN."""
    return 1 / ((logits[:, None, :] - logits[:, :, None]) / temperature).exp().sum(dim=2)


def softened_softmax__by_a_distribution(logits, temperature):
    return Categorical(logits=logits / temperature).probs


def kd_loss__by_normalisers(student_logits, teacher_logits, temperature):
    student, teacher = (z.double() / temperature for z in (student_logits, teacher_logits.detach()))
    told = teacher.softmax(1)
    normalisers = student.logsumexp(1) - teacher.logsumexp(1)
    return temperature**2 * ((told * (teacher - student)).sum(1) + normalisers).mean()


def kd_loss__difference_of_cross_entropies(student_logits, teacher_logits, temperature):
    student, teacher = student_logits.double(), teacher_logits.detach().double()
    told = (teacher / temperature).softmax(1)
    cross = F.cross_entropy(student / temperature, told)
    return (cross - F.cross_entropy(teacher / temperature, told)) * math.pow(temperature, 2)


def kd_gradient__by_autograd(student_logits, teacher_logits, temperature):
    z = student_logits.detach().clone().requires_grad_()
    loss = slide_cross_entropy__in_float32(z, teacher_logits, temperature)
    with torch.enable_grad():
        (temperature**2 * loss).backward()
    return z.grad


def slide_cross_entropy__by_matrices(student_logits, teacher_logits, temperature):
    told = (teacher_logits.detach() / temperature).softmax(1)
    normaliser = (student_logits / temperature).logsumexp(1, keepdim=True)
    return (told @ (normaliser - student_logits / temperature).T).trace() / len(told)


def train_student__labels_and_teacher_apart(student, inputs, target, teacher_logits):
    """Two backward passes for each step, and a loader that draws from the global generator."""
    torch.manual_seed(5)
    order = torch.utils.data.TensorDataset(torch.arange(len(inputs)))
    optimizer = torch.optim.Adam(student.parameters(), 0.01)
    for _ in range(10):
        for (batch,) in torch.utils.data.DataLoader(order, batch_size=50, shuffle=True):
            optimizer.zero_grad(set_to_none=False)
            told = kd_loss__by_normalisers(student(inputs[batch]), teacher_logits[batch], 4.0)
            told.backward()
            known = batch[target[batch] != -1]
            if len(known):
                F.cross_entropy(student(inputs[known]), target[known]).backward()
            optimizer.step()
