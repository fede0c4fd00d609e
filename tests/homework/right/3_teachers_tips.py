"""Right answers by unusual ways: ``question__way``. Each meets every requirement."""

import copy
import itertools
import random
from statistics import NormalDist

import numpy as np
import torch
from torch import nn
from torch.distributions import Binomial
from torch.nn import functional as F


def vote_accuracy__voter_by_voter(accuracy, voters):
    """The distribution of the number of right votes, after one voter more and more."""
    chances = [1.0]
    for _ in range(voters):
        wrong = [(1 - accuracy) * chance for chance in [*chances, 0.0]]
        right = [accuracy * chance for chance in [0.0, *chances]]
        chances = [a + b for a, b in zip(wrong, right, strict=True)]
    wins = sum(chances[voters // 2 + 1 :])
    return wins + 0.5 * chances[voters // 2] if voters % 2 == 0 else wins


def vote_accuracy__one_voter_less(accuracy, voters):
    voters -= 1 - voters % 2
    counts = torch.arange(voters // 2 + 1, voters + 1).double()
    p = torch.tensor(accuracy, dtype=torch.float64)
    return Binomial(voters, p).log_prob(counts).exp().sum() if 0 < accuracy < 1 else p


def vote_accuracy__in_float32(accuracy, voters):
    counts = torch.arange(voters + 1.0)
    ways = torch.tensor(voters + 1.0).lgamma() - (counts + 1).lgamma()
    ways = ways - (voters - counts + 1).lgamma()
    p = torch.tensor(accuracy)
    share = (ways + torch.xlogy(counts, p) + torch.xlogy(voters - counts, 1 - p)).exp()
    return (share * ((2 * counts - voters).sign() + 1) / 2).sum()


def vote_accuracy__by_polynomials(accuracy, voters):
    chances = np.array([1.0])
    for _ in range(voters):
        chances = np.convolve(chances, [1 - accuracy, accuracy])
    worth = np.sign(np.arange(voters + 1) - voters / 2) / 2 + 0.5
    return np.float64(chances @ worth)


def ema_update__by_a_new_state(teacher, student, momentum):
    newer = student.state_dict()
    blend = {
        name: momentum * value + (1 - momentum) * newer[name]
        if torch.is_floating_point(value)
        else newer[name].clone()
        for name, value in teacher.state_dict().items()
    }
    teacher.load_state_dict(blend)


def ema_update__by_data_and_buffers(teacher, student, momentum):
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.data = old.data * momentum + new.data * (1 - momentum)
    for old, new in zip(teacher.buffers(), student.buffers(), strict=True):
        if old.dtype in (torch.int64, torch.int32, torch.bool):
            old.fill_(new.item()) if new.dim() == 0 else old.copy_(new)
        else:
            old.mul_(momentum).add_(new, alpha=1 - momentum)


@torch.no_grad()
def ema_update__in_float64(teacher, student, momentum):
    pairs = zip(
        itertools.chain(teacher.parameters(), teacher.buffers()),
        itertools.chain(student.parameters(), student.buffers()),
        strict=True,
    )
    for old, new in pairs:
        whole = not old.is_floating_point()
        old.copy_(new if whole else new.double() + momentum * (old.double() - new.double()))


def ema_update__with_new_parameters(teacher, student, momentum):
    own = dict(student.named_modules())
    for name, module in teacher.named_modules():
        for key, old in list(module.named_parameters(recurse=False)):
            new = own[name].get_parameter(key)
            setattr(module, key, nn.Parameter(torch.lerp(new.detach(), old.detach(), momentum)))
        for key, old in list(module.named_buffers(recurse=False)):
            new = own[name].get_buffer(key)
            whole = not old.is_floating_point()
            setattr(module, key, new.clone() if whole else torch.lerp(new, old, momentum))


def mutual_step__soft_targets(students, optimizers, inputs, target):
    """Cross-entropy with the peer's prediction has the gradient of KL."""
    for turn in (0, 1):
        heard = students[1 - turn](inputs).detach().softmax(dim=-1)
        optimizers[turn].zero_grad(set_to_none=False)
        logits = students[turn](inputs)
        loss = F.cross_entropy(logits, target) + F.cross_entropy(logits, heard)
        (loss + (heard * heard.log()).sum(1).mean()).backward()
        optimizers[turn].step()


def mutual_step__one_target(students, optimizers, inputs, target):
    """Both losses are one cross-entropy, with twice the mean of label and prediction."""
    for student, peer, optimizer in zip(students, students[::-1], optimizers, strict=True):
        frozen = copy.deepcopy(peer).requires_grad_(False)
        said = frozen(inputs).softmax(1)
        goal = (said + F.one_hot(target, said.shape[1])) / 2
        optimizer.zero_grad()
        (2 * F.cross_entropy(student(inputs), goal)).backward()
        optimizer.step()
        optimizer.zero_grad()


def mutual_step__by_autograd_in_float64(students, optimizers, inputs, target):
    for student, optimizer in zip(students, optimizers, strict=True):
        (peer,) = (one for one in students if one is not student)
        with torch.inference_mode():
            told = F.log_softmax(peer(inputs).double(), dim=1)
        told = told.clone()
        weights = list(student.parameters())
        scores = F.log_softmax(student(inputs).double(), dim=1)
        loss = F.nll_loss(scores, target) + F.kl_div(
            scores, told, reduction="sum", log_target=True
        ) / len(inputs)
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        optimizer.step()


def mutual_step__peer_without_requires_grad(students, optimizers, inputs, target):
    for number, student in enumerate(students):
        peer = students[1 - number].requires_grad_(False)
        p, q = peer(inputs).softmax(1), student(inputs).softmax(1)
        each = (p * (p / q).log()).sum(1) - q[torch.arange(len(q)), target].log()
        optimizers[number].zero_grad()
        each.mean().backward()
        optimizers[number].step()
        peer.requires_grad_(True)


def magnitude_masks__kth_value_and_ties(weights, sparsity):
    magnitudes = torch.cat([weight.abs().reshape(-1) for weight in weights])
    left = round(sparsity * len(magnitudes))
    if not left:
        return [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
    threshold = magnitudes.kthvalue(left).values
    left -= int((magnitudes < threshold).sum())  # so many of those at the threshold go, too
    masks = []
    for weight in weights:
        mask = weight.abs().flatten() > threshold
        tied = (weight.abs().flatten() == threshold).nonzero().flatten()
        mask[tied[left:]] = True
        left -= min(left, len(tied))
        masks.append(mask.view_as(weight))
    return masks


def magnitude_masks__largest_by_topk(weights, sparsity):
    squares = torch.cat([weight.double().square().flatten() for weight in weights])
    keep = squares.topk(len(squares) - round(sparsity * len(squares))).indices
    kept = torch.zeros(len(squares)).index_fill(0, keep, 1.0)
    parts = kept.split([weight.numel() for weight in weights])
    return tuple(part.view(weight.shape) > 0.5 for part, weight in zip(parts, weights, strict=True))


def magnitude_masks__sorted_lists(weights, sparsity):
    places = [
        (abs(value), layer, place)
        for layer, weight in enumerate(weights)
        for place, value in enumerate(weight.flatten().tolist())
    ]
    masks = [torch.full(weight.shape, True) for weight in weights]
    for _, layer, place in sorted(places)[: round(sparsity * len(places))]:
        masks[layer].view(-1)[place] = False
    return masks


def magnitude_masks__ranks_in_numpy(weights, sparsity):
    flat = np.concatenate([np.abs(weight.numpy()).ravel() for weight in weights])
    ranks = np.empty(len(flat), dtype=int)
    ranks[np.argsort(flat, kind="stable")] = np.arange(len(flat))
    kept = torch.from_numpy(ranks >= round(sparsity * len(flat)))
    ends = np.cumsum([weight.numel() for weight in weights])
    return [kept[e - w.numel() : e].reshape(w.shape) for e, w in zip(ends, weights, strict=True)]


def mixup_views__image_by_image(pixels, generator):
    order = torch.randperm(len(pixels), generator=generator).tolist()
    views = []
    for image, other in zip(pixels, order, strict=True):
        share = torch.rand((), generator=generator, dtype=torch.float64)
        views.append(torch.lerp(pixels[other].double(), image.double(), share))
    return torch.stack(views), torch.stack(views).float()


def mixup_views__by_a_matrix(pixels, generator):
    count = len(pixels)
    share = torch.empty(count).uniform_(generator=generator)
    weights = torch.diag(share)
    weights[torch.arange(count), torch.rand(count, generator=generator).argsort()] += 1 - share
    mixed = torch.einsum("ij,jchw->ichw", weights, pixels)
    return mixed, mixed.clone()


def mixup_views__no_image_with_itself(pixels, generator):
    """Partners in a ring, in random order: a permutation without fixed points."""
    ring = torch.randperm(len(pixels), generator=generator)
    other = torch.empty_like(ring).scatter(0, ring, ring.roll(1))
    share = 1 - torch.rand(len(pixels), generator=generator).reshape(-1, 1, 1, 1)
    mixed = pixels[other] + share * (pixels - pixels[other])
    return [mixed, mixed]


def mixup_views__seed_from_the_generator(pixels, generator):
    seed = int(torch.randint(2**31, (1,), generator=generator))
    draw = random.Random(seed)
    other = draw.sample(range(len(pixels)), len(pixels))
    share = torch.tensor([NormalDist().cdf(draw.gauss(0, 1)) for _ in other]).view(-1, 1, 1, 1)
    mixed = share * pixels + (1 - share) * pixels[other]
    return mixed, mixed
