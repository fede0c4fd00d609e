"""Right answers by unusual ways: ``question__way``. Each meets every requirement."""

import math

import torch
from torch.nn import functional as F

from kdcourse.relational import distances


def attention_map__in_float64_by_einsum(features, power=2.0):
    wide = features.double().abs() ** power
    pooled = torch.einsum("nchw->nhw", wide).reshape(len(wide), -1)
    length = pooled.norm(dim=1, keepdim=True)
    return pooled / torch.where(length > 0, length, 1.0)


def attention_map__image_by_image(features, power=2.0):
    rows = []
    for image in features.float():
        total = torch.zeros(image.shape[1:])
        for channel in image:
            total = total + channel.abs().pow(power)
        row = total.flatten() / len(image)
        rows.append(row / row.norm() if bool(row.any()) else 0 * row)
    return torch.stack(rows)


def attention_map__largest_value_first(features, power=2.0):
    wide = features.float().abs()
    wide = wide / wide.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-20)
    pooled = (wide.movedim(1, -1) ** power).sum(-1).flatten(1)
    return torch.nn.functional.normalize(pooled)


def attention_loss__in_float64_by_distances(student_features, teacher_features):
    with torch.no_grad():
        teacher = F.normalize(teacher_features.double().pow(2).sum(1).flatten(1))
    student = F.normalize(student_features.double().pow(2).sum(1).flatten(1))
    return F.pairwise_distance(student, teacher, eps=0.0).sum() / len(student)


def attention_loss__by_inner_products(student_features, teacher_features):
    student, teacher = (
        F.normalize(features.float().square().mean(1).flatten(1))
        for features in (student_features, teacher_features.detach())
    )
    square = 2 - 2 * (student * teacher).sum(dim=1)
    return torch.where(square > 1e-6, square.clamp(min=1e-6).sqrt(), 0.0 * square).mean()


def attention_loss__image_by_image(student_features, teacher_features):
    losses = []
    for pair in zip(student_features, teacher_features.detach(), strict=True):
        student, teacher = (one.float().square().mean(0).view(-1) for one in pair)
        losses.append((student / student.norm() - teacher / teacher.norm()).norm())
    return sum(losses) / len(losses)


def projected_loss__as_a_linear_layer(student_features, teacher_features, weight, bias):
    teacher = teacher_features.detach().double()
    student = F.interpolate(student_features.double(), teacher.shape[-2:], mode="area")
    projection = F.linear(student.permute(0, 2, 3, 1), weight.double(), bias.double())
    return (projection - teacher.permute(0, 2, 3, 1)).pow(2).mean()


def projected_loss__projected_before_it_is_pooled(student_features, teacher_features, weight, bias):
    projection = torch.einsum("dc,nchw->ndhw", weight.float(), student_features.float())
    projection = projection + bias.float().view(1, -1, 1, 1)
    rows, columns = teacher_features.shape[2:]
    blocks = projection.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))
    error = blocks.mean(dim=(3, 5)) - teacher_features.detach().float()
    return error.square().sum() / error.numel()


def projected_loss__as_one_matrix_product(student_features, teacher_features, weight, bias):
    teacher = teacher_features.detach().float()
    step = [a // b for a, b in zip(student_features.shape[2:], teacher.shape[2:], strict=True)]
    pooled = F.avg_pool2d(student_features.float(), step)
    columns = pooled.transpose(0, 1).flatten(1)  # (C, N H' W')
    projection = weight.float() @ columns + bias.float()[:, None]
    return F.mse_loss(projection, teacher.transpose(0, 1).flatten(1))


def rkd_distance_loss__pair_by_pair(student_embeddings, teacher_embeddings):
    samples = len(student_embeddings)
    relative = []
    for z in (student_embeddings.float(), teacher_embeddings.detach().float()):
        lengths = torch.stack([(z[i] - z[j]).norm() for i in range(samples) for j in range(i)])
        relative.append(lengths / lengths.mean())
    return F.huber_loss(*relative)


def rkd_distance_loss__by_pdist_in_float64(student_embeddings, teacher_embeddings):
    student = torch.pdist(student_embeddings.double())
    teacher = torch.pdist(teacher_embeddings.double()).detach()
    apart = (student / student.mean() - teacher / teacher.mean()).abs()
    return torch.where(apart < 1, apart**2 / 2, apart - 0.5).mean()


def rkd_distance_loss__by_a_mask(student_embeddings, teacher_embeddings):
    other = ~torch.eye(len(student_embeddings), dtype=torch.bool)
    student, teacher = distances(student_embeddings)[other], distances(teacher_embeddings)[other]
    return F.smooth_l1_loss(student / student.mean(), (teacher / teacher.mean()).detach())


def rkd_distance_loss__by_cdist(student_embeddings, teacher_embeddings):
    samples = len(student_embeddings)
    both = []
    for z in (student_embeddings, teacher_embeddings.detach()):
        centred = z.double() - z.double().mean(0)
        distance = torch.cdist(centred, centred, compute_mode="donot_use_mm_for_euclid_dist")
        both.append(distance / distance.sum() * samples * (samples - 1))
    return F.smooth_l1_loss(*both) * samples / (samples - 1)


def rkd_angle_loss__vertex_by_vertex(student_embeddings, teacher_embeddings):
    samples = len(student_embeddings)
    total = 0.0
    for vertex in range(samples):
        rest = [i for i in range(samples) if i != vertex]
        cosines = []
        for z in (student_embeddings.float(), teacher_embeddings.detach().float()):
            e = F.normalize(z[rest] - z[vertex], dim=1)
            cosines.append(e @ e.T)
        loss = F.smooth_l1_loss(*cosines, reduction="none")
        total = total + loss.sum() - loss.trace()
    return total / math.perm(samples, 3)


def rkd_angle_loss__by_bmm_in_chunks(student_embeddings, teacher_embeddings):
    samples = len(student_embeddings)
    width = max(student_embeddings.shape[1], teacher_embeddings.shape[1])
    at_once = max(1, samples // 4)
    total = 0.0
    for vertices in torch.arange(samples).split(at_once):
        cosines = []
        for z in (student_embeddings.double(), teacher_embeddings.detach().double()):
            z = F.pad(z, (0, width - z.shape[1]))
            e = F.normalize(z[None] - z[vertices, None], dim=2)
            cosines.append(torch.bmm(e, e.transpose(1, 2)))
        loss = F.smooth_l1_loss(*cosines, reduction="none")
        total = total + loss.sum() - loss.diagonal(dim1=1, dim2=2).sum()
    return total / math.perm(samples, 3)


def rkd_angle_loss__by_inner_products(student_embeddings, teacher_embeddings):
    samples = len(student_embeddings)
    cosines = []
    for z in (student_embeddings.double(), teacher_embeddings.detach().double()):
        z = z - z.mean(dim=0)
        gram = z @ z.T
        norm = gram.diagonal()
        product = gram[None] - gram[:, :, None] - gram[:, None, :] + norm[:, None, None]
        length = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
        inverse = torch.where(length > 0, 1 / length.clamp(min=1e-30), 0.0)
        cosines.append(product * inverse[:, :, None] * inverse[:, None, :])
    index = torch.arange(samples)
    j, i, k = index[:, None, None], index[None, :, None], index[None, None, :]
    return F.smooth_l1_loss(*(one[(i != j) & (k != j) & (i != k)] for one in cosines))


def rkd_angle_loss__by_the_law_of_cosines(student_embeddings, teacher_embeddings):
    samples = len(student_embeddings)
    j, i, k = torch.cartesian_prod(*[torch.arange(samples)] * 3).T
    different = (j != i) & (j != k) & (i != k)
    j, i, k = j[different], i[different], k[different]
    cosines = []
    for z in (student_embeddings, teacher_embeddings.detach()):
        d = distances(z)
        product = 2 * d[i, j] * d[k, j]
        cosines.append((d[i, j] ** 2 + d[k, j] ** 2 - d[i, k] ** 2) / product.clamp(min=1e-12))
    return F.smooth_l1_loss(*cosines)


def recall_at_1__by_topk(embeddings, target):
    apart = torch.cdist(embeddings.double(), embeddings.double())
    apart = apart + torch.diag(torch.full((len(apart),), math.inf, dtype=torch.float64))
    nearest = apart.topk(1, largest=False).indices[:, 0]
    return (target[nearest] == target).double().mean()


def recall_at_1__by_sorting_squares(embeddings, target):
    hits = 0
    for query, place in enumerate(embeddings):
        order = (embeddings - place).square().sum(1).argsort().tolist()
        order.remove(query)
        hits += int(target[order[0]] == target[query])
    return hits / len(target)
