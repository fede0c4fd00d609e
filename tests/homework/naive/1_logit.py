"""Plausible answers of somebody in a hurry: what the checks show is what the grade says."""

import torch
from torch import nn
from torch.nn import functional as F


def softened_softmax(logits, temperature):
    powers = torch.exp(logits / temperature)
    return powers / powers.sum(dim=1, keepdim=True)


def kd_loss(student_logits, teacher_logits, temperature):
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits / temperature, dim=1)
    return nn.KLDivLoss()(student, teacher) * temperature * temperature  # mean over the classes


def kd_gradient(student_logits, teacher_logits, temperature):
    return F.softmax(student_logits / temperature, 1) - F.softmax(teacher_logits / temperature, 1)


def slide_cross_entropy(student_logits, teacher_logits, temperature):
    student = F.softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits / temperature, dim=1)
    return -(teacher * torch.log(student)).sum() / len(student_logits)
