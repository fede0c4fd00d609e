"""A first try at everything, without care for teachers, zeros, half precision and diagonals."""

import torch
from torch.nn import functional as F


def attention_map(features, power=2.0):
    maps = (features**power).mean(dim=1)
    maps = maps.view(maps.shape[0], -1)
    return maps / maps.norm(dim=1, keepdim=True)


def attention_loss(student_features, teacher_features):
    student = attention_map(student_features)
    teacher = attention_map(teacher_features)
    return ((student - teacher) ** 2).sum(dim=1).mean()


def projected_loss(student_features, teacher_features, weight, bias):
    if student_features.shape[-2:] != teacher_features.shape[-2:]:
        student_features = F.interpolate(student_features, size=teacher_features.shape[-2:])
    projected = torch.einsum("dc,nchw->ndhw", weight, student_features)
    projected = projected + bias.view(1, -1, 1, 1)
    return F.mse_loss(projected, teacher_features)


def rkd_distance_loss(student_embeddings, teacher_embeddings):
    student = torch.cdist(student_embeddings, student_embeddings)
    teacher = torch.cdist(teacher_embeddings, teacher_embeddings)
    student = student / student.mean()
    teacher = teacher / teacher.mean()
    return F.mse_loss(student, teacher)


def rkd_angle_loss(student_embeddings, teacher_embeddings):
    def angles(z):
        difference = z.unsqueeze(0) - z.unsqueeze(1)
        difference = difference / difference.norm(dim=2, keepdim=True).clamp(min=1e-8)
        return torch.bmm(difference, difference.transpose(1, 2))

    return F.smooth_l1_loss(angles(student_embeddings), angles(teacher_embeddings))


def recall_at_1(embeddings, target):
    nearest = torch.cdist(embeddings, embeddings).argmin(dim=1)
    return (target[nearest] == target).float().mean().item()
