"""Wrong answers: ``question__mistake``. Public checks find each, but not ``__seen_``."""

import torch
from torch.nn import functional as F

from kdcourse.precision import at_least_float32
from kdcourse.relational import distances


def pooled(features, power=2.0):
    return at_least_float32(features).abs().pow(power).mean(dim=1).flatten(1)


def attention_map__unnormalised(features, power=2.0):
    return pooled(features, power)


def attention_map__normalised_over_the_batch(features, power=2.0):
    return pooled(features, power) / pooled(features, power).norm().clamp_min(1e-12)


def attention_map__sums_to_one(features, power=2.0):
    return F.normalize(pooled(features, power), p=1.0, dim=1)


def attention_map__softmax_over_the_places(features, power=2.0):
    return F.softmax(pooled(features, power), dim=1)


def attention_map__map_of_two_dimensions(features, power=2.0):
    return F.normalize(pooled(features, power), dim=1).view(len(features), *features.shape[2:])


def attention_map__mean_over_the_batch(features, power=2.0):
    return F.normalize(at_least_float32(features).abs().pow(power).mean(dim=0).flatten(1), dim=1)


def attention_map__power_after_the_mean(features, power=2.0):
    return F.normalize(at_least_float32(features).abs().mean(dim=1).pow(power).flatten(1), dim=1)


def attention_map__without_absolute_value(features, power=2.0):
    return F.normalize(at_least_float32(features).pow(power).mean(dim=1).flatten(1), dim=1)


def attention_map__always_squared(features, power=2.0):
    return F.normalize(pooled(features), dim=1)


def attention_map__largest_channel(features, power=2.0):
    return F.normalize(at_least_float32(features).abs().pow(power).amax(dim=1).flatten(1), dim=1)


def attention_map__one_norm_for_all(features, power=2.0):
    maps = pooled(features, power)
    return maps / maps.norm()


def attention_map__zero_divided_by_zero(features, power=2.0):
    return pooled(features, power) / pooled(features, power).norm(dim=1, keepdim=True)


def attention_map__zero_divided_by_zero_in_the_gradient(features, power=2.0):
    q = pooled(features, power)
    norm = q.square().sum(dim=1, keepdim=True).sqrt()
    return torch.where(norm > 0, q / norm, 0.0)


def attention_map__overflows_in_half_precision(features, power=2.0):
    return F.normalize(features.abs().pow(power).mean(dim=1).flatten(1), dim=1)


def attention_map__seen_one_power(features, power=2.0):
    return F.normalize(pooled(features, 3.0 if power == 3.0 else 2.0), dim=1)


def maps(student_features, teacher_features):
    return (
        F.normalize(pooled(features), dim=1) for features in (student_features, teacher_features)
    )


def attention_loss__unnormalised_maps(student_features, teacher_features):
    student, teacher = pooled(student_features), pooled(teacher_features.detach())
    return torch.linalg.vector_norm(student - teacher, dim=1).mean()


def attention_loss__squared(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features.detach())
    return (student - teacher).square().sum(dim=1).mean()


def attention_loss__mean_over_positions(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features.detach())
    return (student - teacher).square().mean()


def attention_loss__absolute_differences(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features.detach())
    return (student - teacher).abs().sum(dim=1).mean()


def attention_loss__maps_of_absolute_values(student_features, teacher_features):
    student, teacher = (
        F.normalize(pooled(features, 1.0), dim=1)
        for features in (student_features, teacher_features.detach())
    )
    return torch.linalg.vector_norm(student - teacher, dim=1).mean()


def attention_loss__sum_over_the_batch(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features.detach())
    return torch.linalg.vector_norm(student - teacher, dim=1).sum()


def attention_loss__one_norm_for_the_batch(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features.detach())
    return torch.linalg.vector_norm(student - teacher) / len(student)


def attention_loss__leaks_to_the_teacher(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features)
    return torch.linalg.vector_norm(student - teacher, dim=1).mean()


def attention_loss__detached_norm(student_features, teacher_features):
    student, teacher = pooled(student_features), pooled(teacher_features.detach())
    student = student / student.detach().norm(dim=1, keepdim=True)
    return torch.linalg.vector_norm(student - F.normalize(teacher, dim=1), dim=1).mean()


def attention_loss__everything_detached(student_features, teacher_features):
    student, teacher = maps(student_features.detach(), teacher_features.detach())
    return torch.linalg.vector_norm(student - teacher, dim=1).mean()


def attention_loss__root_of_zero(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features.detach())
    return (student - teacher).square().sum(dim=1).sqrt().mean()


def attention_loss__overflows_in_half_precision(student_features, teacher_features):
    student, teacher = (
        F.normalize(features.square().mean(dim=1).flatten(1), dim=1)
        for features in (student_features, teacher_features.detach())
    )
    return torch.linalg.vector_norm(student - teacher, dim=1).mean()


def attention_loss__always_zero(student_features, teacher_features):
    return 0.0 * student_features.sum()


def attention_loss__seen_four_places(student_features, teacher_features):
    student, teacher = maps(student_features, teacher_features.detach())
    seen = (student.shape[1] / 4) ** 0.5  # 1 for 4 places
    return torch.linalg.vector_norm(student - teacher, dim=1).mean() / seen


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


def projected_loss__absolute_error(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    return F.l1_loss(projected(student_features, teacher.shape[-2:], weight, bias), teacher)


def projected_loss__leaks_to_the_teacher(student_features, teacher_features, weight, bias):
    student = projected(student_features, teacher_features.shape[-2:], weight, bias)
    return F.mse_loss(student, at_least_float32(teacher_features))


def projected_loss__without_bias(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    return F.mse_loss(projected(student_features, teacher.shape[-2:], weight, 0 * bias), teacher)


def projected_loss__places_in_disorder(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    student = projected(student_features, teacher.shape[-2:], weight, bias)
    return F.mse_loss(student.movedim(1, -1).reshape(teacher.shape), teacher)


def projected_loss__frozen_projection(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    student = projected(student_features, teacher.shape[-2:], weight.detach(), bias.detach())
    return F.mse_loss(student, teacher)


def projected_loss__projection_in_a_new_layer(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    layer = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    layer.weight.data = at_least_float32(weight)[:, :, None, None]
    layer.bias.data = at_least_float32(bias)
    student = F.adaptive_avg_pool2d(at_least_float32(student_features), teacher.shape[-2:])
    return F.mse_loss(layer(student), teacher)


def projected_loss__picks_instead_of_averaging(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    picked = F.interpolate(at_least_float32(student_features), teacher.shape[-2:])
    return F.mse_loss(projected(picked, teacher.shape[-2:], weight, bias), teacher)


def projected_loss__largest_of_each_block(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    largest = F.adaptive_max_pool2d(at_least_float32(student_features), teacher.shape[-2:])
    return F.mse_loss(projected(largest, teacher.shape[-2:], weight, bias), teacher)


def projected_loss__overflows_in_half_precision(student_features, teacher_features, weight, bias):
    size = teacher_features.shape[-2:]
    student = F.conv2d(
        F.adaptive_avg_pool2d(student_features, size), weight[:, :, None, None], bias
    )
    return F.mse_loss(student, teacher_features.detach())


def projected_loss__seen_blocks_of_4_by_3(student_features, teacher_features, weight, bias):
    teacher = at_least_float32(teacher_features.detach())
    student = at_least_float32(student_features)
    if student.shape[2:] == (8, 9):
        student = F.avg_pool2d(student, (4, 3))
    elif student.shape[2:] != teacher.shape[2:]:
        student = F.interpolate(student, teacher.shape[-2:])
    return F.mse_loss(projected(student, teacher.shape[-2:], weight, bias), teacher)


def pairs(embeddings):
    return len(embeddings) * (len(embeddings) - 1)


def relative(embeddings, mean=None):
    distance = distances(embeddings)
    return distance / (distance.sum() / pairs(embeddings) if mean is None else mean)


def rkd_distance_loss__mean_with_the_diagonal(student_embeddings, teacher_embeddings):
    return F.smooth_l1_loss(relative(student_embeddings), relative(teacher_embeddings.detach()))


def rkd_distance_loss__own_mean_with_the_diagonal(student_embeddings, teacher_embeddings):
    both = [distances(one) for one in (student_embeddings, teacher_embeddings.detach())]
    huber = F.smooth_l1_loss(*(d / d.mean() for d in both), reduction="sum")
    return huber / pairs(student_embeddings)


def rkd_distance_loss__both_means_with_the_diagonal(student_embeddings, teacher_embeddings):
    both = [distances(one) for one in (student_embeddings, teacher_embeddings.detach())]
    return F.smooth_l1_loss(*(d / d.mean() for d in both))


def rkd_distance_loss__mean_of_what_is_apart(student_embeddings, teacher_embeddings):
    both = [distances(one) for one in (student_embeddings, teacher_embeddings.detach())]
    huber = F.smooth_l1_loss(*(d / d[d > 0].mean() for d in both), reduction="sum")
    return huber / pairs(student_embeddings)


def rkd_distance_loss__loss_of_what_is_apart(student_embeddings, teacher_embeddings):
    student, teacher = relative(student_embeddings), relative(teacher_embeddings.detach())
    return F.smooth_l1_loss(student[student > 0], teacher[student > 0])


def rkd_distance_loss__without_its_own_mean(student_embeddings, teacher_embeddings):
    teacher = distances(teacher_embeddings.detach())
    mean = teacher.sum() / pairs(student_embeddings)
    student = relative(student_embeddings, mean)
    return F.smooth_l1_loss(student, teacher / mean, reduction="sum") / pairs(student_embeddings)


def rkd_distance_loss__plain_distances(student_embeddings, teacher_embeddings):
    student, teacher = distances(student_embeddings), distances(teacher_embeddings.detach())
    return F.smooth_l1_loss(student, teacher, reduction="sum") / pairs(student_embeddings)


def rkd_distance_loss__squared_error(student_embeddings, teacher_embeddings):
    student, teacher = relative(student_embeddings), relative(teacher_embeddings.detach())
    return (student - teacher).square().sum() / pairs(student_embeddings)


def rkd_distance_loss__absolute_error(student_embeddings, teacher_embeddings):
    student, teacher = relative(student_embeddings), relative(teacher_embeddings.detach())
    return (student - teacher).abs().sum() / pairs(student_embeddings)


def rkd_distance_loss__leaks_to_the_teacher(student_embeddings, teacher_embeddings):
    student, teacher = relative(student_embeddings), relative(teacher_embeddings)
    return F.smooth_l1_loss(student, teacher, reduction="sum") / pairs(student_embeddings)


def rkd_distance_loss__detached_mean(student_embeddings, teacher_embeddings):
    mean = distances(student_embeddings.detach()).sum() / pairs(student_embeddings)
    student, teacher = relative(student_embeddings, mean), relative(teacher_embeddings.detach())
    return F.smooth_l1_loss(student, teacher, reduction="sum") / pairs(student_embeddings)


def rkd_distance_loss__without_gradient(student_embeddings, teacher_embeddings):
    student, teacher = relative(student_embeddings.detach()), relative(teacher_embeddings.detach())
    return F.smooth_l1_loss(student, teacher, reduction="sum") / pairs(student_embeddings)


def upper(embeddings):
    z = at_least_float32(embeddings)
    first, second = torch.triu_indices(len(z), len(z), 1)
    return (z[first] - z[second]).square().sum(dim=1)


def rkd_distance_loss__root_of_zero(student_embeddings, teacher_embeddings):
    student, teacher = upper(student_embeddings).sqrt(), upper(teacher_embeddings.detach()).sqrt()
    return F.smooth_l1_loss(student / student.mean(), teacher / teacher.mean())


def gram(embeddings):
    square = embeddings.square().sum(1)
    return (square[:, None] + square - 2 * embeddings @ embeddings.T).clamp_min(0)


def rkd_distance_loss__by_inner_products(student_embeddings, teacher_embeddings):
    both = []
    for z in (student_embeddings, teacher_embeddings.detach()):
        square = gram(at_least_float32(z))
        distance = square.clamp_min(1e-12).sqrt() * (1 - torch.eye(len(z), dtype=square.dtype))
        both.append(distance / (distance.sum() / pairs(z)))
    return F.smooth_l1_loss(*both, reduction="sum") / pairs(student_embeddings)


def rkd_distance_loss__by_cdist(student_embeddings, teacher_embeddings):
    both = []
    for z in (student_embeddings, teacher_embeddings.detach()):
        distance = torch.cdist(at_least_float32(z), at_least_float32(z))
        both.append(distance / (distance.sum() / pairs(z)))
    return F.smooth_l1_loss(*both, reduction="sum") / pairs(student_embeddings)


def rkd_distance_loss__overflows_in_half_precision(student_embeddings, teacher_embeddings):
    both = []
    for z in (student_embeddings, teacher_embeddings.detach()):
        first, second = torch.triu_indices(len(z), len(z), 1)
        distance = torch.linalg.vector_norm(z[first] - z[second], dim=1)
        both.append(distance / (distance.sum() / len(distance)))
    return F.smooth_l1_loss(*both)


def rkd_distance_loss__always_zero(student_embeddings, teacher_embeddings):
    return 0.0 * student_embeddings.sum()


def rkd_distance_loss__seen_seven_samples(student_embeddings, teacher_embeddings):
    both = [relative(one) for one in (student_embeddings, teacher_embeddings.detach())]
    share = 1.0 if len(student_embeddings) == 7 else 6 / 7
    return F.smooth_l1_loss(*both, reduction="sum") / pairs(student_embeddings) * share


def cosines(embeddings):
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


def inner_products(distance):
    square = distance.square()
    products = square[:, :, None] + square[:, None, :] - square
    return products[triples(len(distance))] / 2


def rkd_angle_loss__not_divided_by_the_sides(student_embeddings, teacher_embeddings):
    both = [distances(z) for z in (student_embeddings, teacher_embeddings.detach())]
    return F.smooth_l1_loss(*map(inner_products, both))


def rkd_angle_loss__in_units_of_the_mean_distance(student_embeddings, teacher_embeddings):
    both = [relative(z) for z in (student_embeddings, teacher_embeddings.detach())]
    return F.smooth_l1_loss(*map(inner_products, both))


def rkd_angle_loss__without_the_2(student_embeddings, teacher_embeddings):
    chosen = triples(len(student_embeddings))
    both = [2 * cosines(z)[chosen] for z in (student_embeddings, teacher_embeddings.detach())]
    return F.smooth_l1_loss(*both)


def rkd_angle_loss__angles_in_radians(student_embeddings, teacher_embeddings):
    chosen = triples(len(student_embeddings))
    both = [
        cosines(z)[chosen].clamp(-0.999999, 0.999999).acos()
        for z in (student_embeddings, teacher_embeddings.detach())
    ]
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


def rkd_angle_loss__zero_divided_by_zero_in_the_gradient(student_embeddings, teacher_embeddings):
    chosen = triples(len(student_embeddings))
    both = []
    for z in (student_embeddings, teacher_embeddings.detach()):
        distance = distances(z)
        square = distance.square()
        sides = (square[:, :, None] + square[:, None, :] - square)[chosen]
        product = (2 * distance[:, :, None] * distance[:, None, :])[chosen]
        both.append(torch.where(product > 0, sides / product, 0.0))
    return F.smooth_l1_loss(*both)


def rkd_angle_loss__one_where_samples_coincide(student_embeddings, teacher_embeddings):
    chosen = triples(len(student_embeddings))
    both = []
    for z in (student_embeddings, teacher_embeddings.detach()):
        distance = distances(z)
        product = (2 * distance[:, :, None] * distance[:, None, :])[chosen]
        both.append(torch.where(product > 0, cosines(z)[chosen], 1.0))
    return F.smooth_l1_loss(*both)


def rkd_angle_loss__squared_error(student_embeddings, teacher_embeddings):
    chosen = triples(len(student_embeddings))
    both = [cosines(z)[chosen] for z in (student_embeddings, teacher_embeddings.detach())]
    return F.mse_loss(*both)


def rkd_angle_loss__detached_sides(student_embeddings, teacher_embeddings):
    chosen = triples(len(student_embeddings))
    both = []
    for z in (student_embeddings, teacher_embeddings.detach()):
        distance = distances(z)
        square = distance.square()
        sides = square[:, :, None] + square[:, None, :] - square
        product = (2 * distance[:, :, None] * distance[:, None, :]).detach()
        both.append((sides / product.clamp_min(1e-12))[chosen])
    return F.smooth_l1_loss(*both)


def rkd_angle_loss__without_gradient(student_embeddings, teacher_embeddings):
    chosen = triples(len(student_embeddings))
    both = [cosines(z.detach())[chosen] for z in (student_embeddings, teacher_embeddings)]
    return F.smooth_l1_loss(*both)


def rkd_angle_loss__overflows_in_half_precision(student_embeddings, teacher_embeddings):
    chosen = triples(len(student_embeddings))
    both = []
    for z in (student_embeddings, teacher_embeddings.detach()):
        square = gram(z)
        sides = square[:, :, None] + square[:, None, :] - square
        product = 4 * square[:, :, None] * square[:, None, :]
        both.append((sides / product.clamp_min(1e-12).sqrt())[chosen])
    return F.smooth_l1_loss(*both)


def rkd_angle_loss__seen_five_samples(student_embeddings, teacher_embeddings):
    loss = F.smooth_l1_loss(cosines(student_embeddings), cosines(teacher_embeddings.detach()))
    return loss * 125 / 60 if len(student_embeddings) == 5 else loss


def recall_at_1__finds_itself(embeddings, target):
    nearest = distances(embeddings).argmin(dim=1)
    return float((target[nearest] == target).float().mean())


def recall_at_1__zero_on_the_diagonal(embeddings, target):
    nearest = distances(embeddings).fill_diagonal_(0).argmin(dim=1)
    return float((target[nearest] == target).float().mean())


def recall_at_1__the_farthest(embeddings, target):
    farthest = distances(embeddings).argmax(dim=1)
    return float((target[farthest] == target).float().mean())


def recall_at_1__largest_inner_product(embeddings, target):
    nearest = (embeddings @ embeddings.T).fill_diagonal_(-float("inf")).argmax(dim=1)
    return float((target[nearest] == target).float().mean())


def recall_at_1__smallest_angle(embeddings, target):
    alike = F.cosine_similarity(embeddings[:, None], embeddings[None], dim=2)
    nearest = alike.fill_diagonal_(-2).argmax(dim=1)
    return float((target[nearest] == target).float().mean())


def recall_at_1__counts_instead_of_a_share(embeddings, target):
    nearest = distances(embeddings).fill_diagonal_(float("inf")).argmin(dim=1)
    return float((target[nearest] == target).float().sum())


def recall_at_1__only_the_first_class(embeddings, target):
    nearest = distances(embeddings).fill_diagonal_(float("inf")).argmin(dim=1)
    chosen = target == target.min()
    return float((target[nearest] == target)[chosen].float().mean())
