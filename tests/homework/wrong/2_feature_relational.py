"""Wrong answers: ``question__mistake``. Each loses the points of its question, and no others."""

import torch
from torch.nn import functional as F

from kdcourse.checks import at_least_float32
from kdcourse.relational import distances


def attention_map__unnormalised(features, power=2.0):
    return at_least_float32(features).abs().pow(power).mean(dim=1).flatten(1)


def attention_map__normalised_over_the_batch(features, power=2.0):
    pooled = attention_map__unnormalised(features, power)
    return pooled / pooled.norm().clamp_min(1e-12)


def attention_map__sums_to_one(features, power=2.0):
    pooled = attention_map__unnormalised(features, power)
    return pooled / pooled.sum(dim=1, keepdim=True).clamp_min(1e-12)


def attention_map__power_after_the_mean(features, power=2.0):
    return F.normalize(at_least_float32(features).abs().mean(dim=1).pow(power).flatten(1), dim=1)


def attention_map__zero_divided_by_zero(features, power=2.0):
    pooled = attention_map__unnormalised(features, power)
    return pooled / pooled.norm(dim=1, keepdim=True)


def attention_map__overflows_in_half_precision(features, power=2.0):
    return F.normalize(features.abs().pow(power).mean(dim=1).flatten(1), dim=1)


def maps(student_features, teacher_features):
    return (
        F.normalize(at_least_float32(features).square().mean(dim=1).flatten(1), dim=1)
        for features in (student_features, teacher_features)
    )


def attention_loss__unnormalised_maps(student_features, teacher_features):
    student, teacher = (
        at_least_float32(features).square().mean(dim=1).flatten(1)
        for features in (student_features, teacher_features.detach())
    )
    return torch.linalg.vector_norm(student - teacher, dim=1).mean()


def attention_loss__squared(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features.detach())
    return (student - teacher).square().sum(dim=1).mean()


def attention_loss__mean_over_positions(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features.detach())
    return (student - teacher).square().mean()


def attention_loss__sum_over_the_batch(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features.detach())
    return torch.linalg.vector_norm(student - teacher, dim=1).sum()


def attention_loss__leaks_to_the_teacher(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features)
    return torch.linalg.vector_norm(student - teacher, dim=1).mean()


def attention_loss__root_of_zero(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features.detach())
    return (student - teacher).square().sum(dim=1).sqrt().mean()


def projected(student_features, size, weight, bias):
    student, weight, bias = (at_least_float32(x) for x in (student_features, weight, bias))
    return F.conv2d(F.adaptive_avg_pool2d(student, size), weight[:, :, None, None], bias)


def projected_loss__sum(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    student = projected(student_features, teacher.shape[-2:], weight, bias)
    return F.mse_loss(student, teacher, reduction="sum")


def projected_loss__sum_over_the_channels(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    student = projected(student_features, teacher.shape[-2:], weight, bias)
    return (student - teacher).square().sum(dim=1).mean()


def projected_loss__leaks_to_the_teacher(student_features, teacher_features, weight, bias):
    student = projected(student_features, teacher_features.shape[-2:], weight, bias)
    return F.mse_loss(student, at_least_float32(teacher_features))


def projected_loss__without_bias(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    return F.mse_loss(projected(student_features, teacher.shape[-2:], weight, 0 * bias), teacher)


def projected_loss__frozen_projection(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    student = projected(student_features, teacher.shape[-2:], weight.detach(), bias.detach())
    return F.mse_loss(student, teacher)


def projected_loss__picks_instead_of_averaging(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    picked = F.interpolate(at_least_float32(student_features), teacher.shape[-2:])
    return F.mse_loss(projected(picked, teacher.shape[-2:], weight, bias), teacher)


def relative(embeddings, mean=None):
    distance = distances(embeddings)
    pairs = len(distance) * (len(distance) - 1)
    return distance / (distance.sum() / pairs if mean is None else mean)


def rkd_distance_loss__mean_with_the_diagonal(student_embeddings, teacher_embeddings):
    return F.smooth_l1_loss(relative(student_embeddings), relative(teacher_embeddings.detach()))


def rkd_distance_loss__own_mean_with_the_diagonal(student_embeddings, teacher_embeddings):
    pairs = len(student_embeddings) * (len(student_embeddings) - 1)
    both = [distances(one) for one in (student_embeddings, teacher_embeddings.detach())]
    return F.smooth_l1_loss(*(d / d.mean() for d in both), reduction="sum") / pairs


def rkd_distance_loss__without_its_own_mean(student_embeddings, teacher_embeddings):
    pairs = len(student_embeddings) * (len(student_embeddings) - 1)
    teacher = distances(teacher_embeddings.detach())
    mean = teacher.sum() / pairs
    student = relative(student_embeddings, mean)
    return F.smooth_l1_loss(student, teacher / mean, reduction="sum") / pairs


def rkd_distance_loss__plain_distances(student_embeddings, teacher_embeddings):
    pairs = len(student_embeddings) * (len(student_embeddings) - 1)
    student, teacher = distances(student_embeddings), distances(teacher_embeddings.detach())
    return F.smooth_l1_loss(student, teacher, reduction="sum") / pairs


def rkd_distance_loss__squared_error(student_embeddings, teacher_embeddings):
    pairs = len(student_embeddings) * (len(student_embeddings) - 1)
    student, teacher = relative(student_embeddings), relative(teacher_embeddings.detach())
    return (student - teacher).square().sum() / pairs


def rkd_distance_loss__leaks_to_the_teacher(student_embeddings, teacher_embeddings):
    pairs = len(student_embeddings) * (len(student_embeddings) - 1)
    student, teacher = relative(student_embeddings), relative(teacher_embeddings)
    return F.smooth_l1_loss(student, teacher, reduction="sum") / pairs


def rkd_distance_loss__by_inner_products(student_embeddings, teacher_embeddings):
    pairs = len(student_embeddings) * (len(student_embeddings) - 1)
    both = []
    for one in (student_embeddings, teacher_embeddings.detach()):
        z = at_least_float32(one)
        square = z.square().sum(1)
        distance = (square[:, None] + square - 2 * z @ z.T).clamp_min(1e-12).sqrt()
        distance = distance * (1 - torch.eye(len(z), dtype=z.dtype))
        both.append(distance / (distance.sum() / pairs))
    return F.smooth_l1_loss(*both, reduction="sum") / pairs


def cosines(embeddings, vertex=None):
    distance = distances(embeddings)
    square = distance.square()
    sides = square[:, :, None] + square[:, None, :] - square
    product = 2 * distance[:, :, None] * distance[:, None, :]
    return torch.where(product == 0, 0.0, sides / torch.where(product == 0, 1.0, product))


def triples(samples):
    other = ~torch.eye(samples, dtype=torch.bool)
    return other[:, :, None] & other[:, None, :] & other


def rkd_angle_loss__mean_over_all_triples(student_embeddings, teacher_embeddings):
    return F.smooth_l1_loss(cosines(student_embeddings), cosines(teacher_embeddings.detach()))


def rkd_angle_loss__n_by_n_by_d(student_embeddings, teacher_embeddings):
    both = []
    for z in (student_embeddings, teacher_embeddings.detach()):
        e = F.normalize(at_least_float32(z)[None] - at_least_float32(z)[:, None], dim=2)
        both.append((e @ e.mT)[triples(len(z))])
    return F.smooth_l1_loss(*both)


def rkd_angle_loss__leaks_to_the_teacher(student_embeddings, teacher_embeddings):
    chosen = triples(len(student_embeddings))
    both = [cosines(z)[chosen] for z in (student_embeddings, teacher_embeddings)]
    return F.smooth_l1_loss(*both)


def rkd_angle_loss__not_divided_by_the_sides(student_embeddings, teacher_embeddings):
    chosen = triples(len(student_embeddings))
    both = []
    for z in (student_embeddings, teacher_embeddings.detach()):
        square = distances(z).square()
        both.append((square[:, :, None] + square[:, None, :] - square)[chosen] / 2)
    return F.smooth_l1_loss(*both)


def rkd_angle_loss__zero_divided_by_zero(student_embeddings, teacher_embeddings):
    chosen = triples(len(student_embeddings))
    both = []
    for z in (student_embeddings, teacher_embeddings.detach()):
        distance = distances(z)
        square = distance.square()
        sides = square[:, :, None] + square[:, None, :] - square
        both.append((sides / (2 * distance[:, :, None] * distance[:, None, :]))[chosen])
    return F.smooth_l1_loss(*both)


def rkd_angle_loss__squared_error(student_embeddings, teacher_embeddings):
    chosen = triples(len(student_embeddings))
    both = [cosines(z)[chosen] for z in (student_embeddings, teacher_embeddings.detach())]
    return F.mse_loss(*both)


def recall_at_1__finds_itself(embeddings, target):
    nearest = distances(embeddings).argmin(dim=1)
    return float((target[nearest] == target).float().mean())


def recall_at_1__the_farthest(embeddings, target):
    farthest = distances(embeddings).argmax(dim=1)
    return float((target[farthest] == target).float().mean())


def recall_at_1__largest_inner_product(embeddings, target):
    nearest = (embeddings @ embeddings.T).fill_diagonal_(-float("inf")).argmax(dim=1)
    return float((target[nearest] == target).float().mean())


def recall_at_1__counts_instead_of_a_share(embeddings, target):
    nearest = distances(embeddings).fill_diagonal_(float("inf")).argmin(dim=1)
    return float((target[nearest] == target).float().sum())
