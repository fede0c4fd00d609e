"""Run by test_relational.py under torchrun: the losses see the samples of both processes."""

import os

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from kdcourse import relational

LOSSES = (
    relational.rkd_distance_loss,
    relational.rkd_angle_loss,
    relational.similarity_preserving_loss,
)


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def alone(loss, inputs, taught):
    """Loss and gradients of one process with all samples, without gathering."""
    model, gather = net(), relational.all_samples
    relational.all_samples = lambda embeddings: embeddings
    value = loss(model(inputs), taught)
    relational.all_samples = gather
    value.backward()
    return value, [p.grad for p in model.parameters()]


def compare(loss):
    rank = distributed.get_rank()
    draw = torch.Generator().manual_seed(0)
    inputs, taught = (torch.randn(12, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    mine = slice(6 * rank, 6 * rank + 6)

    model = net()
    parallel = DistributedDataParallel(model)  # averages gradients as long as it lives
    value = loss(parallel(inputs[mine]), taught[mine])
    value.backward()
    expected, gradients = alone(loss, inputs, taught)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    assert gradients[0].abs().max() > 1e-6
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-14)

    with pytest.raises(ValueError, match="equally many samples, got 4, 5"):
        loss(inputs[: 4 + rank], taught[: 4 + rank])


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    for loss in LOSSES:
        compare(loss)
    distributed.barrier()
    distributed.destroy_process_group()
    print("all equal", flush=True)
    os._exit(0)  # gloo's threads may still hold tensors, which can abort an ordinary exit
