"""Wrong answers: ``question__mistake``. Each loses the points of its question, and no others."""

import copy
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


def ema_update__moves_the_student(teacher, student, momentum):
    averaged(student, teacher, momentum)


def ema_update__copies(teacher, student, momentum):
    averaged(teacher, student, 0.0)


def ema_update__averages_the_counter(teacher, student, momentum):
    newer = student.state_dict()
    for name, value in teacher.state_dict().items():
        value.copy_(momentum * value + (1 - momentum) * newer[name])


def ema_update__changes_a_copy(teacher, student, momentum):
    averaged(copy.deepcopy(teacher), student, momentum)


def told_by(logits):
    return F.log_softmax(logits, dim=1)


def kl(logits, told):
    return F.kl_div(F.log_softmax(logits, dim=1), told, reduction="batchmean", log_target=True)


def mutual_step__simultaneous(students, optimizers, inputs, target):
    told = [told_by(student(inputs)).detach() for student in students]
    for student, optimizer, peer in zip(students, optimizers, told[::-1], strict=True):
        logits = student(inputs)
        optimizer.zero_grad()
        (F.cross_entropy(logits, target) + kl(logits, peer)).backward()
        optimizer.step()


def mutual_step__peer_not_detached(students, optimizers, inputs, target):
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


def one_after_the_other(students, optimizers, inputs, target, loss):
    for student, peer, optimizer in zip(students, students[::-1], optimizers, strict=True):
        logits, heard = student(inputs), peer(inputs).detach()
        optimizer.zero_grad()
        loss(logits, heard).backward()
        optimizer.step()


def mutual_step__labels_only(students, optimizers, inputs, target):
    one_after_the_other(
        students, optimizers, inputs, target, lambda z, _: F.cross_entropy(z, target)
    )


def mutual_step__reversed_divergence(students, optimizers, inputs, target):
    def loss(logits, heard):
        reverse = (logits.softmax(1) * (logits.log_softmax(1) - told_by(heard))).sum(1).mean()
        return F.cross_entropy(logits, target) + reverse

    one_after_the_other(students, optimizers, inputs, target, loss)


def mutual_step__element_mean(students, optimizers, inputs, target):
    def loss(logits, heard):
        return F.cross_entropy(logits, target) + kl(logits, told_by(heard)) / logits.shape[1]

    one_after_the_other(students, optimizers, inputs, target, loss)


def mutual_step__second_first(students, optimizers, inputs, target):
    def loss(logits, heard):
        return F.cross_entropy(logits, target) + kl(logits, told_by(heard))

    one_after_the_other(students[::-1], optimizers[::-1], inputs, target, loss)


def smallest(scores, sparsity):
    kept = torch.ones(scores.numel(), dtype=torch.bool)
    kept[scores.flatten().argsort()[: round(sparsity * scores.numel())]] = False
    return kept.view(scores.shape)


def magnitude_masks__layer_by_layer(weights, sparsity):
    return [smallest(weight.abs(), sparsity) for weight in weights]


def together(weights, sparsity, score):
    kept = smallest(torch.cat([score(weight).flatten() for weight in weights]), sparsity)
    parts = kept.split([weight.numel() for weight in weights])
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def magnitude_masks__signed(weights, sparsity):
    return together(weights, sparsity, lambda weight: weight)


def magnitude_masks__inverted(weights, sparsity):
    return [~mask for mask in together(weights, sparsity, torch.abs)]


def magnitude_masks__largest_go(weights, sparsity):
    return together(weights, sparsity, lambda weight: -weight.abs())


def magnitude_masks__ties_go_together(weights, sparsity):
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights])
    count = round(sparsity * len(magnitudes))
    threshold = magnitudes.sort().values[count - 1] if count else -1
    return [weight.abs() > threshold for weight in weights]


def magnitude_masks__changes_the_weights(weights, sparsity):
    masks = together(weights, sparsity, torch.abs)
    for weight, mask in zip(weights, masks, strict=True):
        weight.mul_(mask)
    return masks


def mixed(pixels, generator, shape=None):
    share = torch.rand(shape or (len(pixels), 1, 1, 1), generator=generator)
    other = pixels[torch.randperm(len(pixels), generator=generator)]
    return share * pixels + (1 - share) * other


def mixup_views__two_draws(pixels, generator):
    return mixed(pixels, generator), mixed(pixels, generator)


def mixup_views__one_share_for_all(pixels, generator):
    views = mixed(pixels, generator, (1, 1, 1, 1))
    return views, views


def mixup_views__teacher_sees_the_original(pixels, generator):
    return mixed(pixels, generator), pixels


def mixup_views__global_randomness(pixels, generator):
    views = mixed(pixels, None)
    return views, views


def mixup_views__not_mixed(pixels, generator):
    return pixels, pixels


def mixup_views__shares_do_not_add_up(pixels, generator):
    share = torch.rand(len(pixels), 1, 1, 1, generator=generator)
    views = pixels + share * pixels[torch.randperm(len(pixels), generator=generator)]
    return views, views


def mixup_views__normal_shares(pixels, generator):
    share = torch.randn(len(pixels), 1, 1, 1, generator=generator)
    other = pixels[torch.randperm(len(pixels), generator=generator)]
    views = share * pixels + (1 - share) * other
    return views, views
