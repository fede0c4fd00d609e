"""Run by test_relational.py under torchrun: the losses see the samples of both processes."""

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from kdcourse import relational

torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank, world = distributed.get_rank(), distributed.get_world_size()
draw = torch.Generator().manual_seed(0)
inputs, taught = (torch.randn(12, 6, generator=draw, dtype=torch.float64) for _ in range(2))
mine = slice(6 * rank, 6 * rank + 6)

for loss in (
    relational.rkd_distance_loss,
    relational.rkd_angle_loss,
    relational.similarity_preserving_loss,
):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    parallel = DistributedDataParallel(net)
    value = loss(parallel(inputs[mine]), taught[mine])
    value.backward()
    found = [p.grad.clone() for p in net.parameters()]

    # One process with all samples: the definition itself, without gathering.
    torch.manual_seed(1)
    alone = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    gather, relational.all_samples = relational.all_samples, lambda embeddings: embeddings
    expected = loss(alone(inputs), taught)
    relational.all_samples = gather
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    assert alone[0].weight.grad.abs().max() > 1e-6
    for ours, parameter in zip(found, alone.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-9, atol=1e-14)

    with pytest.raises(ValueError, match="equally many samples, got 4, 5"):
        loss(inputs[: 4 + rank], taught[: 4 + rank])

print("all equal", flush=True)
distributed.destroy_process_group()
