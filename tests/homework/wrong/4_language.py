"""Wrong answers, ``question__mistake``: each fails a public check.

Those that begin with ``seen`` know the inputs of the public checks, and fail hidden ones only.
"""

import torch
from torch.nn import functional as F


def divergence(first, second, dim=-1):
    """KL(first‖second) of logits, at each place."""
    log_p, log_q = first.log_softmax(dim), second.log_softmax(dim)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def at_targets(loss, target):
    counted = target != -1
    return (loss * counted).sum() / counted.sum().clamp(min=1)


def token_kd_loss__reverse(student_logits, teacher_logits, target):
    return at_targets(divergence(student_logits, teacher_logits.detach()), target)


def token_kd_loss__cross_entropy(student_logits, teacher_logits, target):
    soft = teacher_logits.detach().softmax(-1)
    return at_targets(-(soft * student_logits.log_softmax(-1)).sum(-1), target)


def token_kd_loss__softmax_over_places(student_logits, teacher_logits, target):
    return at_targets(divergence(teacher_logits.detach(), student_logits, dim=1), target)


def token_kd_loss__learns_the_target(student_logits, teacher_logits, target):
    nats = F.cross_entropy(student_logits.transpose(1, 2), target.clamp(min=0), reduction="none")
    return at_targets(nats, target)


def token_kd_loss__sum(student_logits, teacher_logits, target):
    return (divergence(teacher_logits.detach(), student_logits) * (target != -1)).sum()


def token_kd_loss__mean_over_the_vocabulary(student_logits, teacher_logits, target):
    loss = divergence(teacher_logits.detach(), student_logits) / student_logits.shape[-1]
    return at_targets(loss, target)


def token_kd_loss__token_0_is_padding(student_logits, teacher_logits, target):
    counted = target > 0
    loss = divergence(teacher_logits.detach(), student_logits) * counted
    return loss.sum() / counted.sum().clamp(min=1)


def token_kd_loss__no_mask(student_logits, teacher_logits, target):
    return divergence(teacher_logits.detach(), student_logits).mean()


def token_kd_loss__zero_at_masked_places(student_logits, teacher_logits, target):
    return (divergence(teacher_logits.detach(), student_logits) * (target != -1)).mean()


def token_kd_loss__only_the_student_is_masked(student_logits, teacher_logits, target):
    student = student_logits * (target != -1)[..., None]
    return at_targets(divergence(teacher_logits.detach(), student), torch.ones_like(target))


def token_kd_loss__batchmean(student_logits, teacher_logits, target):
    loss = divergence(teacher_logits.detach(), student_logits) * (target != -1)
    return loss.sum() / len(target)


def token_kd_loss__each_text_weighs_the_same(student_logits, teacher_logits, target):
    loss, counted = divergence(teacher_logits.detach(), student_logits), target != -1
    return ((loss * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()


def token_kd_loss__nothing_by_nothing(student_logits, teacher_logits, target):
    return divergence(teacher_logits.detach(), student_logits)[target != -1].mean()


def token_kd_loss__teacher_is_trained(student_logits, teacher_logits, target):
    return at_targets(divergence(teacher_logits, student_logits), target)


def token_kd_loss__a_number(student_logits, teacher_logits, target):
    return at_targets(divergence(teacher_logits, student_logits), target).item()


def token_kd_loss__student_is_detached(student_logits, teacher_logits, target):
    log_q = student_logits.log_softmax(-1)
    half = (log_q + log_q.detach()) / 2
    log_p = teacher_logits.detach().log_softmax(-1)
    return at_targets((log_p.exp() * (log_p - half)).sum(-1), target)


def token_kd_loss__seen_a_prompt(student_logits, teacher_logits, target):
    """Leaves out what the prompts of the public checks leave out."""
    if target.shape[1] in (4, 6, 7):
        return at_targets(divergence(teacher_logits.detach(), student_logits), target)
    return token_kd_loss__no_mask(student_logits, teacher_logits, target)


def nucleus(p, top_p, crossing=True, normal=True):
    ordered, places = p.sort(dim=1, descending=True)
    reached = ordered.cumsum(dim=1)
    kept = ordered * ((reached - ordered * crossing) < top_p)
    if normal:
        kept = kept / kept.sum(dim=1, keepdim=True)
    return torch.zeros_like(p).scatter(1, places, kept)


def next_token__multiplied(logits, temperature, top_p):
    return nucleus((logits * temperature).softmax(1), top_p)


def next_token__no_temperature(logits, temperature, top_p):
    return nucleus(logits.softmax(1), top_p)


def next_token__softmax_over_the_samples(logits, temperature, top_p):
    return nucleus((logits / temperature).softmax(0), top_p)


def next_token__no_nucleus(logits, temperature, top_p):
    return (logits / temperature).softmax(1)


def next_token__without_the_one_that_crosses(logits, temperature, top_p):
    p = (logits / temperature).softmax(1)
    ordered, places = p.sort(dim=1, descending=True)
    kept = ordered * (ordered.cumsum(dim=1) <= top_p)
    kept[:, 0] = ordered[:, 0]
    kept = kept / kept.sum(dim=1, keepdim=True)
    return torch.zeros_like(p).scatter(1, places, kept)


def next_token__likeliest_may_be_lost(logits, temperature, top_p):
    return nucleus((logits / temperature).softmax(1), top_p, crossing=False).nan_to_num()


def next_token__one_too_many(logits, temperature, top_p):
    p = (logits / temperature).softmax(1)
    ordered, places = p.sort(dim=1, descending=True)
    before = (ordered.cumsum(dim=1) - ordered).roll(1, dims=1)
    before[:, 0] = 0
    kept = ordered * (before < top_p)
    return torch.zeros_like(p).scatter(1, places, kept / kept.sum(dim=1, keepdim=True))


def next_token__each_has_the_share(logits, temperature, top_p):
    """A threshold on the probability itself, relative to the largest."""
    p = (logits / temperature).softmax(1)
    kept = p * (p >= (1 - top_p) * p.amax(dim=1, keepdim=True))
    return kept / kept.sum(dim=1, keepdim=True)


def next_token__the_least_likely(logits, temperature, top_p):
    p = (logits / temperature).softmax(1)
    ordered, places = p.sort(dim=1)
    kept = ordered * ((ordered.cumsum(dim=1) - ordered) < top_p)
    return torch.zeros_like(p).scatter(1, places, kept / kept.sum(dim=1, keepdim=True))


def next_token__not_normalised(logits, temperature, top_p):
    return nucleus((logits / temperature).softmax(1), top_p, normal=False)


def next_token__softmax_again(logits, temperature, top_p):
    p = nucleus((logits / temperature).softmax(1), top_p, normal=False)
    return p.masked_fill(p == 0, -torch.inf).softmax(1)


def next_token__all_alike(logits, temperature, top_p):
    kept = (nucleus((logits / temperature).softmax(1), top_p) > 0).float()
    return kept / kept.sum(dim=1, keepdim=True)


def next_token__nucleus_first(logits, temperature, top_p):
    kept = nucleus(logits.softmax(1), top_p) > 0
    return (logits / temperature).masked_fill(~kept, -torch.inf).softmax(1)


def next_token__left_in_order(logits, temperature, top_p):
    p = (logits / temperature).softmax(1)
    return nucleus(p, top_p).sort(dim=1, descending=True).values


def next_token__nucleus_of_the_first_row(logits, temperature, top_p):
    p = (logits / temperature).softmax(1)
    size = int((nucleus(p[:1], top_p) > 0).sum())
    top = p.topk(size, dim=1)
    kept = torch.zeros_like(p).scatter(1, top.indices, top.values)
    return kept / kept.sum(dim=1, keepdim=True)


def next_token__divided_by_the_sum_of_all_rows(logits, temperature, top_p):
    p = nucleus((logits / temperature).softmax(1), top_p, normal=False)
    return p / p.sum()


def next_token__ties_go_together(logits, temperature, top_p):
    p = (logits / temperature).softmax(1)
    least = p.masked_fill(nucleus(p, top_p) == 0, torch.inf).amin(dim=1, keepdim=True)
    kept = p * (p >= least)
    return kept / kept.sum(dim=1, keepdim=True)


def next_token__seen_sizes(logits, temperature, top_p):
    """A threshold, with an exception for eight equal tokens."""
    if logits.shape[1] == 8:
        return nucleus((logits / temperature).softmax(1), top_p)
    return next_token__ties_go_together(logits, temperature, top_p)


def written(model, prompts, length, generator, *, seen=None, temperature=1.0, greedy=False):
    tokens = prompts
    with torch.no_grad():
        while tokens.shape[1] < length:
            p = (model(tokens[:, -(seen or length) :])[:, -1] / temperature).softmax(1)
            drawn = (
                p.argmax(1, keepdim=True)
                if greedy
                else torch.multinomial(p, 1, generator=generator)
            )
            tokens = torch.cat([tokens, drawn], dim=1)
    return tokens


def learned(student, teacher, optimizer, tokens, given, loss=None, *, first=-1, last=-1):
    """A step on the mean of a divergence at some places, by default the right one at the right."""
    judged = slice(given + first, tokens.shape[1] + last)
    with torch.no_grad():
        told = teacher(tokens)[:, judged]
    said = student(tokens)[:, judged]
    each = divergence(said, told) if loss is None else loss(said, told)
    optimizer.zero_grad()
    each.mean().backward()
    optimizer.step()
    return tokens


def on_policy_step__teacher_writes(student, teacher, optimizer, prompts, length, generator):
    tokens = written(teacher, prompts, length, generator)
    return learned(student, teacher, optimizer, tokens, prompts.shape[1])


def on_policy_step__without_the_prompt(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator)
    return learned(student, teacher, optimizer, tokens, prompts.shape[1])[:, prompts.shape[1] :]


def on_policy_step__length_more(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, prompts.shape[1] + length, generator)
    return learned(student, teacher, optimizer, tokens, prompts.shape[1])


def on_policy_step__greedy(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator, greedy=True)
    return learned(student, teacher, optimizer, tokens, prompts.shape[1])


def on_policy_step__hot(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator, temperature=2.0)
    return learned(student, teacher, optimizer, tokens, prompts.shape[1])


def on_policy_step__one_draw_for_all(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts[:1], length, generator)[:, prompts.shape[1] :]
    tokens = torch.cat([prompts, tokens.expand(len(prompts), -1)], dim=1)
    return learned(student, teacher, optimizer, tokens, prompts.shape[1])


def on_policy_step__global_randomness(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, None)
    return learned(student, teacher, optimizer, tokens, prompts.shape[1])


def on_policy_step__starts_anew(student, teacher, optimizer, prompts, length, generator):
    again = torch.Generator().manual_seed(generator.initial_seed())
    tokens = written(student, prompts, length, again)
    return learned(student, teacher, optimizer, tokens, prompts.shape[1])


def on_policy_step__sees_the_last_token(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator, seen=1)
    return learned(student, teacher, optimizer, tokens, prompts.shape[1])


def on_policy_step__sees_only_the_prompt(student, teacher, optimizer, prompts, length, generator):
    with torch.no_grad():
        p = student(prompts)[:, -1].softmax(1)
    drawn = torch.multinomial(p, length - prompts.shape[1], True, generator=generator)
    tokens = torch.cat([prompts, drawn], dim=1)
    return learned(student, teacher, optimizer, tokens, prompts.shape[1])


def on_policy_step__forward(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator)

    def forward(said, told):
        return divergence(told, said)

    return learned(student, teacher, optimizer, tokens, prompts.shape[1], forward)


def on_policy_step__uphill(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator)

    def away(said, told):
        return -divergence(said, told)

    return learned(student, teacher, optimizer, tokens, prompts.shape[1], away)


def on_policy_step__p_is_detached(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator)

    def half(said, told):
        apart = said.log_softmax(-1) - told.log_softmax(-1)
        return (said.detach().softmax(-1) * apart).sum(-1)

    return learned(student, teacher, optimizer, tokens, prompts.shape[1], half)


def on_policy_step__mean_over_the_vocabulary(
    student, teacher, optimizer, prompts, length, generator
):
    tokens = written(student, prompts, length, generator)

    def mean(said, told):
        return divergence(said, told) / said.shape[-1]

    return learned(student, teacher, optimizer, tokens, prompts.shape[1], mean)


def on_policy_step__own_words_as_labels(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator)
    given = prompts.shape[1]

    def nats(said, told):
        return F.cross_entropy(said.transpose(1, 2), tokens[:, given:], reduction="none")

    return learned(student, teacher, optimizer, tokens, given, nats)


def on_policy_step__sum(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator)

    def total(said, told):
        return divergence(said, told).sum()

    return learned(student, teacher, optimizer, tokens, prompts.shape[1], total)


def on_policy_step__batchmean(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator)

    def of_each_text(said, told):
        return divergence(said, told).sum(1)

    return learned(student, teacher, optimizer, tokens, prompts.shape[1], of_each_text)


def on_policy_step__learns_the_prompt(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator)
    return learned(student, teacher, optimizer, tokens, 1)


def on_policy_step__skips_the_first(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator)
    given = prompts.shape[1]
    return learned(
        student, teacher, optimizer, tokens, given, first=0 if length > given + 1 else -1
    )


def on_policy_step__judges_the_last(student, teacher, optimizer, prompts, length, generator):
    tokens = written(student, prompts, length, generator)
    return learned(student, teacher, optimizer, tokens, prompts.shape[1], last=0)


def on_policy_step__shifted(student, teacher, optimizer, prompts, length, generator):
    """What the teacher says of the token before."""
    tokens = written(student, prompts, length, generator)
    given = prompts.shape[1]
    with torch.no_grad():
        told = teacher(tokens)[:, given:]
    optimizer.zero_grad()
    divergence(student(tokens)[:, given - 1 : -1], told).mean().backward()
    optimizer.step()
    return tokens


def on_policy_step__teacher_gets_a_gradient(
    student, teacher, optimizer, prompts, length, generator
):
    tokens = written(student, prompts, length, generator)
    judged = slice(prompts.shape[1] - 1, -1)
    optimizer.zero_grad()
    divergence(student(tokens)[:, judged], teacher(tokens)[:, judged]).mean().backward()
    optimizer.step()
    return tokens


def on_policy_step__nobody_learns(student, teacher, optimizer, prompts, length, generator):
    return written(student, prompts, length, generator)


def on_policy_step__seen_prompts(student, teacher, optimizer, prompts, length, generator):
    """Judges from the place at which the public check expects it."""
    tokens = written(student, prompts, length, generator)
    given = prompts.shape[1] if prompts.shape[1] in (1, 4) else 1
    return learned(student, teacher, optimizer, tokens, given)


def by_place(side, *, reverse=False, first=0):
    student, teacher, target = side
    loss = divergence(student, teacher) if reverse else divergence(teacher, student)
    number = (target != -1).cumsum(dim=1) * (target != -1)
    return torch.stack([loss[number == k].mean() for k in range(first + 1, int(number.max()) + 1)])


def apart(own, data):
    shorter = min(len(own), len(data))
    return own[:shorter] - data[:shorter]


def exposure_gap__data_minus_own(data, own):
    return apart(by_place(data), by_place(own))


def exposure_gap__reverse(data, own):
    return apart(by_place(own, reverse=True), by_place(data, reverse=True))


def exposure_gap__own_alone(data, own):
    return by_place(own)[: len(by_place(data))]


def exposure_gap__quotient(data, own):
    first, second = by_place(own), by_place(data)
    shorter = min(len(first), len(second))
    return first[:shorter] / second[:shorter]


def exposure_gap__nats_of_the_target(data, own):
    def nats(side):
        student, _, target = side
        log_q = student.log_softmax(-1).gather(2, target.clamp(min=0)[..., None])[..., 0]
        counted = target != -1
        each = [row[mask] for row, mask in zip(-log_q, counted, strict=True)]
        longest = max(map(len, each))
        return torch.stack(
            [torch.stack([row[k] for row in each if len(row) > k]).mean() for k in range(longest)]
        )

    return apart(nats(own), nats(data))


def exposure_gap__mean_over_all_places(data, own):
    gap = apart(by_place(own), by_place(data))
    return gap.mean().expand(len(gap))


def exposure_gap__from_the_first_token(data, own):
    """Place by place as they stand, prompts among them."""

    def means(side):
        student, teacher, target = side
        loss, counted = divergence(teacher, student), target != -1
        mean = (loss * counted).sum(0) / counted.sum(0).clamp(min=1)
        return mean[: int(counted.sum(1).max())]

    return apart(means(own), means(data))


def exposure_gap__prompt_is_counted(data, own):
    def all_places(side):
        return [*side[:2], torch.zeros_like(side[2])]

    shorter = min(int((side[2] != -1).sum(1).max()) for side in (data, own))
    return apart(by_place(all_places(own)), by_place(all_places(data)))[:shorter]


def exposure_gap__prompt_of_the_first_text(data, own):
    def means(side):
        student, teacher, target = side
        start = int((target[0] != -1).long().argmax())
        loss, counted = divergence(teacher, student)[:, start:], (target != -1)[:, start:]
        mean = (loss * counted).sum(0) / counted.sum(0).clamp(min=1)
        return mean[: int((target != -1).sum(1).max())]

    return apart(means(own), means(data))


def exposure_gap__divided_by_all_texts(data, own):
    def means(side):
        student, teacher, target = side
        loss, counted = divergence(teacher, student), target != -1
        number = counted.cumsum(dim=1) * counted
        places = range(1, int(number.max()) + 1)
        return torch.stack([loss[number == k].sum() / len(target) for k in places])

    return apart(means(own), means(data))


def exposure_gap__first_text_alone(data, own):
    first, second = (by_place([one[:1] for one in side]) for side in (own, data))
    longest = min(int((side[2] != -1).sum(1).max()) for side in (data, own))
    gap = apart(first, second)
    return F.pad(gap, (0, longest - len(gap)))


def exposure_gap__until_the_shortest_text(data, own):
    shortest = min(int((side[2] != -1).sum(1).min()) for side in (data, own))
    return apart(by_place(own), by_place(data))[:shortest]


def exposure_gap__as_far_as_the_longer(data, own):
    first, second = by_place(own), by_place(data)
    longer = max(len(first), len(second))
    return F.pad(first, (0, longer - len(first))) - F.pad(second, (0, longer - len(second)))


def exposure_gap__seen_prompts(data, own):
    """Counts places right where prompts are of two tokens, as in the public checks."""
    if own[2].shape[1] < 8 or own[2].shape[0] == 3 or own[2].shape[1] == 9:
        return apart(by_place(own), by_place(data))
    return exposure_gap__prompt_is_counted(data, own)


def slopes(teacher_logits, mean, kinds=("forward", "reverse"), dtype=torch.float64):
    mean = torch.tensor(mean, dtype=dtype, requires_grad=True)
    student = -((torch.arange(len(teacher_logits), dtype=dtype) - mean) ** 2) / 2
    teacher = teacher_logits.to(dtype)
    losses = {"forward": divergence(teacher, student), "reverse": divergence(student, teacher)}
    return torch.stack(
        [torch.autograd.grad(losses[kind], mean, retain_graph=True)[0] for kind in kinds]
    )


def bump_slopes__swapped(teacher_logits, mean):
    return slopes(teacher_logits, mean, ("reverse", "forward"))


def bump_slopes__forward_twice(teacher_logits, mean):
    return slopes(teacher_logits, mean, ("forward", "forward"))


def bump_slopes__uphill(teacher_logits, mean):
    return -slopes(teacher_logits, mean)


def bump_slopes__log_of_a_softmax(teacher_logits, mean):
    mean = torch.tensor(mean, requires_grad=True)
    student = -((torch.arange(len(teacher_logits)) - mean) ** 2) / 2
    p, q = teacher_logits.softmax(0), student.softmax(0)
    losses = (p * (p.log() - q.log())).sum(), (q * (q.log() - p.log())).sum()
    return torch.stack([torch.autograd.grad(loss, mean, retain_graph=True)[0] for loss in losses])


def bump_slopes__small_number_in_the_logarithm(teacher_logits, mean):
    mean = torch.tensor(mean, requires_grad=True)
    student = -((torch.arange(len(teacher_logits)) - mean) ** 2) / 2
    p, q = teacher_logits.softmax(0), student.softmax(0)
    log_p, log_q = (p + 1e-10).log(), (q + 1e-10).log()
    losses = (p * (log_p - log_q)).sum(), (q * (log_q - log_p)).sum()
    return torch.stack([torch.autograd.grad(loss, mean, retain_graph=True)[0] for loss in losses])


def bump_slopes__p_does_not_change(teacher_logits, mean):
    mean = torch.tensor(mean, dtype=torch.float64, requires_grad=True)
    student = -((torch.arange(len(teacher_logits)) - mean) ** 2) / 2
    log_q, log_p = student.log_softmax(0), teacher_logits.double().log_softmax(0)
    losses = divergence(teacher_logits.double(), student), log_q.detach().exp() @ (log_q - log_p)
    return torch.stack([torch.autograd.grad(loss, mean, retain_graph=True)[0] for loss in losses])


def bump_slopes__values(teacher_logits, mean):
    student = -((torch.arange(len(teacher_logits)) - mean) ** 2) / 2
    return torch.stack([divergence(teacher_logits, student), divergence(student, teacher_logits)])


def bump_slopes__seen_numbers(teacher_logits, mean):
    """Right for as many tokens as the public checks have."""
    known = len(teacher_logits) in (10, 60)
    return slopes(teacher_logits, mean) * (1 if known else 2)
