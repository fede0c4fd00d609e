"""Plausible answers of somebody in a hurry: what the checks show is what the grade says."""

from math import comb

import torch
from torch.nn import functional as F


def vote_accuracy(accuracy, voters):
    return sum(  # a tie is not a majority
        comb(voters, k) * accuracy**k * (1 - accuracy) ** (voters - k)
        for k in range(voters // 2 + 1, voters + 1)
    )


def ema_update(teacher, student, momentum):
    with torch.no_grad():
        for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
            old.data = momentum * old.data + (1 - momentum) * new.data


def mutual_step(students, optimizers, inputs, target):
    for student in students:
        student.train()
    logits = [student(inputs) for student in students]
    for k in range(2):
        p = F.softmax(logits[1 - k].detach(), dim=1)  # of before any update
        log_q = F.log_softmax(logits[k], dim=1)
        loss = F.cross_entropy(logits[k], target) + F.kl_div(log_q, p, reduction="batchmean")
        optimizers[k].zero_grad()
        loss.backward()
        optimizers[k].step()


def magnitude_masks(weights, sparsity):
    magnitudes = torch.cat([weight.abs().view(-1) for weight in weights])
    number = int(sparsity * magnitudes.numel())
    threshold = torch.topk(magnitudes, number, largest=False).values.max() if number else -1
    return [weight.abs() > threshold for weight in weights]


def mixup_views(pixels, generator):
    def mix():
        share = torch.rand(1, generator=generator)
        return share * pixels + (1 - share) * pixels[torch.randperm(len(pixels))]

    return mix(), mix()
