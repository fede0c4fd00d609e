"""Plausible answers of somebody in a hurry: what the checks show is what the grade says."""

import torch
from torch.nn import functional as F


def token_kd_loss(student_logits, teacher_logits, target):
    log_q = F.log_softmax(student_logits, dim=-1)
    p = F.softmax(teacher_logits.detach(), dim=-1)
    loss = F.kl_div(log_q, p, reduction="none").sum(-1)
    return loss[target > 0].mean()  # the padding is 0 or -1, is it not?


def next_token(logits, temperature, top_p):
    p = F.softmax(logits / temperature, dim=1)
    ordered, _ = p.sort(dim=1, descending=True)
    least = ordered[ordered.cumsum(dim=1) >= top_p].max()  # of one row; what of several?
    kept = p * (p >= least)
    return kept / kept.sum(dim=1, keepdim=True)


def on_policy_step(student, teacher, optimizer, prompts, length, generator):
    tokens = prompts
    while tokens.shape[1] < length:
        p = student(tokens)[:, -1].softmax(dim=-1)
        tokens = torch.cat([tokens, torch.multinomial(p, 1)], dim=1)
    start = prompts.shape[1]
    log_q = student(tokens)[:, start:].log_softmax(-1)
    p = teacher(tokens)[:, start:].softmax(-1)
    loss = F.kl_div(log_q, p, reduction="none").sum(-1).mean()  # the usual direction
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return tokens


def exposure_gap(data, own):
    means = []
    for student, teacher, target in (own, data):
        kl = (teacher.softmax(-1) * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum(-1)
        counted = target != -1
        means.append((kl * counted).sum(0) / counted.sum(0))
    places = min(len(mean) for mean in means)
    return means[0][:places] - means[1][:places]


def bump_slopes(teacher_logits, mean):
    mean = torch.tensor(mean, requires_grad=True)
    v = torch.arange(len(teacher_logits))
    q, p = (-0.5 * (v - mean) ** 2).softmax(0), teacher_logits.softmax(0)
    forward, reverse = (p * (p / q).log()).sum(), (q * (q / p).log()).sum()
    (first,) = torch.autograd.grad(forward, mean, retain_graph=True)
    (second,) = torch.autograd.grad(reverse, mean)
    return torch.stack([first, second])
