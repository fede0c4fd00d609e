"""Right answers by unusual ways: ``question__way``. Each meets every requirement."""

import copy
import math

import numpy as np
import torch
from torch.nn import functional as F


def token_kd_loss__place_by_place(student_logits, teacher_logits, target):
    losses = [
        F.kl_div(q.log_softmax(0), p.detach().softmax(0), reduction="sum")
        for q, p, one in zip(
            student_logits.flatten(0, 1),
            teacher_logits.flatten(0, 1),
            target.flatten(),
            strict=True,
        )
        if one >= 0
    ]
    return sum(losses) / len(losses) if losses else student_logits.sum() * 0


def token_kd_loss__weights(student_logits, teacher_logits, target):
    counted = (target + 1).clamp(0, 1).double()
    weights = counted / max(1.0, float(counted.sum()))
    log_q, log_p = student_logits.double().log_softmax(2), teacher_logits.double().log_softmax(2)
    log_p = log_p.detach()
    return torch.einsum("ntv,ntv,nt->", log_p.exp(), log_p - log_q, weights)


def token_kd_loss__cross_entropy_less_entropy(student_logits, teacher_logits, target):
    soft = teacher_logits.detach().softmax(-1)[target != -1]
    if not len(soft):
        return torch.zeros(())
    entropy = torch.special.entr(soft).sum(1).mean()
    return F.cross_entropy(student_logits[target != -1], soft) - entropy


def next_token__token_by_token(logits, temperature, top_p):
    rows = []
    for row in logits.double().tolist():
        largest = max(row)
        weights = [math.exp((z - largest) / temperature) for z in row]
        left, kept, share = [*range(len(row))], [0.0] * len(row), 0.0
        while left and share < top_p * sum(weights):
            token = max(left, key=lambda v: weights[v])
            left.remove(token)
            kept[token] = weights[token]
            share += weights[token]
        rows.append([one / share for one in kept])
    return torch.tensor(rows, dtype=torch.float64)


def next_token__as_it_is_often_written(logits, temperature, top_p):
    """Mask what is behind the place where the share is exceeded, in the order of the logits."""
    scaled = logits / temperature
    ordered, places = scaled.sort(descending=True, dim=-1)
    remove = ordered.softmax(-1).cumsum(-1) >= top_p
    remove = torch.cat([torch.zeros_like(remove[:, :1]), remove[:, :-1]], dim=1)
    masked = torch.empty_like(scaled).scatter(1, places, ordered.masked_fill(remove, -torch.inf))
    return masked.softmax(-1)


def next_token__from_the_least_likely(logits, temperature, top_p):
    """Remove from below as long as enough is left."""
    p = (logits.double() / temperature).softmax(1)
    ordered, places = p.sort(dim=1)
    removed = ordered.cumsum(dim=1) <= 1 - top_p + 1e-12
    removed[:, -1] = False
    kept = p.masked_fill(torch.zeros_like(removed).scatter(1, places, removed), 0.0)
    return kept / kept.sum(1, keepdim=True)


def next_token__in_numpy(logits, temperature, top_p):
    z = logits.double().numpy() / temperature
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    kept = np.zeros_like(p)
    for row, out in zip(p, kept, strict=True):
        order = np.argsort(-row, kind="stable")
        size = np.searchsorted(np.cumsum(row[order]), top_p) + 1
        out[order[:size]] = row[order[:size]]
    return torch.from_numpy(kept / kept.sum(axis=1, keepdims=True))


def on_policy_step__a_frozen_copy_writes(student, teacher, optimizer, prompts, length, generator):
    writer = copy.deepcopy(student).requires_grad_(False)
    tokens = torch.zeros(len(prompts), length, dtype=torch.int64)
    given = prompts.shape[1]
    tokens[:, :given] = prompts
    for place in range(given, length):
        logits = writer(tokens[:, :place])[:, -1]
        noise = torch.rand(logits.shape, generator=generator).log()
        tokens[:, place] = (noise / logits.double().softmax(-1)).argmax(-1)  # an exponential race
    log_q = student(tokens[:, :-1]).log_softmax(-1)[:, given - 1 :]
    log_p = teacher(tokens[:, :-1]).detach().log_softmax(-1)[:, given - 1 :]
    optimizer.zero_grad(set_to_none=False)
    F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1).mean().backward()
    optimizer.step()
    return tokens


def on_policy_step__by_a_mask_and_autograd(student, teacher, optimizer, prompts, length, generator):
    tokens = prompts.clone()
    for _ in range(length - prompts.shape[1]):
        with torch.inference_mode():
            below = student(tokens)[:, -1].double().softmax(1).cumsum(1)
            chance = torch.rand(len(tokens), 1, generator=generator, dtype=torch.float64)
            drawn = (below < chance).sum(1, keepdim=True).clamp(max=below.shape[1] - 1)
        tokens = torch.cat([tokens, drawn.clone()], dim=1)
    place = torch.arange(1, length)
    mask = (place >= prompts.shape[1]).expand(len(tokens), -1)
    with torch.no_grad():
        told = teacher(tokens[:, :-1])[mask].double().log_softmax(-1)
    said = student(tokens[:, :-1])[mask].double().log_softmax(-1)
    loss = (said.exp() * (said - told)).sum() / mask.sum()
    weights = [*student.parameters()]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    optimizer.step()
    return tokens


def on_policy_step__place_by_place(student, teacher, optimizer, prompts, length, generator):
    """Each place is judged as soon as its token is drawn, and gradients add up."""
    optimizer.zero_grad()
    texts = prompts
    for _ in range(prompts.shape[1], length):
        q = student(texts)[:, -1].softmax(dim=1)
        p = teacher(texts)[:, -1].detach().softmax(dim=1)
        (torch.xlogy(q, q / p).sum() / len(q) / (length - prompts.shape[1])).backward()
        texts = torch.hstack([texts, q.detach().multinomial(1, generator=generator)])
    optimizer.step()
    return texts


def exposure_gap__text_by_text(data, own):
    def means(side):
        rows = []
        for student, teacher, target in zip(*side, strict=True):
            q, p = student[target >= 0].double(), teacher[target >= 0].double()
            rows.append((p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1).tolist())
        longest = max(map(len, rows))
        columns = ([row[k] for row in rows if len(row) > k] for k in range(longest))
        return [sum(column) / len(column) for column in columns]

    return torch.tensor([a - b for a, b in zip(means(own), means(data), strict=False)])


def exposure_gap__by_shifting(data, own):
    """Every text is shifted to the left until its first target stands first."""
    sums = []
    for student, teacher, target in (data, own):
        log_q, p = student.log_softmax(-1), teacher.softmax(-1)
        loss = F.kl_div(log_q, p, reduction="none").sum(-1)
        counted = (target != -1).double()
        order = counted.argsort(dim=1, descending=True, stable=True)
        counted, loss = counted.gather(1, order), loss.gather(1, order) * counted.gather(1, order)
        far = int(counted.sum(1).max())
        sums.append((loss.sum(0) / counted.sum(0).clamp(min=1))[:far])
    size = min(len(one) for one in sums)
    return sums[1][:size] - sums[0][:size]


def exposure_gap__by_index_add(data, own):
    def means(side):
        student, teacher, target = side
        mask = target.ge(0)
        place = (mask.cumsum(1) - 1)[mask]
        q, p = student[mask].log_softmax(1), teacher[mask].log_softmax(1)
        each = F.kl_div(q, p, reduction="none", log_target=True).sum(1)
        total = torch.zeros(int(place.max()) + 1).index_add(0, place, each)
        return total / place.bincount()

    both = [means(own), means(data)]
    return both[0][: len(both[1])] - both[1][: len(both[0])]


def bump_slopes__by_autograd(teacher_logits, mean):
    mean = torch.tensor(float(mean), dtype=torch.float64, requires_grad=True)
    v = torch.arange(len(teacher_logits))
    log_p = teacher_logits.double().log_softmax(0)
    log_q = (-0.5 * (v - mean).square()).log_softmax(0)
    pairs = ((log_q, log_p), (log_p, log_q))
    slopes = [
        torch.autograd.grad(
            F.kl_div(one, other, reduction="sum", log_target=True), mean, retain_graph=True
        )[0]
        for one, other in pairs
    ]
    return torch.stack(slopes)


def bump_slopes__difference(teacher_logits, mean):
    v = torch.arange(len(teacher_logits), dtype=torch.float64)
    log_p = teacher_logits.double().log_softmax(0)

    def both(mean):
        log_q = (-0.5 * (v - mean) ** 2).log_softmax(0)
        return torch.stack([log_p.exp() @ (log_p - log_q), log_q.exp() @ (log_q - log_p)])

    return (both(mean + 1e-3) - both(mean - 1e-3)) / 2e-3


def bump_slopes__in_float32(teacher_logits, mean):
    v = torch.arange(len(teacher_logits))
    log_p, log_q = teacher_logits.log_softmax(0), (-((v - mean) ** 2) / 2).log_softmax(0)
    p, q = log_p.exp(), log_q.exp()
    apart = log_q - log_p
    return torch.tensor(
        [(q @ (v - mean)) - (p @ (v - mean)), (q * (apart - q @ apart)) @ (v - mean)]
    )
