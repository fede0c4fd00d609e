"""Wrong answers, ``question__mistake``: each fails a public check.

Those that begin with ``seen`` know the inputs of the public checks, and fail hidden ones only.
"""

import copy
import itertools
import math

import torch
from torch.nn import functional as F


def counted(accuracy, voters, tie):
    right = 0.0
    for count in range(voters + 1):
        share = math.comb(voters, count) * accuracy**count * (1 - accuracy) ** (voters - count)
        right += share * (1.0 if 2 * count > voters else tie if 2 * count == voters else 0.0)
    return right


def vote_accuracy__ties_are_won(accuracy, voters):
    return counted(accuracy, voters, 1.0)


def vote_accuracy__ties_are_lost(accuracy, voters):
    return counted(accuracy, voters, 0.0)


def vote_accuracy__without_binomial(accuracy, voters):
    return sum(
        accuracy**count * (1 - accuracy) ** (voters - count)
        for count in range(voters + 1)
        if 2 * count > voters
    )


def vote_accuracy__all_must_be_right(accuracy, voters):
    return accuracy**voters


def vote_accuracy__one_is_enough(accuracy, voters):
    return 1 - (1 - accuracy) ** voters


def vote_accuracy__nobody_helps(accuracy, voters):
    return accuracy


def vote_accuracy__wrong_votes(accuracy, voters):
    return counted(1 - accuracy, voters, 0.5)


def vote_accuracy__all_outcomes(accuracy, voters):
    right = 0.0
    for votes in itertools.product((0, 1), repeat=voters):
        share = math.prod(accuracy if vote else 1 - accuracy for vote in votes)
        right += share * (
            1.0 if 2 * sum(votes) > voters else 0.5 if 2 * sum(votes) == voters else 0
        )
    return right


def vote_accuracy__by_logarithms(accuracy, voters):
    right = 0.0
    for count in range(voters + 1):
        share = math.log(math.comb(voters, count)) + count * math.log(accuracy)
        share = math.exp(share + (voters - count) * math.log(1 - accuracy))
        right += share * (1.0 if 2 * count > voters else 0.5 if 2 * count == voters else 0.0)
    return right


def vote_accuracy__factorials_overflow(accuracy, voters):
    right = 0.0
    for count in range(voters + 1):
        ways = math.gamma(voters + 1) / math.gamma(count + 1) / math.gamma(voters - count + 1)
        share = ways * accuracy**count * (1 - accuracy) ** (voters - count)
        right += share * (1.0 if 2 * count > voters else 0.5 if 2 * count == voters else 0.0)
    return right


def vote_accuracy__seen_numbers(accuracy, voters):
    known = {(0.7, 5): 0.83692, (0.7, 4): 0.784, (0.55, 301): 0.959136}
    return known.get((accuracy, voters), accuracy)


def vote_accuracy__seen_four_voters(accuracy, voters):
    """Right for four voters, but every other tie is lost."""
    return counted(accuracy, voters, 0.5 if voters == 4 else 0.0)


def averaged(teacher, student, momentum, names=None):
    newer = student.state_dict()
    for name, value in teacher.state_dict().items():
        if names is None or name in names:
            if value.is_floating_point():
                value.lerp_(newer[name], 1 - momentum)
            else:
                value.copy_(newer[name])


def ema_update__inverted(teacher, student, momentum):
    averaged(teacher, student, 1 - momentum)


def ema_update__without_buffers(teacher, student, momentum):
    averaged(teacher, student, momentum, dict(teacher.named_parameters()))


def ema_update__copies_the_buffers(teacher, student, momentum):
    averaged(teacher, student, momentum, dict(teacher.named_parameters()))
    averaged(teacher, student, 0.0, dict(teacher.named_buffers()))


def ema_update__without_the_counter(teacher, student, momentum):
    names = [name for name, one in teacher.state_dict().items() if one.is_floating_point()]
    averaged(teacher, student, momentum, names)


def ema_update__moves_the_student(teacher, student, momentum):
    averaged(student, teacher, momentum)


def ema_update__moves_both(teacher, student, momentum):
    for name, value in student.state_dict().items():
        if value.is_floating_point():
            value.mul_(1 - momentum).add_(teacher.state_dict()[name], alpha=momentum)
    averaged(teacher, student, 0.0)


def ema_update__copies(teacher, student, momentum):
    averaged(teacher, student, 0.0)


def ema_update__matrices_only(teacher, student, momentum):
    names = [name for name, one in teacher.state_dict().items() if not name.endswith("bias")]
    averaged(teacher, student, momentum, names)


def ema_update__averages_the_counter(teacher, student, momentum):
    newer = student.state_dict()
    for name, value in teacher.state_dict().items():
        value.copy_(momentum * value + (1 - momentum) * newer[name])


def ema_update__changes_a_copy(teacher, student, momentum):
    averaged(copy.deepcopy(teacher), student, momentum)


def ema_update__without_no_grad(teacher, student, momentum):
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.mul_(momentum).add_((1 - momentum) * new)


def ema_update__seen_momentum(teacher, student, momentum):
    averaged(teacher, student, 0.5 if momentum == 0.5 else 0.9)


def told_by(logits):
    return F.log_softmax(logits, dim=1)


def kl(logits, told, reduction="batchmean"):
    return F.kl_div(F.log_softmax(logits, dim=1), told, reduction=reduction, log_target=True)


def both_losses(logits, heard, target):
    return F.cross_entropy(logits, target) + kl(logits, told_by(heard))


def mutual_step__simultaneous(students, optimizers, inputs, target):
    told = [told_by(student(inputs)).detach() for student in students]
    for student, optimizer, peer in zip(students, optimizers, told[::-1], strict=True):
        logits = student(inputs)
        optimizer.zero_grad()
        (F.cross_entropy(logits, target) + kl(logits, peer)).backward()
        optimizer.step()


def mutual_step__peer_not_detached(students, optimizers, inputs, target):
    for student, peer, optimizer in zip(students, students[::-1], optimizers, strict=True):
        optimizer.zero_grad()
        both_losses(student(inputs), peer(inputs), target).backward()
        optimizer.step()


def mutual_step__losses_minimised_together(students, optimizers, inputs, target):
    for optimizer in optimizers:
        optimizer.zero_grad()
    first, second = (student(inputs) for student in students)
    labels = F.cross_entropy(first, target) + F.cross_entropy(second, target)
    (labels + kl(first, told_by(second)) + kl(second, told_by(first))).backward()
    for optimizer in optimizers:
        optimizer.step()


def mutual_step__peer_gets_the_gradient(students, optimizers, inputs, target):
    for number in range(2):
        student, peer = students[number], students[1 - number]
        logits = student(inputs)
        optimizers[number].zero_grad()
        (F.cross_entropy(logits, target) + kl(logits, told_by(peer(inputs)))).backward()
        for optimizer in optimizers:
            optimizer.step()


def one_after_the_other(students, optimizers, inputs, target, loss=both_losses, zero=True):
    for student, peer, optimizer in zip(students, students[::-1], optimizers, strict=True):
        logits, heard = student(inputs), peer(inputs).detach()
        if zero:
            optimizer.zero_grad()
        loss(logits, heard, target).backward()
        optimizer.step()


def mutual_step__labels_only(students, optimizers, inputs, target):
    one_after_the_other(
        students, optimizers, inputs, target, lambda z, _, target: F.cross_entropy(z, target)
    )


def mutual_step__peer_only(students, optimizers, inputs, target):
    one_after_the_other(
        students, optimizers, inputs, target, lambda z, heard, _: kl(z, told_by(heard))
    )


def mutual_step__reversed_divergence(students, optimizers, inputs, target):
    def loss(logits, heard, target):
        reverse = (logits.softmax(1) * (logits.log_softmax(1) - told_by(heard))).sum(1).mean()
        return F.cross_entropy(logits, target) + reverse

    one_after_the_other(students, optimizers, inputs, target, loss)


def mutual_step__element_mean(students, optimizers, inputs, target):
    def loss(logits, heard, target):
        return F.cross_entropy(logits, target) + kl(logits, told_by(heard)) / logits.shape[1]

    one_after_the_other(students, optimizers, inputs, target, loss)


def mutual_step__sum_over_the_samples(students, optimizers, inputs, target):
    def loss(logits, heard, target):
        return F.cross_entropy(logits, target) + kl(logits, told_by(heard), "sum")

    one_after_the_other(students, optimizers, inputs, target, loss)


def mutual_step__second_first(students, optimizers, inputs, target):
    one_after_the_other(students[::-1], optimizers[::-1], inputs, target)


def mutual_step__optimizers_exchanged(students, optimizers, inputs, target):
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    own = [torch.optim.SGD(s.parameters(), lr) for s, lr in zip(students, rates[::-1], strict=True)]
    one_after_the_other(students, own, inputs, target)


def mutual_step__without_zero_grad(students, optimizers, inputs, target):
    one_after_the_other(students, optimizers, inputs, target, zero=False)


def mutual_step__only_the_first_learns(students, optimizers, inputs, target):
    one_after_the_other([students[0]], optimizers[:1], inputs, target)


def mutual_step__trains(students, optimizers, inputs, target):
    for student in students:
        student.train()
    one_after_the_other(students, optimizers, inputs, target)


def mutual_step__leaves_the_peer_in_eval_mode(students, optimizers, inputs, target):
    for student, peer, optimizer in zip(students, students[::-1], optimizers, strict=True):
        student.train()
        peer.eval()
        with torch.no_grad():
            heard = peer(inputs)
        optimizer.zero_grad()
        both_losses(student(inputs), heard, target).backward()
        optimizer.step()


def mutual_step__seen_three_classes(students, optimizers, inputs, target):
    def loss(logits, heard, target):
        divergence = kl(logits, told_by(heard)) * 3 / logits.shape[1]
        return F.cross_entropy(logits, target) + divergence

    one_after_the_other(students, optimizers, inputs, target, loss)


def gone(scores, count):
    """Mark all but the ``count`` smallest."""
    kept = torch.ones(scores.numel(), dtype=torch.bool)
    kept[scores.flatten().argsort()[:count]] = False
    return kept.view(scores.shape)


def magnitude_masks__layer_by_layer(weights, sparsity):
    return [gone(weight.abs(), round(sparsity * weight.numel())) for weight in weights]


def together(weights, sparsity, score, whole=round):
    scores = torch.cat([score(weight).flatten() for weight in weights])
    parts = gone(scores, whole(sparsity * len(scores))).split([w.numel() for w in weights])
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def magnitude_masks__signed(weights, sparsity):
    return together(weights, sparsity, lambda weight: weight)


def magnitude_masks__inverted(weights, sparsity):
    return [~mask for mask in together(weights, sparsity, torch.abs)]


def magnitude_masks__largest_go(weights, sparsity):
    return together(weights, sparsity, lambda weight: -weight.abs())


def magnitude_masks__rounds_down(weights, sparsity):
    return together(weights, sparsity, torch.abs, int)


def magnitude_masks__rounds_up(weights, sparsity):
    return together(weights, sparsity, torch.abs, math.ceil)


def magnitude_masks__in_floating_point(weights, sparsity):
    return [mask.float() for mask in together(weights, sparsity, torch.abs)]


def magnitude_masks__one_vector(weights, sparsity):
    return torch.cat([mask.flatten() for mask in together(weights, sparsity, torch.abs)])


def magnitude_masks__pruned_weights(weights, sparsity):
    masks = together(weights, sparsity, torch.abs)
    return [mask * weight for mask, weight in zip(masks, weights, strict=True)]


def magnitude_masks__ties_go_together(weights, sparsity):
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights])
    count = round(sparsity * len(magnitudes))
    threshold = magnitudes.sort().values[count - 1] if count else -1
    return [weight.abs() > threshold for weight in weights]


def magnitude_masks__ties_stay_together(weights, sparsity):
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights])
    threshold = magnitudes.sort().values[round(sparsity * len(magnitudes))]
    return [weight.abs() >= threshold for weight in weights]


def magnitude_masks__quantile(weights, sparsity):
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights])
    return [weight.abs() >= magnitudes.quantile(sparsity) for weight in weights]


def magnitude_masks__changes_the_weights(weights, sparsity):
    masks = together(weights, sparsity, torch.abs)
    for weight, mask in zip(weights, masks, strict=True):
        weight.mul_(mask)
    return masks


def magnitude_masks__seen_ties(weights, sparsity):
    """A threshold, with an exception for ten equal weights."""
    if sum(weight.numel() for weight in weights) == 10:
        return together(weights, sparsity, torch.abs)
    return magnitude_masks__ties_go_together(weights, sparsity)


def mixed(pixels, share, other):
    return share * pixels + (1 - share) * pixels[other]


def shares(pixels, generator):
    return torch.rand(len(pixels), 1, 1, 1, generator=generator)


def permuted(pixels, generator):
    return torch.randperm(len(pixels), generator=generator)


def drawn(pixels, generator):
    return mixed(pixels, shares(pixels, generator), permuted(pixels, generator))


def twice(views):
    return views, views


def mixup_views__two_draws(pixels, generator):
    return drawn(pixels, generator), drawn(pixels, generator)


def mixup_views__other_shares_for_the_teacher(pixels, generator):
    other = permuted(pixels, generator)
    return tuple(mixed(pixels, shares(pixels, generator), other) for _ in range(2))


def mixup_views__one_share_for_all(pixels, generator):
    return twice(mixed(pixels, torch.rand((), generator=generator), permuted(pixels, generator)))


def mixup_views__one_view(pixels, generator):
    return drawn(pixels, generator)


def mixup_views__teacher_sees_the_original(pixels, generator):
    return drawn(pixels, generator), pixels


def mixup_views__global_randomness(pixels, generator):
    return twice(drawn(pixels, None))


def mixup_views__global_permutation(pixels, generator):
    return twice(mixed(pixels, shares(pixels, generator), permuted(pixels, None)))


def mixup_views__starts_the_generator_anew(pixels, generator):
    return twice(drawn(pixels, torch.Generator().manual_seed(generator.initial_seed())))


def mixup_views__not_mixed(pixels, generator):
    return pixels, pixels


def mixup_views__shares_do_not_add_up(pixels, generator):
    other = pixels[permuted(pixels, generator)]
    return twice(pixels + shares(pixels, generator) * other)


def mixup_views__two_others(pixels, generator):
    first, second = pixels[permuted(pixels, generator)], permuted(pixels, generator)
    return twice(mixed(first, shares(pixels, generator), second))


def mixup_views__three_images(pixels, generator):
    return twice(drawn(drawn(pixels, generator), generator))


def mixup_views__normal_shares(pixels, generator):
    share = torch.randn(len(pixels), 1, 1, 1, generator=generator)
    return twice(mixed(pixels, share, permuted(pixels, generator)))


def mixup_views__own_share_is_larger(pixels, generator):
    share = shares(pixels, generator)
    return twice(mixed(pixels, torch.maximum(share, 1 - share), permuted(pixels, generator)))


def mixup_views__a_share_for_every_pixel(pixels, generator):
    share = torch.rand(pixels.shape, generator=generator)
    return twice(mixed(pixels, share, permuted(pixels, generator)))


def mixup_views__partners_drawn_one_by_one(pixels, generator):
    other = torch.randint(len(pixels), (len(pixels),), generator=generator)
    return twice(mixed(pixels, shares(pixels, generator), other))


def mixup_views__always_the_next(pixels, generator):
    other = torch.arange(len(pixels)).roll(1)
    return twice(mixed(pixels, shares(pixels, generator), other))


def mixup_views__seen_batches(pixels, generator):
    """Right for as many images as the public checks have."""
    if len(pixels) in (16, 64):
        return twice(drawn(pixels, generator))
    return mixup_views__one_share_for_all(pixels, generator)
